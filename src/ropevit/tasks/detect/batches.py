"""Batches of images with boxes: read, augmented, and padded to the largest of the batch."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ropevit.data.coco import Boxes, CocoSource
from ropevit.data.loading import Failure, batches
from ropevit.data.order import SampledIndex, TrainOrder
from ropevit.extras import require
from ropevit.kernels.windows import ceil_div
from ropevit.tasks.common.batches import Prepare, eval_keys, read_eval_batch, read_train_batch, train_keys
from ropevit.tasks.detect.augment import Transform
from ropevit.tasks.detect.boxes import Target, make_target
from ropevit.tasks.detect.levels import padding_mask
from ropevit.tasks.detect.model import MULTIPLE


class Batch(NamedTuple):
    """Images of several sizes with their objects."""

    images: UInt8[Tensor, "b 3 H W"]
    """Not normalised, at the top left; zeros around them."""
    sizes: list[tuple[int, int]]
    """Height and width of each in pixels, padding not counted."""
    targets: list[Target]
    """Objects of each."""
    originals: list[tuple[int, int]]
    """Height and width of each before it was resized."""
    ids: list[int]
    """The id of each in the file of annotations."""
    bad: list[int]
    """Indices of images that could not be read; `source.describe` names them."""
    objects: int | None = None
    """Objects of all parts of the training step, in this process; None where that is not counted."""


class Sample(NamedTuple):
    """An image with its objects."""

    image: UInt8[Tensor, "3 h w"]
    target: Target
    original: tuple[int, int]
    image_id: int


@dataclass(frozen=True)
class TrainReader:
    """Reads a training batch; in the form in which DataLoader asks a data set for one."""

    source: CocoSource
    transform: Transform

    def __getitems__(self, draws: list[SampledIndex]) -> Batch | Failure:
        """Read a batch, or say why there is none; a picture that cannot be read is replaced by the next one."""
        return read_train_batch(self.source, draws, _preparing(self.source, self.transform), collate)


@dataclass(frozen=True)
class EvalReader:
    """Reads a batch to measure on, without the images that cannot be read."""

    source: CocoSource
    transform: Transform

    def __getitems__(self, indices: Iterable[int]) -> Batch | Failure:
        """Read a batch."""
        return read_eval_batch(self.source, indices, _preparing(self.source, self.transform), collate)


def train_batches(
    source: CocoSource, transform: Transform, order: TrainOrder, first_step: int, last_step: int, workers: int
) -> Iterator[Batch]:
    """Read the batches of a training, or of a part of it, as `ropevit.data.loading.train_batches` does.

    Args:
        source: Training images.
        transform: What augments a sample.
        order: Which images each step takes.
        first_step: First step, from 0.
        last_step: The step after the last.
        workers: Processes that read; 0 reads in this one.

    Raises:
        ValueError: If ten images in a row cannot be read.
    """
    return batches(TrainReader(source, transform), train_keys(order, first_step, last_step), workers)


def eval_batches(
    source: CocoSource, transform: Transform, batch_size: int, workers: int, world: int = 1, rank: int = 0
) -> Iterator[Batch]:
    """Read every image once, over all processes together.

    Args:
        source: Images to measure on.
        transform: What resizes a sample.
        batch_size: Images of a batch of this process; the last one may have fewer.
        workers: Processes that read; 0 reads in this one.
        world: Number of processes that measure.
        rank: Which of them this one is: it takes image `rank` and every `world`-th after it.
    """
    return batches(EvalReader(source, transform), eval_keys(len(source), batch_size, world, rank), workers)


def _preparing(source: CocoSource, transform: Transform) -> Prepare:
    """Give what makes a sample of what the source reads."""
    return partial(prepare, transform=transform, classes=len(source.classes))


def prepare(image: Any, truth: Boxes, transform: Transform, classes: int) -> Sample:
    """Make a training or evaluation sample of an image and its boxes."""
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


def normalise(batch: Batch, mean: Float[Tensor, "3 1 1"], std: Float[Tensor, "3 1 1"]) -> Float[Tensor, "b 3 H W"]:
    """Bring bytes to the device of the mean, with that at 0 and its spread at 1, and zeros in the padding.

    Args:
        batch: Images with padding.
        mean: Mean of each channel, for pixels from 0 to 1.
        std: Spread of each channel.
    """
    images = (batch.images.to(mean.device, non_blocking=True).float() / 255 - mean) / std
    padding = padding_mask(batch.sizes, *batch.images.shape[2:]).to(mean.device, non_blocking=True)
    return images.masked_fill(padding[:, None], 0.0)


def collate(samples: Sequence[Sample], bad: list[int]) -> Batch:
    """Lay images over a canvas as large as the largest of them, in multiples of 32 pixels."""
    sizes = [(sample.image.shape[1], sample.image.shape[2]) for sample in samples]
    height, width = (ceil_div(max((size[axis] for size in sizes), default=0), MULTIPLE) * MULTIPLE for axis in (0, 1))
    images = torch.zeros(len(samples), 3, height, width, dtype=torch.uint8)
    for canvas, (h, w), sample in zip(images, sizes, samples, strict=True):
        canvas[:, :h, :w] = sample.image
    targets = [sample.target for sample in samples]
    return Batch(images, sizes, targets, [s.original for s in samples], [s.image_id for s in samples], bad)
