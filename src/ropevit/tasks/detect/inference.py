"""What a detector finds in all images of a data set, as it is measured during and after its training."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ropevit.data.coco import CocoSource
from ropevit.tasks.common.distributed import Communicator
from ropevit.tasks.detect.augment import eval_transform
from ropevit.tasks.detect.average_precision import Rows, result_rows
from ropevit.tasks.detect.batches import Batch, eval_batches
from ropevit.tasks.detect.postprocess import to_detections


@dataclass(frozen=True, kw_only=True)
class InferenceSettings:
    """How objects are looked for, and by which of the processes that share the images."""

    short: int
    """Length of the shorter side in pixels."""
    longest: int
    """Longest that the longer side may become in pixels, which then decides."""
    top: int
    """Most objects that are found in an image."""
    batch_size: int
    """Images of a batch of this process; what pads a smaller image beside a larger one may change what is found."""
    workers: int
    """Processes that read images for this one; 0 reads in this one."""
    world: int
    """Number of processes that share the images."""
    rank: int
    """Which of them this one is."""
    normalise: Callable[[Batch], Tensor]
    """Brings images to the device."""
    autocast: Callable[[], AbstractContextManager]
    """Sets the precision."""


@torch.no_grad()
def run_detector(
    model: nn.Module, source: CocoSource, search: InferenceSettings, channel: Communicator, watch: Callable[[int], None]
) -> tuple[Rows, list[int]]:
    """Look for objects in all images, each once over all processes.

    Args:
        model: The detector, in eval mode.
        source: The images.
        search: How.
        channel: What connects the processes.
        watch: Called with the number of images in which this process has looked.

    Returns:
        What all processes found, in pixels of the original images and sorted by their ids, and the indices of the
        images that this process could not read.
    """
    transform = eval_transform(search.short, search.longest)
    places = {"world": search.world, "rank": search.rank}
    rows, bad, done = [np.empty((0, 7))], [], 0
    for batch in eval_batches(source, transform, search.batch_size, search.workers, **places):
        bad += batch.bad
        rows += detect_batch(model, batch, source, search) if batch.ids else []
        done += len(batch.ids)
        watch(done)
    everything = np.concatenate(channel.all_gather(np.concatenate(rows)))
    return everything[np.argsort(everything[:, 0], kind="stable")], bad


def detect_batch(model: nn.Module, batch: Batch, source: CocoSource, search: InferenceSettings) -> list[Rows]:
    """Look for objects in a batch."""
    with search.autocast():
        output = model(search.normalise(batch), batch.sizes)
    found = to_detections(output.layers[-1], batch.originals, search.top)
    return [result_rows(i, each, source.category_ids) for i, each in zip(batch.ids, found, strict=True)]
