"""Post-processing: from a detector's last layer to detections in pixels."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ropevit.tasks.detect.boxes import Predictions, box_cxcywh_to_xyxy
from ropevit.tasks.detect.levels import gather_rows


@dataclass(frozen=True)
class Detections:
    """Detections in one image, by descending score."""

    scores: Float[Tensor, "n"]
    """Score of each detection."""
    labels: Int[Tensor, "n"]
    """Class index of each detection."""
    boxes: Float[Tensor, "n 4"]
    """(left, top, right, bottom) of each detection in pixels, inside the image."""


def to_detections(predictions: Predictions, sizes: Sequence[tuple[int, int]], top: int = 300) -> list[Detections]:
    """Return the highest-scoring pairs of query and class of each image; a query may appear with several classes.

    Args:
        predictions: Predictions of the last layer.
        sizes: Height and width in pixels of each original image, before any resizing or padding.
        top: Maximum number of detections per image; boxes without an area inside the image are removed.

    Raises:
        ValueError: If `top` is below 1, or the number of sizes differs from that of the images.
    """
    if top < 1 or len(sizes) != len(predictions.logits):
        raise ValueError(
            f"got top={top} and sizes of {len(sizes)} images with predictions of {len(predictions.logits)}; expected "
            "top of at least 1, and a size for each image"
        )
    scores = class_scores(predictions)
    pairs = scores.topk(min(top, scores.shape[1]), dim=1).indices
    found = []
    for (height, width), score, label, box in zip(sizes, *at_pairs(predictions, pairs), strict=True):
        pixels = box * torch.tensor([width, height, width, height], device=box.device)
        inside = (pixels[:, 2:] > pixels[:, :2]).all(1)
        found.append(Detections(score[inside], label[inside], pixels[inside]))
    return found


def class_scores(predictions: Predictions) -> Float[Tensor, "B QK"]:
    """Return the score of each pair of query and class, the classes of a query together."""
    return predictions.logits.float().sigmoid().flatten(1)


def at_pairs(
    predictions: Predictions, pairs: Int[Tensor, "B n"]
) -> tuple[Float[Tensor, "B n"], Int[Tensor, "B n"], Float[Tensor, "B n 4"]]:
    """Return scores, class indices and boxes of pairs of query and class.

    Args:
        predictions: Predictions of a layer.
        pairs: Indices into `class_scores`.

    Returns:
        Scores, class indices, and boxes (left, top, right, bottom) as fractions of the image, inside it.
    """
    classes = predictions.logits.shape[2]
    boxes = gather_rows(box_cxcywh_to_xyxy(predictions.boxes.float()), pairs // classes)
    return class_scores(predictions).gather(1, pairs), pairs % classes, boxes.clamp(0, 1)
