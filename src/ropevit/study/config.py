"""Configuration of a study; every field is an option of `ropevit study`."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from ropevit.data.sources import NAMED_SOURCES
from ropevit.models.position_options import split_options
from ropevit.models.positions import (
    VIT_EMBEDDINGS,
    PositionEmbedding,
    describe_positions,
    is_position_embedding,
)
from ropevit.models.sizes import check_sizes
from ropevit.models.vit import ViTConfig
from ropevit.rope import ROPE_TYPES
from ropevit.rope.scaling import CoordinateJitter, parse_scaling
from ropevit.study.events import Run
from ropevit.study.panels import vit_config
from ropevit.study.precision import PRECISIONS
from ropevit.study.settings import STORED_NAMES, PanelSettings, as_json, panels_of, preset
from ropevit.tasks.evaluation.tuned_scaling import AUTO
from ropevit.text import suggest

#: Names of position embeddings in help texts and messages.
_NAMES = describe_positions({"ViT": VIT_EMBEDDINGS})


def unpublished_types() -> tuple[str, ...]:
    """Return the rope types without published weights, which `rope_types` adds."""
    return tuple(name for name, rope_type in ROPE_TYPES.items() if not rope_type.published)


#: Help texts of `embeddings` and `rope_types`, from the registries.
_EMBEDDINGS_HELP = (
    f"Position embeddings to compare: {_NAMES}; rope_axial:theta=10 has another base of the frequencies, "
    "rope_axial:rest=0.25 a quarter of its pairs not rotated."
)
_ROPE_TYPES_HELP = (
    f"Rope types without published weights, added to --embeddings: all, or some of {', '.join(unpublished_types())}."
)

#: Options that change how a study is run, not what comes out; a study may be resumed with others.
EXECUTION_FIELDS = ("out", "resume", "workers")


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """Settings of a study that compares position embeddings on one data set at several resolutions."""

    data: str = "fashion"
    """`fashion` (photographs of clothing) or `emoji` (drawings with more detail), the embedded images; a folder:
    PATH/train/<class>/* and PATH/val/<class>/*, or PATH/<class>/*; or a name that a plug-in registers."""
    panels: tuple[str, ...] = ("auto",)
    """Tasks: `field` (larger field of view: more scene at the same scale), `zoom` (higher resolution: the same scene
    with more pixels) and, with the emoji, `far` (the cue for a label is further away). auto: all that the images
    allow."""
    embeddings: Annotated[tuple[str, ...], tyro.conf.arg(help=_EMBEDDINGS_HELP)] = ("ape", "rope_axial", "rope_mixed")
    """Position embeddings by name."""
    rope_types: Annotated[tuple[str, ...] | None, tyro.conf.arg(help=_ROPE_TYPES_HELP)] = None
    """Further rope types to compare, or all of them."""
    scaling: tuple[str, ...] | None = None
    """RoPE scaling methods, such as pi, ntk or yarn+log; every model with RoPE is also evaluated with each. auto: one
    chosen for each model and size on training images that are held out for this purpose."""
    train_scaling: tuple[str, ...] | None = None
    """RoPE scaling in training, with jitter, such as jitter(rescale=2) or normalize+jitter(rescale=2); every model with
    RoPE is also trained with each."""
    train_sizes: tuple[int, ...] | None = None
    """Sides of training images in pixels; every model is also trained with one of them drawn for each step."""
    seeds: int = 1
    """Runs of each embedding, with different initial weights and data order; 3 or more show the spread."""
    quick: bool = False
    """Quick run of a minute instead of five: fewer steps and test sizes."""
    out: Path = Path("runs/study")
    """Output directory."""
    resume: bool = False
    """Resume the study in the output directory; seeds, test sizes and scaling methods may be added. Models that are
    trained already are only evaluated where that is new."""
    device: str = "auto"
    """auto (an available accelerator, else the CPU), cpu, cuda, cuda:N, mps or xpu."""
    precision: str = "auto"
    """float32, bfloat16 (mixed precision), or auto: bfloat16 where the device has matrix units for it."""
    workers: int | None = None
    """Parallel runs on a CPU; None means one per core. On a GPU runs are sequential."""
    max_images: int | None = None
    """Maximum number of images taken from the folder, balanced between classes."""
    train_size: int | None = None
    """Side of the training images in pixels; this and the options below replace the preset of every panel."""
    test_sizes: tuple[int, ...] | None = None
    """Sides of the test images in pixels, from small to large."""
    patch_size: int | None = None
    """Side of a patch in pixels; all sizes are multiples of it."""
    width: int | None = None
    """Channels of a token."""
    depth: int | None = None
    """Number of blocks."""
    heads: int | None = None
    """Number of heads."""
    steps: int | None = None
    """Training steps."""
    batch_size: int | None = None
    """Images in a step."""
    lr: float | None = None
    """Learning rate."""
    weight_decay: float | None = None
    """Weight decay of the matrices."""
    ape_std: float | None = None
    """Standard deviation with which absolute embeddings are initialized."""

    def __post_init__(self) -> None:
        if self.panels == ("auto",):
            object.__setattr__(self, "panels", panels_of(self.data))
        _check_choices("panel", self.panels, panels_of(self.data))
        _check_rope_types(self.rope_types)
        optioned = (name for name in self.all_embeddings if ":" in name and split_options(name)[0] in VIT_EMBEDDINGS)
        _check_choices("embedding", self.all_embeddings, (*VIT_EMBEDDINGS, *optioned), _NAMES)
        _check_scaling(self.scaling or ())
        _check_train_scaling(self.train_scaling or (), self.all_embeddings)
        if self.precision not in PRECISIONS:
            raise ValueError(f"got precision {self.precision!r}; choose one of {', '.join(PRECISIONS)}")
        for name in ("seeds", "workers", "max_images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"got {name}={value}; expected at least 1")
        if self.max_images is not None and self.data in NAMED_SOURCES:
            raise ValueError(f"got max_images with {self.data}; it is for a folder of your own: give --data PATH")
        for panel in self.panels:
            settings = self.settings(panel)
            if self.train_sizes is not None:
                check_sizes("train", self.train_sizes, settings.patch_size)
            for embedding in self.all_embeddings:
                check_model(settings, embedding)

    @property
    def all_embeddings(self) -> tuple[str, ...]:
        """Position embeddings to train, those of `rope_types` last."""
        added = unpublished_types() if self.rope_types == ("all",) else self.rope_types or ()
        return (*self.embeddings, *(f"rope_{name}" for name in added))

    def settings(self, panel: str) -> PanelSettings:
        """Return the settings of a panel: its preset, with the fields that this config overrides.

        Raises:
            ValueError: If they contradict each other, such as sizes that the patches do not tile.
        """
        chosen = preset(self.data, panel, self.quick)
        names = (
            "train_size", "test_sizes", "patch_size", "width", "depth", "heads",
            "steps", "batch_size", "lr", "weight_decay", "ape_std",
        )  # fmt: skip
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if "train_size" in given and "test_sizes" not in given:
            given["test_sizes"] = _scaled_sizes(chosen, given["train_size"], given.get("patch_size", chosen.patch_size))
        return replace(chosen, **given)

    def runs(self) -> list[Run]:
        """Return every run; all embeddings of a seed come before the next seed."""
        return [
            Run(panel=panel, embedding=embedding, seed=seed, **special)
            for seed in range(self.seeds)
            for panel in self.panels
            for embedding in self.all_embeddings
            for special in self._trainings(embedding)
        ]

    def _trainings(self, embedding: str) -> list[dict[str, Any]]:
        """Return the fields of `Run` for each training recipe of a position embedding, the plain one first."""
        scaling = self.train_scaling or () if components(embedding).rope else ()
        sizes = [{"train_sizes": self.train_sizes}] if self.train_sizes else []
        return [{}, *({"train_scaling": one} for one in scaling), *sizes]

    def image_size(self) -> int:
        """Return the largest side in pixels at which any panel needs an image."""
        sizes = []
        for panel in self.panels:
            settings = self.settings(panel)
            items = round(settings.canvas.item_size * settings.canvas.jitter)
            sizes.append(max(settings.train_size, *settings.test_sizes) if panel == "zoom" else items)
        return max(sizes)

    def to_dict(self) -> dict[str, Any]:
        """Return the config for JSON, with the full settings of each panel under `settings`."""
        settings = {panel: self.settings(panel).to_dict() for panel in self.panels}
        fields = {STORED_NAMES.get(name, name): value for name, value in asdict(self).items()}
        return as_json(fields) | {"out": str(self.out), "settings": settings}


def components(embedding: str) -> PositionEmbedding:
    """Return the components of a position embedding of a study, such as `rope_axial:theta=10`."""
    return VIT_EMBEDDINGS[split_options(embedding)[0]]


def _check_rope_types(names: tuple[str, ...] | None) -> None:
    """Raise ValueError for an empty list, unknown or repeated rope types, and for names of position embeddings."""
    misplaced = [name for name in names or () if is_position_embedding(name)]
    if misplaced:
        raise ValueError(f"got rope type {misplaced[0]}, which is a position embedding; give it with --embeddings")
    if len(names or ()) > 1 and "all" in (names or ()):
        raise ValueError(f"got rope types {', '.join(names or ())}; all has the others: give it alone")
    if names is not None:
        _check_choices("rope type", names, ("all", *unpublished_types()))


def _check_choices(what: str, given: tuple[str, ...], allowed: tuple[str, ...], listed: str | None = None) -> None:
    """Raise ValueError for an empty list, unknown or repeated names; `listed` describes the allowed ones."""
    unknown = [name for name in given if name not in allowed]
    choice = f"choose from {listed or ', '.join(allowed)}"
    if not given:
        raise ValueError(f"got {what} list empty; {choice}")
    if unknown:
        raise ValueError(f"got {what} {unknown[0]}; {suggest(unknown[0], allowed, choice)}")
    if len(set(given)) < len(given):
        raise ValueError(f"got {what}s {', '.join(given)}; name each once")


def _check_scaling(methods: tuple[str, ...]) -> None:
    """Raise ValueError for unknown or repeated scaling methods, and for jitter, which has no effect in evaluation."""
    if methods.count(AUTO) > 1:
        raise ValueError(f"got scaling methods {', '.join(methods)}; name each once")
    methods = tuple(method for method in methods if method != AUTO)
    _check_unique(methods)
    for method in methods:
        if _uses_jitter(method):
            raise ValueError(f"got scaling {method!r}; jitter is for training: give it with --train-scaling")


def _check_train_scaling(methods: tuple[str, ...], embeddings: tuple[str, ...]) -> None:
    """Raise ValueError for repeated scaling methods, and for those without jitter, which do not change training."""
    _check_unique(methods)
    for method in methods:
        parts = parse_scaling(method, (1, 1)).methods
        if not any(isinstance(part, CoordinateJitter) and not part.is_identity for part in parts):
            raise ValueError(
                f"got train_scaling {method!r}; without jitter it changes nothing at the training size: "
                "add +jitter(rescale=2), or evaluate with --scaling"
            )
    if methods and not any(components(name).rope for name in embeddings):
        raise ValueError(
            f"got train_scaling {methods[0]!r} with {', '.join(embeddings)}; none of them has RoPE: add one that has"
        )


def _check_unique(methods: tuple[str, ...]) -> None:
    """Raise ValueError for equal scaling methods, also if spelled differently: jitter is jitter( rescale=2 ).

    Raises:
        ValueError: If two are equal, or one is unknown.
    """
    if len({parse_scaling(method, (1, 1)).methods for method in methods}) < len(methods):
        raise ValueError(f"got scaling methods {', '.join(methods)}; name each once")


def _uses_jitter(scaling: str) -> bool:
    """Return whether a RoPE scaling contains jitter.

    Raises:
        ValueError: If it is unknown.
    """
    return any(isinstance(part, CoordinateJitter) for part in parse_scaling(scaling, (1, 1)).methods)


def check_model(settings: PanelSettings, embedding: str) -> ViTConfig:
    """Return the config of a model; raise ValueError if width, heads and embedding do not match."""
    return vit_config(settings, embedding, channels=3, outputs=2)


def _scaled_sizes(settings: PanelSettings, train_size: int, patch: int) -> tuple[int, ...]:
    """Scale a preset's test sizes with the training size, rounded to whole patches."""
    scale = train_size / settings.train_size / patch
    return tuple(sorted({train_size, *(max(1, round(size * scale)) * patch for size in settings.test_sizes)}))
