"""Run a segmenter over a data set and count its pixels by true and predicted class, during and after training."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from ropevit.data.ade import AdeSource
from ropevit.data.loading import EvalReader, Readable, batches, eval_keys
from ropevit.device import delay_by_one, start_copy, to_device
from ropevit.extras import require
from ropevit.tasks.dense.inference import InferenceSettings
from ropevit.tasks.distributed import Communicator
from ropevit.tasks.segment.base import SegmentationModel
from ropevit.tasks.segment.inference import InferenceConfig, segment, view_size
from ropevit.tasks.segment.mean_iou import confusion


@dataclass(frozen=True, kw_only=True)
class SegmenterSettings(InferenceSettings):
    """Settings of inference with a segmenter."""

    ratios: tuple[float, ...] = (1.0,)
    """Factors on the maxima of both sides; each gives one view."""
    inference: InferenceConfig
    """Whole images or sliding windows, and flipping."""


class ImageViews(NamedTuple):
    """One image at several sizes with its labels; empty if it cannot be read."""

    views: list[UInt8[Tensor, "1 3 _ _"]]
    """The image at each size, not normalized."""
    labels: UInt8[Tensor, "H W"]
    """Class of each pixel at the original size."""
    unreadable: list[int]
    """Index of the image if it cannot be read."""


def eval_reader(
    source: Readable,
    short: int,
    long: int,
    ratios: tuple[float, ...],
    resize_first: tuple[int, int] | None = None,
) -> EvalReader[ImageViews]:
    """Return a reader of single images, each at several sizes."""
    sizes = {"short": short, "long": long, "ratios": ratios, "resize_first": resize_first}
    return EvalReader(source, partial(make_views, **sizes), single)


def make_views(
    image: Image.Image,
    labels: UInt8[np.ndarray, "H W"],
    short: int,
    long: int,
    ratios: tuple[float, ...],
    resize_first: tuple[int, int] | None = None,
) -> tuple[list[Tensor], Tensor]:
    """Resize an image so that its sides do not exceed (short, long), for each ratio; the labels keep their size.

    With `resize_first`, the image is first resized so that its sides do not exceed these.
    """
    functional: Any = require("torchvision.transforms.v2.functional", "train")
    original = image.height, image.width
    if resize_first is not None:
        image = functional.resize(image, _at_least_one(view_size(original, *resize_first)))
    views = []
    for ratio in ratios:
        resized = functional.resize(image, _at_least_one(view_size(original, short, long, ratio)))
        views.append(functional.pil_to_tensor(resized)[None])
    return views, torch.from_numpy(labels.copy())


def _at_least_one(size: tuple[int, int]) -> list[int]:
    """Return height and width, of which an elongated image may have none after resizing, as at least one pixel."""
    return [max(side, 1) for side in size]


def single(samples: list[tuple[list[Tensor], Tensor]], unreadable: list[int]) -> ImageViews:
    """Return the one image of a batch, or none."""
    views, labels = samples[0] if samples else ([], torch.empty(0, 0, dtype=torch.uint8))
    return ImageViews(views, labels, unreadable)


def read(source: Readable, settings: SegmenterSettings) -> Iterator[ImageViews]:
    """Read this process's images; all processes together read each image once."""
    reader = eval_reader(source, settings.short, settings.long, settings.ratios, settings.resize_first)
    return batches(reader, eval_keys(len(source), 1, settings.world, settings.rank), settings.workers)


@torch.no_grad()
def confusion_matrix(
    model: SegmentationModel,
    source: AdeSource,
    settings: SegmenterSettings,
    communicator: Communicator,
    progress: Callable[[int], None],
) -> tuple[Float[Tensor, "K K"], list[int]]:
    """Count the pixels of all images by true and predicted class, each image once over all processes.

    Args:
        model: The segmenter, in eval mode.
        source: The images.
        settings: How it is run.
        communicator: Connects the processes.
        progress: Called with the number of images that this process has finished.

    Returns:
        Pixels of all processes by true class (row) and predicted class (column), and the indices of the images that
        this process could not read.

    Raises:
        ValueError: If no pixel has a label.
    """
    classes = len(source.classes)
    counts, unreadable = torch.zeros(classes, classes, dtype=torch.float64), []
    started = (
        (image, _start(model, image, settings, classes) if image.views else None) for image in read(source, settings)
    )
    for done, (image, predicted) in enumerate(delay_by_one(started), 1):
        unreadable += image.unreadable
        if predicted is not None:
            counts += confusion(predicted(), image.labels, classes).double()
        progress(done)
    counts = communicator.all_reduce_sum(counts)
    if not counts.any():
        raise ValueError(f"{source.name} in {source.root} has no labeled pixels; there is nothing to evaluate")
    return counts, unreadable


def count_pixels(
    model: SegmentationModel, image: ImageViews, settings: SegmenterSettings, classes: int
) -> Float[Tensor, "K K"]:
    """Count the pixels of one image at its original size."""
    return confusion(_start(model, image, settings, classes)(), image.labels, classes).double()


def _start(
    model: SegmentationModel, image: ImageViews, settings: SegmenterSettings, classes: int
) -> Callable[[], Tensor]:
    """Start to predict the class of each pixel; return a function that waits for them, in few bytes (H, W)."""
    mean, std = settings.mean, settings.std
    views = [(to_device(view, mean.device).float() / 255 - mean) / std for view in image.views]
    size = image.labels.shape[0], image.labels.shape[1]
    with settings.autocast():
        labels = segment(model.logits, views, size, settings.inference)[0]
    return start_copy(labels.to(torch.uint8 if classes <= 256 else torch.int16))
