"""Settings of one panel (model, training, images), and the presets of `ropevit study`."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from ropevit.data.canvas import CanvasSettings
from ropevit.data.crops import CropSettings
from ropevit.models.sizes import check_sizes

#: Fields of a study's config and of its settings -> their names in files, where they differ.
STORED_NAMES = {"rope_types": "families", "distribution": "law", "max_rotation": "turn"}


@dataclass(frozen=True, kw_only=True)
class PanelSettings:
    """Model, training and data settings of a panel."""

    patch_size: int = 4
    """Side of a patch in pixels."""
    width: int = 64
    """Channels of a token."""
    depth: int = 4
    """Number of blocks."""
    heads: int = 2
    """Number of heads."""
    train_size: int = 28
    """Side of the training images in pixels."""
    test_sizes: tuple[int, ...] = (20, 28, 40, 56)
    """Sides of the test images in pixels."""
    steps: int = 500
    """Training steps."""
    batch_size: int = 128
    """Images in a step."""
    lr: float = 2e-3
    """Learning rate after warm-up (AdamW), with cosine decay to 0."""
    weight_decay: float = 0.05
    """Weight decay of the matrices."""
    warmup: float = 0.1
    """Fraction of the steps for linear warm-up of the learning rate."""
    clip: float = 1.0
    """Maximum gradient norm (clipping)."""
    ape_std: float = 0.3
    """Standard deviation of the initial absolute embedding."""
    start: Literal["fan_in", "deit"] = "fan_in"
    """Initialization of linear layers: standard deviation 1 / sqrt(inputs), or DeiT's 0.02, meant for wide models."""
    crop: CropSettings = field(default_factory=CropSettings)
    """Distribution of the training crops of `zoom`."""
    canvas: CanvasSettings = field(default_factory=CanvasSettings)
    """Distribution of the items on canvases of `field` and `far`."""
    test_images: int = 2000
    """Test images of `zoom`; a fixed random subset if there are more."""
    test_canvases: int = 200
    """Test canvases of `field` and `far` at each size."""

    def __post_init__(self) -> None:
        least = {"patch_size": 1, "width": 1, "depth": 1, "heads": 1, "steps": 1, "batch_size": 1}
        least |= {"test_images": 1, "test_canvases": 1}
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise ValueError(f"got {name}={getattr(self, name)}; expected at least {minimum}")
        if self.lr <= 0 or self.clip <= 0 or self.ape_std < 0 or self.weight_decay < 0:
            raise ValueError(
                f"got lr={self.lr}, clip={self.clip}, ape_std={self.ape_std}, weight_decay={self.weight_decay}; "
                "expected lr and clip above 0, the others not below 0"
            )
        if self.start not in ("fan_in", "deit"):
            raise ValueError(f"got start={self.start!r}; choose fan_in or deit")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"got warmup={self.warmup}; expected a fraction of the steps from 0 to below 1")
        self.check_sizes()

    def check_sizes(self) -> None:
        """Raise ValueError, naming the nearest valid sizes, unless the patches tile all sizes."""
        check_sizes("training", (self.train_size,), self.patch_size)
        check_sizes("test", self.test_sizes, self.patch_size)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings for JSON."""
        return as_json({name: _stored(value) for name, value in asdict(self).items()})


def _stored(value: object) -> Any:
    """Rename the fields of a group of settings to their names in files."""
    return {STORED_NAMES.get(name, name): each for name, each in value.items()} if isinstance(value, dict) else value


def as_json(value: object) -> Any:
    """Replace tuples by lists, as JSON returns them."""
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    return [as_json(item) for item in value] if isinstance(value, tuple | list) else value


#: The embedded images; chosen on held-out training images, see docs/study.md.
FASHION = {
    "field": PanelSettings(
        train_size=32,
        test_sizes=(16, 24, 32, 48, 64, 96),
        steps=1400,
        batch_size=16,
        ape_std=0.02,
        canvas=CanvasSettings(item_size=20, jitter=1.1, max_rotation=0.0, density=0.5, noise=0.05),
    ),
    "zoom": PanelSettings(
        train_size=28,
        test_sizes=(16, 20, 28, 32, 40, 48, 56),
        steps=450,
        batch_size=128,
        ape_std=1.0,
        crop=CropSettings(distribution="log"),
    ),
}

#: The embedded images within a minute: small batches make the most of few images.
_FASHION_QUICK = {
    "field": replace(FASHION["field"], steps=250, test_sizes=(16, 32, 64), test_canvases=50),
    "zoom": replace(FASHION["zoom"], steps=150, batch_size=32, test_sizes=(16, 28, 56), test_images=500),
}

#: Whole images, pasted as squares of five patches per side.
_PASTED = replace(FASHION["field"].canvas, item_size=40, cutout=False)

#: A user's own images: as many tokens as with the embedded ones, from patches twice as large.
_FOLDER = {
    "field": replace(
        FASHION["field"], patch_size=8, train_size=64, test_sizes=(32, 48, 64, 96, 128, 192), canvas=_PASTED
    ),
    "zoom": replace(FASHION["zoom"], patch_size=8, train_size=64, test_sizes=(32, 48, 64, 80, 96, 112, 128)),
}

_FOLDER_QUICK = {
    "field": replace(_FOLDER["field"], steps=250, test_sizes=(32, 64, 128), test_canvases=50),
    "zoom": replace(_FOLDER["zoom"], steps=150, batch_size=32, test_sizes=(32, 64, 128), test_images=500),
}


_EMOJI_CANVAS = CanvasSettings(item_size=20, jitter=1.1, max_rotation=0.0, density=0.5, noise=0.05)
#: The embedded drawings; chosen on the drawings of one of the artists for training, see docs/study.md.
EMOJI = {
    "field": PanelSettings(
        train_size=32,
        test_sizes=(16, 32, 64, 96, 128),
        steps=1400,
        batch_size=16,
        ape_std=0.02,
        canvas=_EMOJI_CANVAS,
    ),
    "zoom": PanelSettings(
        train_size=32,
        test_sizes=(16, 32, 48, 64, 96, 128),
        steps=450,
        batch_size=64,
        ape_std=0.02,
        crop=CropSettings(smallest=0.25, distribution="log"),
    ),
    "far": PanelSettings(
        train_size=48,
        test_sizes=(48, 96, 144, 192),
        steps=1000,
        batch_size=16,
        ape_std=0.02,
        canvas=replace(_EMOJI_CANVAS, item_size=16, density=0.3),
    ),
}

_EMOJI_QUICK = {
    "field": replace(EMOJI["field"], steps=250, test_sizes=(16, 32, 64), test_canvases=50),
    "zoom": replace(EMOJI["zoom"], steps=150, batch_size=32, test_sizes=(16, 32, 64)),
    "far": replace(EMOJI["far"], steps=250, test_sizes=(48, 96), test_canvases=50),
}

#: Presets of the embedded images: full, quick.
_EMBEDDED = {"fashion": (FASHION, _FASHION_QUICK), "emoji": (EMOJI, _EMOJI_QUICK)}
#: Names of the embedded images.
EMBEDDED = tuple(_EMBEDDED)


def preset(data: str, panel: str, quick: bool = False) -> PanelSettings:
    """Return the preset of a panel.

    Args:
        data: `fashion` or `emoji`, the embedded images, or the path of a user's own.
        panel: Name of the panel.
        quick: Whether the study takes a minute instead of five.

    Raises:
        ValueError: If there is no such panel with these images.
    """
    table = _EMBEDDED.get(data, (_FOLDER, _FOLDER_QUICK))[quick]
    if panel not in table:
        raise ValueError(f"got panel {panel!r} with data {data!r}; choose one of {', '.join(table)}")
    return table[panel]


def panels_of(data: str) -> tuple[str, ...]:
    """Return the panels that a study of some images has."""
    return tuple(_EMBEDDED.get(data, (_FOLDER,))[0])
