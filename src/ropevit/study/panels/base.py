"""Base class of the panels of a study: interface, model, and batches of an evaluation."""

from collections.abc import Callable, Iterator
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from ropevit.data.labeled import LabeledImages
from ropevit.models.position_options import split_options, with_options
from ropevit.models.vit import ViT, ViTConfig
from ropevit.study.settings import PanelSettings
from ropevit.tasks.evaluation.inference_modes import InferenceMode

#: Tokens in one forward pass of an evaluation.
_TOKENS_PER_BATCH = 8192

CheckStop = Callable[[], None]
Transform = Callable[[Tensor], Tensor]


class MajorityScore(NamedTuple):
    """Score of a prediction that ignores the image, in percent."""

    score: float
    error: float
    """Standard error over the test images."""


@runtime_checkable
class Panel(Protocol):
    """A task of the study: its data, model, loss and metric."""

    name: ClassVar[str]
    title: ClassVar[str]
    """Description of a larger image of this panel, in a few words."""
    metric: ClassVar[str]
    majority_name: ClassVar[str]
    """The prediction of a model that learned nothing."""
    baselines: ClassVar[tuple[InferenceMode, ...]]
    """Ways to predict a larger image without a position embedding for it; the first is the one to beat."""
    settings: PanelSettings
    labels: tuple[str, ...]
    """Names of the classes of images, or of the labels of pixels."""
    classes: tuple[str, ...] | None
    """Names of the model's outputs, where each is one class."""

    def __init__(self, settings: PanelSettings, train: LabeledImages, test: LabeledImages) -> None: ...

    def model_config(self, position: str) -> ViTConfig:
        """Return the config of the model with a position embedding."""
        ...

    def batch(self, seed: int, step: int, size: int | None = None) -> tuple[Tensor, Tensor]:
        """Return the images and targets of a training step, of the training size or another one.

        They depend only on the panel, the seed, the step and the size.
        """
        ...

    def loss(self, model: ViT, images: Tensor, targets: Tensor) -> Tensor:
        """Return the training loss of a batch."""
        ...

    def score(self, model: ViT, size: int, check: CheckStop, mode: InferenceMode = "whole") -> float:
        """Evaluate the model on the test images of a size, in percent; `check` is called between batches."""
        ...

    def counts(self, model: ViT, size: int, check: CheckStop, mode: InferenceMode = "whole") -> Tensor:
        """Return counts of each test image of a size, (n, ...), such as confusion matrices; `score_of` takes sums."""
        ...

    def score_of(self, counts: Tensor) -> Tensor:
        """Compute scores (M,) in percent from counts added up over images, (M, ...)."""
        ...

    def majority_score(self, size: int) -> MajorityScore:
        """Return the score of a model that learned nothing."""
        ...


def vit_config(settings: PanelSettings, position: str, channels: int, outputs: int) -> ViTConfig:
    """Return the config of a study's small ViT: average pooling, no class token, no LayerScale.

    `position` may have options, as in `rope_axial:theta=10`.
    """
    position, options = split_options(position)
    config = ViTConfig(
        position=position,
        width=settings.width,
        depth=settings.depth,
        heads=settings.heads,
        patch_size=settings.patch_size,
        img_size=(settings.train_size, settings.train_size),
        in_channels=channels,
        num_classes=outputs,
        pooling="avg",
        class_token=False,
        layer_scale=None,
        ape_std=settings.ape_std,
    )
    return with_options(config, options)


def batches(count: int, size: int, patch: int) -> Iterator[slice]:
    """Split `count` images into batches with about the same number of tokens for any image size."""
    step = max(1, _TOKENS_PER_BATCH // (size // patch) ** 2)
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))
