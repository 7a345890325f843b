"""Which classes a segmenter gives the pixels of a data set, as it is measured during and after its training."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from ropevit.data.ade import AdeSource
from ropevit.data.loading import Failure, batches
from ropevit.extras import require
from ropevit.tasks.common.batches import eval_keys, read_eval_batch
from ropevit.tasks.common.distributed import Communicator
from ropevit.tasks.segment.base import SegmentationModel
from ropevit.tasks.segment.inference import InferenceConfig, segment, view_size
from ropevit.tasks.segment.mean_iou import confusion


@dataclass(frozen=True, kw_only=True)
class InferenceSettings:
    """How pictures are looked at, and by which of the processes that share them."""

    short: int
    """Limit on the shorter side in pixels."""
    long: int
    """Limit on the longer side."""
    ratios: tuple[float, ...] = (1.0,)
    """What both limits are multiplied with, for a view each."""
    inference: InferenceConfig
    """How a view is segmented."""
    workers: int
    """Processes that read pictures for this one; 0 reads in this one."""
    world: int
    """Number of processes that share the pictures."""
    rank: int
    """Which of them this one is."""
    mean: Float[Tensor, "3 1 1"]
    """Mean of each channel, for pixels from 0 to 1, on the device."""
    std: Float[Tensor, "3 1 1"]
    """Spread of each channel."""
    autocast: Callable[[], AbstractContextManager]
    """Sets the precision."""


class ImageViews(NamedTuple):
    """One picture, or none where it cannot be read."""

    views: list[UInt8[Tensor, "1 3 _ _"]]
    """The picture at each size, not normalised."""
    labels: UInt8[Tensor, "H W"]
    """Class of each pixel at the original size."""
    bad: list[int]
    """Its index if it cannot be read."""


@dataclass(frozen=True)
class Reader:
    """Reads one picture at several sizes; in the form in which DataLoader asks a data set for one."""

    source: AdeSource
    short: int
    long: int
    ratios: tuple[float, ...]

    def __getitems__(self, indices: Iterable[int]) -> ImageViews | Failure:
        """Read a picture."""
        return read_eval_batch(self.source, indices, self.views, is_single)

    def views(self, picture: Image.Image, labels: UInt8[np.ndarray, "H W"]) -> tuple[list[Tensor], Tensor]:
        """Resize a picture as large as both limits allow, for each ratio, and leave its labels as they are."""
        functional: Any = require("torchvision.transforms.v2.functional", "train")
        views = []
        for ratio in self.ratios:
            size = view_size((picture.height, picture.width), self.short, self.long, ratio)
            resized = functional.resize(picture, [max(size[0], 1), max(size[1], 1)])
            views.append(functional.pil_to_tensor(resized)[None])
        return views, torch.from_numpy(labels.copy())


def is_single(samples: list[tuple[list[Tensor], Tensor]], bad: list[int]) -> ImageViews:
    """Give one picture, or none."""
    views, labels = samples[0] if samples else ([], torch.empty(0, 0, dtype=torch.uint8))
    return ImageViews(views, labels, bad)


def read(source: AdeSource, look: InferenceSettings) -> Iterator[ImageViews]:
    """Read this process's pictures, such that all processes together have each once."""
    reader = Reader(source, look.short, look.long, look.ratios)
    return batches(reader, eval_keys(len(source), 1, look.world, look.rank), look.workers)


@torch.no_grad()
def confusion_matrix(
    model: SegmentationModel,
    source: AdeSource,
    look: InferenceSettings,
    channel: Communicator,
    watch: Callable[[int], None],
) -> tuple[Float[Tensor, "K K"], list[int]]:
    """Count the pixels of all pictures by true and predicted class, each picture once over all processes.

    Args:
        model: The segmenter, in eval mode.
        source: The pictures.
        look: How.
        channel: What connects the processes.
        watch: Called with the number of pictures that this process is done with.

    Returns:
        Pixels of all processes by true class (row) and predicted class (column), and the indices of the pictures that
        this process could not read.

    Raises:
        ValueError: If no pixel has a label.
    """
    classes = len(source.classes)
    counts, bad = torch.zeros(classes, classes, dtype=torch.float64), []
    for done, seen in enumerate(read(source, look), 1):
        bad += seen.bad
        if seen.views:
            counts += count(model, seen, look, classes)
        watch(done)
    counts = channel.all_reduce_sum(counts)
    if not counts.any():
        raise ValueError(f"{source.name} in {source.root} has no labelled pixels; there is nothing to measure")
    return counts, bad


def count(model: SegmentationModel, seen: ImageViews, look: InferenceSettings, classes: int) -> Float[Tensor, "K K"]:
    """Count the pixels of one picture at its original size."""
    views = [(view.to(look.mean.device, non_blocking=True).float() / 255 - look.mean) / look.std for view in seen.views]
    size = seen.labels.shape[0], seen.labels.shape[1]
    with look.autocast():
        found = segment(model.logits, views, size, look.inference)
    return confusion(found[0].cpu(), seen.labels, classes).double()
