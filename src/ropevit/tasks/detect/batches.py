"""Batches of images with boxes: reading, augmentation, and padding to the largest image of the batch."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from ropevit.arithmetic import ceil_div
from ropevit.data.coco import Boxes, CocoSource
from ropevit.data.loading import EvalReader, TrainReader, batches, eval_keys, train_keys
from ropevit.data.order import TrainOrder
from ropevit.device import to_device
from ropevit.extras import require
from ropevit.tasks.detect.augment import Transform
from ropevit.tasks.detect.boxes import Target, make_target
from ropevit.tasks.detect.levels import padding_mask
from ropevit.tasks.detect.model import MULTIPLE


class Batch(NamedTuple):
    """Padded images of several sizes with their objects."""

    images: UInt8[Tensor, "b 3 H W"]
    """Pixels from 0 to 255, each image at the top left, padded with zeros."""
    sizes: list[tuple[int, int]]
    """Height and width of each image in pixels, without padding."""
    targets: list[Target]
    """Objects of each image."""
    originals: list[tuple[int, int]]
    """Height and width of each image before resizing."""
    ids: list[int]
    """Id of each image in the annotation file."""
    unreadable: list[int]
    """Indices of unreadable images, which are skipped; `source.describe` names them."""
    objects: int | None = None
    """Number of objects in all micro-batches of the step in this process; None in evaluation."""


class Sample(NamedTuple):
    """An image with its objects."""

    image: UInt8[Tensor, "3 h w"]
    target: Target
    original: tuple[int, int]
    image_id: int


def train_reader(source: CocoSource, transform: Transform) -> TrainReader[Batch]:
    """Return a reader of training batches."""
    return TrainReader(source, partial(prepare, transform=transform, classes=len(source.classes)), collate)


def eval_reader(source: CocoSource, transform: Transform) -> EvalReader[Batch]:
    """Return a reader of evaluation batches."""
    return EvalReader(source, partial(prepare, transform=transform, classes=len(source.classes)), collate)


def train_batches(
    source: CocoSource, transform: Transform, order: TrainOrder, first_step: int, last_step: int, workers: int
) -> Iterator[Batch]:
    """Iterate over the batches of training steps, as `ropevit.data.loading.train_batches` does.

    Args:
        source: Training images.
        transform: Augmentation of a sample.
        order: Images of each step.
        first_step: First step, from 0.
        last_step: Step after the last one.
        workers: Number of worker processes; 0 reads in this process.

    Raises:
        ValueError: If ten images in a row cannot be read.
    """
    return batches(train_reader(source, transform), train_keys(order, first_step, last_step), workers)


def eval_batches(
    source: CocoSource, transform: Transform, batch_size: int, workers: int, world: int = 1, rank: int = 0
) -> Iterator[Batch]:
    """Read every image once, over all processes together.

    Args:
        source: Evaluation images.
        transform: Transform of a sample, such as `eval_transform`.
        batch_size: Images per batch and process; the last batch may have fewer.
        workers: Number of worker processes; 0 reads in this process.
        world: Number of processes that evaluate.
        rank: Rank of this process: it takes image `rank` and every `world`-th after it.
    """
    return batches(eval_reader(source, transform), eval_keys(len(source), batch_size, world, rank), workers)


def prepare(image: Image.Image, truth: Boxes, transform: Transform, classes: int) -> Sample:
    """Convert an image and its boxes to a training or evaluation sample."""
    vision, functional = (
        require(f"torchvision.{name}", "train") for name in ("tv_tensors", "transforms.v2.functional")
    )
    size = image.height, image.width
    boxes = vision.BoundingBoxes(torch.from_numpy(truth.boxes.copy()), format="XYXY", canvas_size=size)
    target = {"boxes": boxes, "labels": torch.from_numpy(truth.labels.copy())}
    image, target = transform(image, target)
    pixels = functional.pil_to_tensor(image)
    height, width = pixels.shape[1:]
    corners = target["boxes"].as_subclass(Tensor)
    return Sample(pixels, make_target(target["labels"], corners, (height, width), classes), size, truth.image_id)


def normalize(batch: Batch, mean: Float[Tensor, "3 1 1"], std: Float[Tensor, "3 1 1"]) -> Float[Tensor, "b 3 H W"]:
    """Move images to the device of `mean` and normalize them, with zeros in the padding.

    Args:
        batch: Padded images.
        mean: Mean of each channel, for pixels from 0 to 1.
        std: Standard deviation of each channel.
    """
    images = (to_device(batch.images, mean.device).float() / 255 - mean) / std
    padding = to_device(padding_mask(batch.sizes, *batch.images.shape[2:]), mean.device)
    return images.masked_fill(padding[:, None], 0.0)


def collate(samples: Sequence[Sample], unreadable: list[int]) -> Batch:
    """Stack samples, padded to the largest height and width, rounded up to multiples of 32 pixels."""
    sizes = [(sample.image.shape[1], sample.image.shape[2]) for sample in samples]
    height, width = (ceil_div(max((size[axis] for size in sizes), default=0), MULTIPLE) * MULTIPLE for axis in (0, 1))
    images = torch.zeros(len(samples), 3, height, width, dtype=torch.uint8)
    for canvas, (h, w), sample in zip(images, sizes, samples, strict=True):
        canvas[:, :h, :w] = sample.image
    targets = [sample.target for sample in samples]
    return Batch(images, sizes, targets, [s.original for s in samples], [s.image_id for s in samples], unreadable)
