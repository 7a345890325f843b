"""From a detector's last layer to objects in pixels."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ropevit.tasks.detect.boxes import Predictions, box_cxcywh_to_xyxy


@dataclass(frozen=True)
class Detections:
    """The objects found in one image, the surest first."""

    scores: Float[Tensor, "n"]
    """Probability of each."""
    labels: Int[Tensor, "n"]
    """Class of each, from 0."""
    boxes: Float[Tensor, "n 4"]
    """(left, top, right, bottom) of each in pixels, inside the image."""


def to_detections(predictions: Predictions, sizes: Sequence[tuple[int, int]], top: int = 300) -> list[Detections]:
    """Take the best pairs of query and class of each image; a query may be taken with several classes.

    Args:
        predictions: Of the last layer.
        sizes: Height and width in pixels of each original image, before any resizing or padding.
        top: Most objects of an image; those whose box has no area inside the image are left out.

    Raises:
        ValueError: If `top` is below 1, or there are sizes of another number of images.
    """
    if top < 1 or len(sizes) != len(predictions.logits):
        raise ValueError(
            f"got top={top} and sizes of {len(sizes)} images with predictions of {len(predictions.logits)}; expected "
            "top of at least 1, and a size for each image"
        )
    scores = predictions.logits.float().sigmoid().flatten(1)
    scores, chosen = scores.topk(min(top, scores.shape[1]), dim=1)
    classes = predictions.logits.shape[2]
    boxes = box_cxcywh_to_xyxy(predictions.boxes.float()).take_along_dim(chosen[..., None] // classes, 1)
    found = []
    for (height, width), score, label, box in zip(sizes, scores, chosen % classes, boxes, strict=True):
        pixels = box.clamp(0, 1) * torch.tensor([width, height, width, height], device=box.device)
        inside = (pixels[:, 2:] > pixels[:, :2]).all(1)
        found.append(Detections(score[inside], label[inside], pixels[inside]))
    return found
