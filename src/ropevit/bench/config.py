"""Settings of a benchmark; every field is an option of `ropevit bench`."""

from dataclasses import dataclass
from pathlib import Path

from ropevit.bench.peers import GROUPS
from ropevit.bench.shapes import SHAPES

_LEVELS = ("op", "layer", "attention", "model")
_MORE_LEVELS = ("scale",)
_DTYPES = ("float32", "bfloat16")

#: Default shapes by device type.
_DEFAULT_SHAPES = {"cpu": ("vit224", "swin1"), "cuda": tuple(SHAPES)}


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Settings of a benchmark: shapes, libraries, device and rounds."""

    device: str = "auto"
    """auto, cpu or cuda."""
    dtype: str = "float32"
    """float32 or bfloat16; whole models run bfloat16 under autocast, as in training."""
    threads: int | None = None
    """CPU threads; None takes PyTorch's default. With one, thread time is measured, which varies less."""
    shapes: tuple[str, ...] = ()
    """Shapes of the levels op, layer and attention: vit224 vit512 vit1024 vits224 reg4 swin1 swin2 swin3 swin4 hd128,
    separated by commas or spaces; default: vit224 swin1 on a CPU, all on a GPU."""
    peers: tuple[str, ...] = GROUPS[1:]
    """Implementations to time: ours, timm, transformers, plain (textbook complex-number and half-split versions)."""
    images: int | None = None
    """Batch size in images; None takes 256 (fewer for large images) on a GPU, 8 on a CPU."""
    rounds: int = 15
    """Rounds in which every candidate is timed once; results are medians over them."""
    compile: bool = False
    """Also time every candidate under torch.compile."""
    quick: bool = False
    """Quick run of well under a minute: two images, three rounds, one shape, a ViT of two layers."""
    out: Path = Path("runs/bench")
    """Output directory for bench.csv, bench.md and bench.png."""
    overwrite: bool = False
    """Replace existing results."""

    def __post_init__(self) -> None:
        for name, allowed in (("shapes", tuple(SHAPES)), ("peers", GROUPS[1:])):
            given = tuple(word for text in getattr(self, name) for word in text.split(",") if word)
            _check_names(name.removesuffix("s"), given, allowed)
            object.__setattr__(self, name, given)
        if self.dtype not in _DTYPES:
            raise ValueError(f"got dtype {self.dtype!r}; choose one of {', '.join(_DTYPES)}")
        for name in ("threads", "images", "rounds"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"got {name}={value}; expected at least 1")

    def chosen_shapes(self, device: str) -> tuple[str, ...]:
        """Return the names of the shapes to time on a device type (cpu, cuda)."""
        return self.shapes or (
            _DEFAULT_SHAPES["cpu"][:1] if self.quick else _DEFAULT_SHAPES.get(device, _DEFAULT_SHAPES["cpu"])
        )

    def chosen_images(self) -> int | None:
        """Return the batch size in images, or None for the default."""
        return self.images or (2 if self.quick else None)

    def chosen_rounds(self) -> int:
        """Return the number of rounds."""
        return min(self.rounds, 3) if self.quick else self.rounds


def _check_names(what: str, given: tuple[str, ...], allowed: tuple[str, ...]) -> None:
    """Raise ValueError if a name is unknown or repeated."""
    unknown = [name for name in given if name not in allowed]
    if unknown:
        raise ValueError(f"no {what} named {unknown[0]!r}; choose from {', '.join(allowed)}")
    if len(set(given)) < len(given):
        raise ValueError(f"got {what}s {', '.join(given)}; name each once")


def check_level(level: str) -> tuple[str, ...]:
    """Return the levels to time for a level, or for "all", which leaves out scale: it takes many minutes on a CPU.

    Raises:
        ValueError: If there is no such level.
    """
    known = *_LEVELS, *_MORE_LEVELS, "all"
    if level not in known:
        raise ValueError(f"no level named {level!r}; choose from {', '.join(known)}")
    return _LEVELS if level == "all" else (level,)
