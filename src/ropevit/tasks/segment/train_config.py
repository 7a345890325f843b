"""Configuration of a segmenter's training; every field is an option of `ropevit train`."""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from ropevit.tasks.segment.augment import CropConfig
from ropevit.tasks.segment.inference import InferenceConfig
from ropevit.tasks.segment.model import SegmenterConfig
from ropevit.tasks.training.config import BaseTrainConfig, OptimConfig, RunConfig

#: Options have no prefix, except those of the heads and of `inference` (--upernet.channels).
_WITHOUT_PREFIX = tyro.conf.arg(name="")


@dataclass(frozen=True, kw_only=True)
class SegmentTrainConfig(BaseTrainConfig):
    """Options of the training of a segmenter.

    Raises:
        ValueError: If a field is out of range.
    """

    recipe: Annotated[str, tyro.conf.Fixed]
    """Name of the recipe."""
    data: str = "ADEChallengeData2016"
    """Directory with images and annotations, each with training and validation; classes.txt in it names the classes."""
    batch_size: int = 16
    """Crops per step, over all processes and gradient accumulation steps."""
    freeze_backbone: bool = False
    """Freeze the ViT or Swin of the backbone: it stays in eval mode and gets no gradients. The head, and what makes
    feature maps of the backbone's output, such as a ViT's pyramid, still learn."""
    model: Annotated[SegmenterConfig, _WITHOUT_PREFIX] = field(default_factory=SegmenterConfig)
    augment: Annotated[CropConfig, _WITHOUT_PREFIX] = field(default_factory=CropConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    optim: Annotated[OptimConfig, _WITHOUT_PREFIX] = field(default_factory=OptimConfig)
    run: Annotated[RunConfig, _WITHOUT_PREFIX] = field(default_factory=RunConfig)

    def __post_init__(self):
        least = 2 if self.model.head == "upernet" else 1
        if self.batch_size < least:
            why = "; the batch norms of UperNet need 2 images in each micro-batch" if least == 2 else ""
            raise ValueError(f"got batch_size={self.batch_size}; expected at least {least}{why}")
        if self.run.fsdp:
            raise ValueError("got fsdp=True; segmenters are not sharded: leave it out")
