"""Boxes and what a detector is trained with.

Inside the detector a box is (centre x, centre y, width, height) as shares of its image, padding not counted; outside it
is (left, top, right, bottom) in pixels.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

#: Nearest that a share comes to 0 or 1 before its logit is taken; published weights depend on it.
NEAREST = 1e-3

#: Numbers of queries of an image, and of the object that each stands for.
Matching = tuple[Int[Tensor, "_"], Int[Tensor, "_"]]


@dataclass(frozen=True)
class Target:
    """The objects in one image."""

    labels: Int[Tensor, "n"]
    """Class of each, from 0."""
    boxes: Float[Tensor, "n 4"]
    """(centre x, centre y, width, height) of each, as shares of the image."""

    def to(self, device: torch.device | str) -> "Target":
        """Bring it to a device."""
        return Target(self.labels.to(device), self.boxes.to(device))


@dataclass(frozen=True)
class Predictions:
    """What one layer says of B images."""

    logits: Float[Tensor, "B Q K"]
    """One binary logit a query and class."""
    boxes: Float[Tensor, "B Q 4"]
    """(centre x, centre y, width, height), as shares of the image."""

    def split(self, first: int) -> tuple["Predictions", "Predictions"]:
        """Part the first queries from the rest."""
        head, tail = slice(None, first), slice(first, None)
        return tuple(Predictions(self.logits[:, part], self.boxes[:, part]) for part in (head, tail))  # type: ignore[return-value]


def make_target(labels: Int[Tensor, "n"], boxes: Float[Tensor, "n 4"], size: tuple[int, int], classes: int) -> Target:
    """Bring the objects of an image into the detector's form; call it where the data is still on the CPU.

    Args:
        labels: Class of each object, from 0.
        boxes: (left, top, right, bottom) of each in pixels.
        size: Height and width of the image in pixels, padding not counted.
        classes: Classes of the detector.

    Raises:
        ValueError: If a label is none of the classes, or a box is empty or leaves the image.
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
            "it: clip boxes and drop empty ones"
        )
    return Target(labels.long(), box_xyxy_to_cxcywh(boxes / whole))


def box_xyxy_to_cxcywh(boxes: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 4"]:
    """Turn (left, top, right, bottom) into (centre x, centre y, width, height)."""
    first, last = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(first + last) / 2, last - first], dim=-1)


def box_cxcywh_to_xyxy(boxes: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 4"]:
    """Turn (centre x, centre y, width, height) into (left, top, right, bottom)."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def logit(shares: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """Undo the sigmoid, with shares (and what they lack of 1) of at least `NEAREST`."""
    return torch.log(shares.clamp(min=NEAREST) / (1 - shares).clamp(min=NEAREST))
