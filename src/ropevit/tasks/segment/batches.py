"""Batches to train on, of images with labels of their pixels: read, augmented, and padded to one size."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ropevit.data.ade import IGNORED, AdeSource
from ropevit.data.loading import Failure, batches
from ropevit.data.order import SampledIndex, TrainOrder
from ropevit.tasks.common.batches import read_train_batch, train_keys
from ropevit.tasks.segment.augment import CropConfig, Sample, TrainTransform


class Batch(NamedTuple):
    """Crops to train on."""

    images: UInt8[Tensor, "b 3 H W"]
    """Not normalised, at the top left; zeros, or `pad`, around them."""
    labels: list[UInt8[Tensor, "_ _"]]
    """Class of each pixel of the padded crops; IGNORED where there is none."""
    sizes: list[tuple[int, int]]
    """Height and width of each image in pixels, padding not counted."""
    bad: list[int]
    """Indices of images that could not be read; `source.describe` names them."""
    pad: int | None
    """Byte around the images instead of zeros, which counts as a pixel; None lets padding be the mean."""
    objects: int | None = None
    """Masks of all parts of the training step, in this process; None where that is not counted."""


@dataclass(frozen=True)
class TrainReader:
    """Reads a training batch; in the form in which DataLoader asks a data set for one."""

    source: AdeSource
    config: CropConfig

    def __getitems__(self, draws: list[SampledIndex]) -> Batch | Failure:
        """Read a batch, or say why there is none; a picture that cannot be read is replaced by the next one."""
        return read_train_batch(self.source, draws, TrainTransform(self.config), self.collate)

    def collate(self, samples: list[Sample], bad: list[int]) -> Batch:
        """Pad crops at the bottom and right: images with zeros or what the config says, labels with IGNORED."""
        side, pad = self.config.crop, self.config.pad
        images = torch.full((len(samples), 3, side, side), pad or 0, dtype=torch.uint8)
        labels = torch.full((len(samples), side, side), IGNORED, dtype=torch.uint8)
        for canvas, truth, (image, given) in zip(images, labels, samples, strict=True):
            height, width = given.shape
            canvas[:, :height, :width], truth[:height, :width] = image, given
        return Batch(images, list(labels), [(given.shape[0], given.shape[1]) for _, given in samples], bad, pad)


def train_batches(
    source: AdeSource, config: CropConfig, order: TrainOrder, first_step: int, last_step: int, workers: int
) -> Iterator[Batch]:
    """Read the batches of a training, or of a part of it, as `ropevit.data.loading.train_batches` does.

    Args:
        source: Training images.
        config: How they are augmented.
        order: Which images each step takes.
        first_step: First step, from 0.
        last_step: The step after the last.
        workers: Processes that read; 0 reads in this one.

    Raises:
        ValueError: If ten images in a row cannot be read, or one has a label of no class.
    """
    return batches(TrainReader(source, config), train_keys(order, first_step, last_step), workers)


def normalise(batch: Batch, mean: Float[Tensor, "3 1 1"], std: Float[Tensor, "3 1 1"]) -> Float[Tensor, "b 3 H W"]:
    """Bring bytes to the device of mean and spread: mean at 0, spread at 1, zeros in padding unless it has a value."""
    images = (batch.images.to(mean.device, non_blocking=True).float() / 255 - mean) / std
    if batch.pad is not None:
        return images
    for image, (height, width) in zip(images, batch.sizes, strict=True):
        image[:, height:], image[:, :, width:] = 0.0, 0.0
    return images


def count_masks(batch: Batch) -> int:
    """Count the classes of each image, each of which is a mask."""
    return sum(int((labels.unique() != IGNORED).sum()) for labels in batch.labels)
