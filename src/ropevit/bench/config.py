"""What a benchmark is asked to do; every field is an option of `ropevit bench`."""

from dataclasses import dataclass
from pathlib import Path

from ropevit.bench.peers import GROUPS
from ropevit.bench.shapes import SHAPES

LEVELS = ("op", "layer", "model")
DTYPES = ("float32", "bfloat16")

#: Shapes that are timed where none are named, by kind of device.
DEFAULT_SHAPES = {"cpu": ("vit224", "swin1"), "cuda": tuple(SHAPES)}


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """What to time, where and how often."""

    device: str = "auto"
    """auto, cpu or cuda."""
    dtype: str = "float32"
    """float32 or bfloat16; a whole model in bfloat16 is under autocast, as it is trained."""
    threads: int | None = None
    """Threads on a CPU; None takes PyTorch's choice. With one, time is the thread's own, less disturbed."""
    shapes: tuple[str, ...] = ()
    """Layers of op and layer: vit224 vit512 vit1024 vits224 reg4 swin1 swin2 swin3 swin4 hd128, with
    commas or spaces between; none named: vit224 swin1 on a CPU, all on a GPU."""
    peers: tuple[str, ...] = GROUPS[1:]
    """Whose code is timed: ours, timm, transformers, plain (complex numbers and half-split, written from the maths)."""
    images: int | None = None
    """Images in a batch; None takes 256 (fewer of large images) on a GPU, 8 on a CPU."""
    rounds: int = 15
    """Rounds in which every candidate is timed once; figures are medians of them."""
    compile: bool = False
    """Time every candidate under torch.compile, too."""
    quick: bool = False
    """A taste in well under a minute: two images, three rounds, one shape, a ViT of two layers."""
    out: Path = Path("runs/bench")
    """Directory for bench.csv, bench.md and bench.png."""
    overwrite: bool = False
    """Replace the results that are there."""

    def __post_init__(self) -> None:
        for name, allowed in (("shapes", tuple(SHAPES)), ("peers", GROUPS[1:])):
            given = tuple(word for text in getattr(self, name) for word in text.split(",") if word)
            check_names(name.removesuffix("s"), given, allowed)
            object.__setattr__(self, name, given)
        if self.dtype not in DTYPES:
            raise ValueError(f"got dtype {self.dtype!r}; choose one of {', '.join(DTYPES)}")
        for name in ("threads", "images", "rounds"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"got {name}={value}; expected at least 1")

    def chosen_shapes(self, device: str) -> tuple[str, ...]:
        """Name the shapes to time on a kind of device (cpu, cuda)."""
        return self.shapes or (
            DEFAULT_SHAPES["cpu"][:1] if self.quick else DEFAULT_SHAPES.get(device, DEFAULT_SHAPES["cpu"])
        )

    def chosen_images(self) -> int | None:
        """Tell the images of a batch, or None for the usual number."""
        return self.images or (2 if self.quick else None)

    def chosen_rounds(self) -> int:
        """Tell the number of rounds."""
        return min(self.rounds, 3) if self.quick else self.rounds


def check_names(what: str, given: tuple[str, ...], allowed: tuple[str, ...]) -> None:
    """Refuse unknown names and repetitions."""
    unknown = [name for name in given if name not in allowed]
    if unknown:
        raise ValueError(f"no {what} named {unknown[0]!r}; choose from {', '.join(allowed)}")
    if len(set(given)) < len(given):
        raise ValueError(f"got {what}s {', '.join(given)}; name each once")


def check_level(level: str) -> tuple[str, ...]:
    """Turn a level, or "all", into the levels to time.

    Raises:
        ValueError: If there is no such level.
    """
    if level not in (*LEVELS, "all"):
        raise ValueError(f"no level named {level!r}; choose from {', '.join(LEVELS)}, all")
    return LEVELS if level == "all" else (level,)
