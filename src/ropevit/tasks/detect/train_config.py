"""Config of a detector's training; every field is an option of `ropevit train`."""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from ropevit.tasks.detect.augment import ScaleConfig
from ropevit.tasks.detect.model import DetectorConfig
from ropevit.tasks.training.config import BaseTrainConfig, OptimConfig, RunConfig

#: Options have no prefix, except those of `dino` (--dino.width), as the backbone also has a width.
_WITHOUT_PREFIX = tyro.conf.arg(name="")


@dataclass(frozen=True, kw_only=True)
class DetectTrainConfig(BaseTrainConfig):
    """A training of a detector.

    Raises:
        ValueError: If a field is out of range.
    """

    recipe: Annotated[str, tyro.conf.Fixed]
    """Name of the recipe."""
    data: str = "coco"
    """Directory with train2017, val2017 and annotations."""
    batch_size: int = 16
    """Images per step, over all processes and gradient accumulation steps."""
    keep_empty: bool = False
    """Also train on images without boxes."""
    max_detections: int = 300
    """Maximum number of detections per image in evaluation."""
    freeze_backbone: bool = False
    """Freeze the ViT or Swin of the backbone: it stays in eval mode and gets no gradients. The head, and what makes
    feature maps of the backbone's output, such as a ViT's pyramid, still learn."""
    model: Annotated[DetectorConfig, _WITHOUT_PREFIX] = field(default_factory=DetectorConfig)
    scale: Annotated[ScaleConfig, _WITHOUT_PREFIX] = field(default_factory=ScaleConfig)
    optim: Annotated[OptimConfig, _WITHOUT_PREFIX] = field(default_factory=OptimConfig)
    run: Annotated[RunConfig, _WITHOUT_PREFIX] = field(default_factory=RunConfig)

    def __post_init__(self):
        if self.batch_size < 1 or self.max_detections < 1:
            raise ValueError(
                f"got batch_size={self.batch_size}, max_detections={self.max_detections}; expected 1 or more"
            )
        if self.run.fsdp:
            raise ValueError("got fsdp=True; detectors do not support FSDP: leave it out")
