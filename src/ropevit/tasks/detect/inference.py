"""Inference of a detector over a data set, for validation and evaluation."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ropevit.data.coco import CocoSource
from ropevit.tasks.dense.inference import InferenceSettings
from ropevit.tasks.detect.augment import eval_transform
from ropevit.tasks.detect.average_precision import Rows, result_rows
from ropevit.tasks.detect.batches import Batch, eval_batches
from ropevit.tasks.detect.tiles import detect_batch
from ropevit.tasks.distributed import Communicator


@dataclass(frozen=True, kw_only=True)
class DetectorSettings(InferenceSettings):
    """Inference settings of a detector; `short` is the shorter side, unless the longer one would exceed `long`."""

    max_detections: int
    """Maximum number of detections per image."""
    batch_size: int
    """Images per batch and process; padding may slightly change the detections in smaller images."""
    tile: int | None = None
    """Side in pixels of the tiles in which objects are detected; None takes whole images."""


@torch.no_grad()
def run_detector(
    model: nn.Module,
    source: CocoSource,
    settings: DetectorSettings,
    communicator: Communicator,
    progress: Callable[[int], None],
) -> tuple[Rows, list[int]]:
    """Detect objects in all images, divided over the processes.

    Args:
        model: The detector, in eval mode.
        source: The images.
        settings: Inference settings.
        communicator: Connects the processes.
        progress: Called with the number of images done by this process.

    Returns:
        Detections of all processes, in pixels of the original images and sorted by image id, and the indices of the
        images that this process skipped.
    """
    transform = eval_transform(settings.short, settings.long, settings.resize_first)
    rank = {"world": settings.world, "rank": settings.rank}
    rows, unreadable, done = [np.empty((0, 7))], [], 0
    for batch in eval_batches(source, transform, settings.batch_size, settings.workers, **rank):
        unreadable += batch.unreadable
        rows += _detect_batch(model, batch, source, settings) if batch.ids else []
        done += len(batch.ids)
        progress(done)
    gathered = np.concatenate(communicator.all_gather(np.concatenate(rows)))
    return gathered[np.argsort(gathered[:, 0], kind="stable")], unreadable


def _detect_batch(model: nn.Module, batch: Batch, source: CocoSource, settings: DetectorSettings) -> list[Rows]:
    """Detect objects in a batch."""
    with settings.autocast():
        found = detect_batch(model, batch, settings.mean, settings.std, top=settings.max_detections, tile=settings.tile)
    return [result_rows(i, each, source.category_ids) for i, each in zip(batch.ids, found, strict=True)]
