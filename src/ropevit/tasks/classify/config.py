"""Everything about a training of a classifier; every field is an option of `ropevit train`."""

from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal

import tyro

from ropevit.data.augment import AugmentConfig
from ropevit.models.architectures import Config
from ropevit.models.registry import get_config, model_name, nearest_name
from ropevit.tasks.common.config import OptimConfig, PositionName, RunConfig


@dataclass(frozen=True, kw_only=True)
class ClassifyModel:
    """Which model is trained."""

    model: str = "deit_small"
    """deit_tiny, deit_small, deit_base, deit_large, swin_tiny, swin_small or swin_base."""
    position: PositionName = "rope_mixed"
    scaling: str | None = None
    """Rules for positions that stay on in training, such as normalise+jitter(rescale=2); see docs/scaling.md."""
    size: int = 224
    """Side of the training images in pixels."""
    drop_path: float = 0.0
    """Rate of stochastic depth."""
    width: int | None = None
    """Channels of a token; this and the next three replace those of the named model."""
    depth: int | None = None
    """Number of blocks."""
    heads: int | None = None
    """Number of heads."""
    patch_size: int | None = None
    """Side of a patch in pixels."""
    init: str | None = None
    """Weights to start from (a file or a published name), such as those of the pre-training."""

    def build(self, num_classes: int) -> Config:
        """Give the config of the model.

        Raises:
            ValueError: If there is no such model, or the fields do not fit together.
        """
        return get_config(self.like, num_classes=num_classes, **self.fields)

    @property
    def fields(self) -> dict[str, Any]:
        """Give the fields of the model's config that differ from the named model's."""
        names = ("width", "depth", "heads", "patch_size")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        given |= {"img_size": self.size, "drop_path": self.drop_path, "scaling": self.scaling}
        return {"position": self.position, **given}

    @property
    def name(self) -> str:
        """The model's name, in the registry where it has one there."""
        return model_name(self.model, self.position)

    @property
    def like(self) -> str:
        """Name of the registry's model that `fields` make it of."""
        return nearest_name(self.model, self.position)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A whole training of a classifier."""

    recipe: Annotated[str, tyro.conf.Fixed]
    """Name of the recipe that this started from."""
    data: str = "imagenet"
    """`fashion`, the embedded images; a folder with train/<class>/* and val/<class>/*; or WebDataset shards."""
    batch_size: int = 1024
    """Images of a step, over all processes and parts."""
    loss: Literal["binary", "soft"] = "soft"
    """Binary cross-entropy on targets that are 1 wherever a mixed image shows a class, or cross-entropy."""
    eval_crop: float = 0.875
    """Part of the image's shorter side that evaluation looks at."""
    model: ClassifyModel = field(default_factory=ClassifyModel)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self):
        if not 0 < self.eval_crop <= 1:
            raise ValueError(f"got eval_crop={self.eval_crop}; expected above 0, up to 1")
        mixed = self.augment.mixup > 0 or self.augment.cutmix > 0
        if self.batch_size < 1 or (mixed and self.batch_size % 2):
            expected = "2 or more, even, as images are mixed in pairs" if mixed else "1 or more"
            raise ValueError(f"got batch_size={self.batch_size}; expected {expected}")
        if self.loss == "binary" and self.augment.label_smoothing:
            raise ValueError(
                f"got label_smoothing={self.augment.label_smoothing} with loss='binary', where any share of a class "
                "counts in full; take label_smoothing=0, or loss='soft'"
            )
        self.model.build(num_classes=2)

    def to_dict(self) -> dict[str, Any]:
        """Write the config as JSON can hold it."""
        plain = asdict(self)
        plain["run"]["out"] = str(self.run.out)
        return plain

    def with_run(self, **changes: Any) -> "TrainConfig":
        """Replace fields of `run`."""
        return replace(self, run=replace(self.run, **changes))
