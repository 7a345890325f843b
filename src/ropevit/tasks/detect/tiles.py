"""Detection in whole images, or in overlapping tiles whose detections are merged."""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ropevit.extras import require
from ropevit.tasks.detect.batches import Batch, normalize
from ropevit.tasks.detect.postprocess import Detections, to_detections
from ropevit.tasks.evaluation.inference_modes import window_spans

#: Fraction of its side by which a tile overlaps the next one, so that one of them shows a small object whole.
#: Source: the default of Akyon et al. 2022, Slicing Aided Hyper Inference (SAHI).
OVERLAP = 0.2

#: IoU above which the lower of two boxes of a class is suppressed, where tiles are merged.
NMS_IOU = 0.5


def detect_batch(
    model: nn.Module,
    batch: Batch,
    mean: Float[Tensor, "3 1 1"],
    std: Float[Tensor, "3 1 1"],
    top: int,
    tile: int | None = None,
) -> list[Detections]:
    """Detect objects in a batch.

    Args:
        model: The detector, in eval mode.
        batch: Padded images.
        mean: Mean of each channel, for pixels from 0 to 1, on the model's device.
        std: Standard deviation of each channel.
        top: Maximum number of detections per image.
        tile: Side of the tiles in pixels of the batch; None takes whole images.

    Returns:
        The detections of each image, with boxes in pixels of the original image.
    """
    images = normalize(batch, mean, std)
    if tile is None:
        return to_detections(model(images, batch.sizes).layers[-1], batch.originals, top)

    def detect(part: Float[Tensor, "3 h w"]) -> Detections:
        size = part.shape[1], part.shape[2]
        return to_detections(model(part[None], [size]).layers[-1], [size], top)[0]

    found = []
    for image, (height, width), original in zip(images, batch.sizes, batch.originals, strict=True):
        tiled = detect_in_tiles(detect, image[:, :height, :width], tile, top)
        factor = tiled.boxes.new_tensor([original[1] / width, original[0] / height] * 2)
        found.append(Detections(tiled.scores, tiled.labels, tiled.boxes * factor))
    return found


def detect_in_tiles(
    detect: Callable[[Tensor], Detections], image: Float[Tensor, "3 h w"], side: int, top: int
) -> Detections:
    """Detect objects in square tiles that overlap by a fifth, the last ones flush with the edges of the image.

    Args:
        detect: Detects objects in a tile, with boxes in its pixels.
        image: The image; one no larger than a tile is not merged, and keeps all its detections.
        side: Side of a tile in pixels.
        top: Maximum number of detections.

    Returns:
        The detections of all tiles, after non-maximum suppression, with boxes in pixels of the image.
    """
    stride = max(1, side - round(OVERLAP * side))
    rows, columns = (list(window_spans(length, side, stride)) for length in image.shape[1:])
    parts = [_moved(detect(image[:, y, x]), x.start, y.start) for y, x in product(rows, columns)]
    return parts[0] if len(parts) == 1 else _merged(parts, top)


def _moved(found: Detections, x: int, y: int) -> Detections:
    """Return detections with boxes moved by (x, y) pixels."""
    return Detections(found.scores, found.labels, found.boxes + found.boxes.new_tensor([x, y, x, y]))


def _merged(parts: Sequence[Detections], top: int) -> Detections:
    """Merge the detections of tiles by non-maximum suppression within each class."""
    ops: Any = require("torchvision.ops", "train")
    scores, labels, boxes = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("scores", "labels", "boxes")
    )
    kept = ops.batched_nms(boxes, scores, labels, NMS_IOU)[:top]  # by descending score
    return Detections(scores[kept], labels[kept], boxes[kept])
