"""Training batches of images with pixel labels: read, augmented, and padded to one size."""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ropevit.data.ade import IGNORED, AdeSource
from ropevit.data.loading import TrainReader, batches, train_keys
from ropevit.data.order import TrainOrder
from ropevit.device import to_device
from ropevit.tasks.segment.augment import CropConfig, Sample, TrainTransform
from ropevit.tasks.segment.base import present_classes


class Batch(NamedTuple):
    """Padded crops with their labels."""

    images: UInt8[Tensor, "b 3 H W"]
    """Not normalized, at the top left, with zeros or `pad` in the padding."""
    labels: list[UInt8[Tensor, "_ _"]]
    """Class of each pixel of the padded crops; IGNORED for none."""
    sizes: list[tuple[int, int]]
    """Height and width of each image in pixels, without padding."""
    unreadable: list[int]
    """Indices of skipped images; `source.describe` names them."""
    pad: int | None
    """Pixel value of the padding, which is normalized; None makes the padding 0 after normalization."""
    objects: int | None = None
    """Number of masks in all micro-batches of the step, in this process; None if they are not counted."""


def train_reader(source: AdeSource, config: CropConfig) -> TrainReader[Batch]:
    """Return a reader of training batches."""
    return TrainReader(source, TrainTransform(config), partial(collate, side=config.crop_size, pad=config.pad_value))


def collate(samples: list[Sample], unreadable: list[int], side: int, pad: int | None) -> Batch:
    """Pad crops at the bottom and right to squares: images with zeros, or `pad`, and labels with IGNORED."""
    images = torch.full((len(samples), 3, side, side), pad or 0, dtype=torch.uint8)
    labels = torch.full((len(samples), side, side), IGNORED, dtype=torch.uint8)
    for canvas, truth, (image, given) in zip(images, labels, samples, strict=True):
        height, width = given.shape
        canvas[:, :height, :width], truth[:height, :width] = image, given
    return Batch(images, list(labels), [(given.shape[0], given.shape[1]) for _, given in samples], unreadable, pad)


def train_batches(
    source: AdeSource, config: CropConfig, order: TrainOrder, first_step: int, last_step: int, workers: int
) -> Iterator[Batch]:
    """Iterate over the batches of training steps, as `ropevit.data.loading.train_batches` does.

    Args:
        source: Training images.
        config: Augmentation.
        order: Images of each step.
        first_step: First step, from 0.
        last_step: Step after the last one.
        workers: Number of worker processes; 0 reads in this process.

    Raises:
        ValueError: If ten images in a row cannot be read, or a label is not a class.
    """
    return batches(train_reader(source, config), train_keys(order, first_step, last_step), workers)


def normalize(batch: Batch, mean: Float[Tensor, "3 1 1"], std: Float[Tensor, "3 1 1"]) -> Float[Tensor, "b 3 H W"]:
    """Move images to the device of `mean` and normalize them, with zeros in the padding unless it has a pixel value."""
    images = (to_device(batch.images, mean.device).float() / 255 - mean) / std
    if batch.pad is not None:
        return images
    for image, (height, width) in zip(images, batch.sizes, strict=True):
        image[:, height:], image[:, :, width:] = 0.0, 0.0
    return images


def count_masks(batch: Batch) -> int:
    """Count the masks of a batch: one for each class in each image."""
    return sum(len(present_classes(labels)) for labels in batch.labels)
