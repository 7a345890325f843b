"""Box formats, targets and predictions of a detector.

Inside the detector a box is (center x, center y, width, height) as fractions of its image without padding; outside it
is (left, top, right, bottom) in pixels.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ropevit.device import to_device

#: Minimum of x and 1 - x in `logit`; published weights depend on it.
LOGIT_EPS = 1e-3


@dataclass(frozen=True)
class Target:
    """The objects in one image."""

    labels: Int[Tensor, "n"]
    """Class index of each object."""
    boxes: Float[Tensor, "n 4"]
    """(center x, center y, width, height) of each object, as fractions of the image."""

    def to(self, device: torch.device | str) -> "Target":
        """Move the tensors to a device, a CUDA device without waiting for it."""
        place = torch.device(device)
        return Target(to_device(self.labels, place), to_device(self.boxes, place))

    def pin_memory(self) -> "Target":
        """Copy the tensors to pinned memory; DataLoader calls this for training on a GPU."""
        return Target(self.labels.pin_memory(), self.boxes.pin_memory())


@dataclass(frozen=True)
class Matching:
    """Queries and the objects matched with them, in all images of a batch."""

    images: Int[Tensor, "m"]
    """Image of each pair."""
    queries: Int[Tensor, "m"]
    """Query of each pair."""
    objects: Int[Tensor, "m"]
    """Object of each pair, counted through the objects of all images."""


@dataclass(frozen=True)
class Predictions:
    """Predictions of one layer for B images."""

    logits: Float[Tensor, "B Q K"]
    """One binary logit per query and class."""
    boxes: Float[Tensor, "B Q 4"]
    """(center x, center y, width, height), as fractions of the image."""

    def split(self, first: int) -> tuple["Predictions", "Predictions"]:
        """Split into the predictions of the first `first` queries and of the rest."""
        head, tail = slice(None, first), slice(first, None)
        return tuple(Predictions(self.logits[:, part], self.boxes[:, part]) for part in (head, tail))  # type: ignore[return-value]


def make_target(labels: Int[Tensor, "n"], boxes: Float[Tensor, "n 4"], size: tuple[int, int], classes: int) -> Target:
    """Convert the objects in an image to the detector's format; on the CPU, as the checks would synchronize a GPU.

    Args:
        labels: Class index of each object.
        boxes: (left, top, right, bottom) of each in pixels.
        size: Height and width of the image in pixels, without padding.
        classes: Number of classes of the detector.

    Raises:
        ValueError: If a label is out of range, or a box is empty or extends beyond the image.
    """
    height, width = size
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(
            f"got labels from {int(labels.min())} to {int(labels.max())}; expected 0 to {classes - 1}, without gaps"
        )
    whole = boxes.new_tensor([width, height, width, height])
    good = (boxes >= 0).all(1) & (boxes <= whole).all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1)
    if not bool(good.all()):
        wrong = [round(value, 2) for value in boxes[~good][0].tolist()]
        raise ValueError(
            f"got a box {wrong} in an image of {height} x {width} pixels; expected left < right, top < bottom, inside "
            "it: clip boxes and remove empty ones"
        )
    return Target(labels.long(), box_xyxy_to_cxcywh(boxes / whole))


def box_xyxy_to_cxcywh(boxes: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 4"]:
    """Convert (left, top, right, bottom) to (center x, center y, width, height)."""
    first, last = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(first + last) / 2, last - first], dim=-1)


def box_cxcywh_to_xyxy(boxes: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 4"]:
    """Convert (center x, center y, width, height) to (left, top, right, bottom)."""
    center, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([center - half, center + half], dim=-1)


def generalized_iou(a: Float[Tensor, "*a 4"], b: Float[Tensor, "*b 4"]) -> Float[Tensor, "*ab"]:
    """Return the generalized IoU of boxes (left, top, right, bottom), whose shapes are broadcast.

    It reads no value: torchvision's and transformers' functions for pairs check the boxes, for which a GPU must wait.

    Source: Rezatofighi et al. 2019 (arXiv:1902.09630), Algorithm 1.
    """
    shared = _area(torch.max(a[..., :2], b[..., :2]), torch.min(a[..., 2:], b[..., 2:]))
    around = _area(torch.min(a[..., :2], b[..., :2]), torch.max(a[..., 2:], b[..., 2:]))
    union = _area(a[..., :2], a[..., 2:]) + _area(b[..., :2], b[..., 2:]) - shared
    return shared / union - (around - union) / around


def _area(first: Float[Tensor, "*b 2"], last: Float[Tensor, "*b 2"]) -> Float[Tensor, "*b"]:
    """Return the area of boxes between two corners; 0 where the last is not below and to the right of the first."""
    sides = (last - first).clamp(min=0)
    return sides[..., 0] * sides[..., 1]


def logit(x: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """Return the inverse sigmoid, with `x` and `1 - x` clamped to at least `LOGIT_EPS`."""
    return torch.log(x.clamp(min=LOGIT_EPS) / (1 - x).clamp(min=LOGIT_EPS))
