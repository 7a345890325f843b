"""Configuration of a classification training; every field is an option of `ropevit train`."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import tyro

from ropevit.data.augment import AugmentConfig
from ropevit.models.architectures import Config
from ropevit.models.registry import get_config, model_name, nearest_name
from ropevit.models.sizes import check_sizes
from ropevit.tasks.training.config import BaseTrainConfig, OptimConfig, PositionName, RunConfig


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """Model, its size and its initial weights."""

    model: str = "deit_small"
    """deit_tiny, deit_small, deit_base, deit_large, swin_tiny, swin_small or swin_base; or a name of `ropevit models`,
    which gives --position, too."""
    position: PositionName = "rope_mixed"
    scaling: str | None = None
    """RoPE scaling methods used in training, such as normalize+jitter(rescale=2); see docs/scaling.md."""
    size: int = 224
    """Side of the training images in pixels."""
    drop_path: float = 0.0
    """Stochastic depth (drop path) rate."""
    width: int | None = None
    """Embedding dimension; --width, --depth, --heads and --patch-size replace those of --model."""
    depth: int | None = None
    """Number of blocks."""
    heads: int | None = None
    """Number of heads."""
    patch_size: int | None = None
    """Side of a patch in pixels."""
    init: Annotated[str | None, tyro.conf.arg(name="init-from")] = None
    """Initial weights for fine-tuning: a file, the name of a published model, or a hub id."""

    def build(self, num_classes: int) -> Config:
        """Return the config of the model.

        Raises:
            ValueError: If there is no such model, or the fields are inconsistent.
        """
        return get_config(self.like, num_classes=num_classes, **self.fields)

    @property
    def fields(self) -> dict[str, Any]:
        """Return the fields that replace those of the named model's config."""
        names = ("width", "depth", "heads", "patch_size")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        given |= {"img_size": self.size, "drop_path": self.drop_path, "scaling": self.scaling}
        return {"position": self.position, **given}

    @property
    def name(self) -> str:
        """Name of the model, as in the registry if it is listed there."""
        return model_name(self.model, self.position)

    @property
    def like(self) -> str:
        """Name of the registry's model whose fields `fields` replaces."""
        return nearest_name(self.model, self.position)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(BaseTrainConfig):
    """A classification training."""

    recipe: Annotated[str, tyro.conf.Fixed]
    """Name of the recipe."""
    data: str = "imagenet"
    """`fashion` or `emoji`, the embedded images; a folder with `train/<class>/` and `val/<class>/`; or
    WebDataset shards."""
    batch_size: int = 1024
    """Images per step, over all processes and gradient accumulation steps."""
    train_sizes: tuple[int, ...] | None = None
    """Sides of training images in pixels: one of them is drawn for each step, to which its images are reduced from the
    largest. --size stays the size of the model and of its evaluation. None: all images have --size."""
    loss: Literal["binary", "soft"] = "soft"
    """binary: binary cross-entropy, where every class in a mixed image has target 1. soft: cross-entropy with soft
    labels."""
    freeze_backbone: bool = False
    """Train the head alone, on frozen features; needs --init-from. The backbone runs without stochastic depth."""
    crop_pct: float = 0.875
    """Crop ratio of evaluation: the image size over the shorter side to which images are resized."""
    model: ClassifierConfig = field(default_factory=ClassifierConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self):
        if not 0 < self.crop_pct <= 1:
            raise ValueError(f"got crop_pct={self.crop_pct}; expected above 0, up to 1")
        mixed = self.augment.mixup > 0 or self.augment.cutmix > 0
        if self.batch_size < 1 or (mixed and self.batch_size % 2):
            expected = "2 or more, even, as images are mixed in pairs" if mixed else "1 or more"
            raise ValueError(f"got batch_size={self.batch_size}; expected {expected}")
        if self.loss == "binary" and self.augment.label_smoothing:
            raise ValueError(
                f"got label_smoothing={self.augment.label_smoothing} with loss='binary', where any nonzero target "
                "becomes 1; use label_smoothing=0, or loss='soft'"
            )
        if self.freeze_backbone and self.model.init is None:
            raise ValueError(
                "got freeze_backbone=True without initial weights, which leaves random features; add --init-from"
            )
        body = self.model.build(num_classes=2)
        if self.train_sizes is not None:
            check_train_sizes(self.train_sizes, body.multiple)

    @property
    def initial_model(self) -> ClassifierConfig:
        """Model that is trained; frozen features have no stochastic depth."""
        return replace(self.model, drop_path=0.0) if self.freeze_backbone else self.model

    @property
    def largest_size(self) -> int:
        """Side in pixels of the images that are read for training."""
        return max(self.train_sizes or (self.model.size,))


def check_train_sizes(sizes: tuple[int, ...], multiple: int) -> None:
    """Raise ValueError unless there are several sizes, ascending, that patches tile.

    Args:
        sizes: Sides in pixels.
        multiple: Number of pixels of which they must be multiples.
    """
    if len(sizes) == 1:
        raise ValueError(
            f"got train_sizes {sizes}; expected several, of which each step draws one: for one size, give --size "
            f"{sizes[0]}"
        )
    check_sizes("train", sizes, multiple)
