"""DETR's multi-scale augmentation: flips, random sizes, and random crops of half of the images.

A sample is an image and a dict with "boxes" (torchvision's BoundingBoxes, in pixels) and "labels" (n,); other entries
of the dict are returned unchanged.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from ropevit.extras import require

#: A picture, or pixels as a tensor.
ImageT = TypeVar("ImageT", Image.Image, Tensor)

#: Lengths of the shorter side in multi-scale training, in pixels.
SHORT_EDGE_LENGTHS = tuple(range(480, 801, 32))

#: Maximum length of the longer side in pixels.
MAX_SIZE = 1333

#: Minimum and maximum side of a random crop in pixels; both are limited to the side of the image.
_CROP_SIDES = (384, 600)

#: Torchvision's functions that resize and crop images with their boxes.
_FUNCTIONAL = "torchvision.transforms.v2.functional"

Transform = Callable[[Any, dict[str, Any]], tuple[Any, dict[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class ScaleConfig:
    """Image sizes and flips in training and evaluation; the defaults are DETR's.

    Raises:
        ValueError: If a length is not positive, or a shorter side is above the limit of the longer.

    Source: Carion et al. 2020 (arXiv:2005.12872), 4; sizes and probabilities as in detrex.
    """

    short_edge_lengths: tuple[int, ...] = SHORT_EDGE_LENGTHS
    """Multi-scale training: lengths of the shorter side in pixels, one of which is drawn per image."""
    max_size: int = MAX_SIZE
    """Maximum length of the longer side in pixels, in training and evaluation."""
    pre_crop_edge_lengths: tuple[int, ...] = (400, 500, 600)
    """Lengths of the shorter side before the random crop, applied to half of the images; empty disables crops."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    test_size: int = 800
    """Length of the shorter side in evaluation, in pixels."""

    def __post_init__(self) -> None:
        for name in ("short_edge_lengths", "pre_crop_edge_lengths"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        lengths = *self.short_edge_lengths, *self.pre_crop_edge_lengths, self.test_size
        resized = *self.short_edge_lengths, self.test_size
        if not self.short_edge_lengths or min(lengths) < 1 or max(resized) > self.max_size:
            raise ValueError(
                f"got short_edge_lengths={self.short_edge_lengths}, "
                f"pre_crop_edge_lengths={self.pre_crop_edge_lengths}, test_size={self.test_size}, "
                f"max_size={self.max_size}; expected 1 pixel or more, and none above max_size"
            )
        if not 0 <= self.flip <= 1:
            raise ValueError(f"got flip={self.flip}; expected 0 to 1")


def train_transform(config: ScaleConfig | None = None) -> Transform:
    """Return the training augmentation, which draws from torch's global generator.

    Boxes are clipped to a crop; those with a side below one pixel are removed with their labels.

    Args:
        config: Sizes; None takes the defaults.

    Raises:
        MissingExtraError: If torchvision is not installed.

    Source: Carion et al. 2020 (arXiv:2005.12872), 4.
    """
    config = config or ScaleConfig()
    vision = require("torchvision.transforms.v2", "train")
    resize = ShortestSize(config.short_edge_lengths, config.max_size)
    sized = resize
    if config.pre_crop_edge_lengths:
        before = ShortestSize(config.pre_crop_edge_lengths)
        sized = vision.RandomChoice([resize, vision.Compose([before, random_crop, resize])])
    finish = vision.ClampBoundingBoxes(), vision.SanitizeBoundingBoxes()
    return vision.Compose([vision.RandomHorizontalFlip(config.flip), sized, *finish])


def eval_transform(short: int = 800, longest: int = MAX_SIZE, resize_first: tuple[int, int] | None = None) -> Transform:
    """Return the transform that resizes the shorter side to `short` pixels, with the longer one limited to `longest`.

    With `resize_first`, an image is first resized in the same way to these two limits.

    Raises:
        ValueError: If `short` is above `longest`.
    """
    if not 1 <= short <= longest:
        raise ValueError(f"got short={short}, longest={longest}; expected 1 <= short <= longest pixels")
    resize = ShortestSize((short,), longest)
    if resize_first is None:
        return resize
    vision = require("torchvision.transforms.v2", "train")
    return vision.Compose([eval_transform(*resize_first), resize])


@dataclass(frozen=True)
class ShortestSize:
    """Resize a sample like detectron2's ResizeShortestEdge, but to at least one pixel.

    It holds only numbers, so that it can be pickled for DataLoader workers.
    """

    sides: tuple[int, ...]
    """Lengths of the shorter side in pixels, one of which is drawn."""
    longest: int | None = None
    """Maximum length of the longer side; None sets no limit."""

    def __call__(self, image: ImageT, target: dict[str, Any]) -> tuple[ImageT, dict[str, Any]]:
        """Resize an image and its boxes."""
        functional = require(_FUNCTIONAL, "train")
        short = self.sides[randint(0, len(self.sides) - 1)]
        size = output_size(functional.get_size(image), short, self.longest)
        changed = {"boxes": functional.resize(target["boxes"], size)} if "boxes" in target else {}
        return functional.resize(image, size), target | changed


def output_size(size: Sequence[int], short: int, longest: int | None) -> list[int]:
    """Return height and width after resizing, rounded to whole pixels, at least 1.

    Args:
        size: Height and width before.
        short: Length of the shorter side, unless the longer one would exceed `longest`.
        longest: Maximum length of the longer side; None sets no limit.

    Source: `ResizeShortestEdge` of detectron2.
    """
    # this order of operations matters for the rounding of halves
    sides = [short / min(size) * side for side in size]
    if longest is not None and max(sides) > longest:
        sides = [longest / max(sides) * side for side in sides]
    return [max(int(side + 0.5), 1) for side in sides]


def random_crop(image: ImageT, target: dict[str, Any]) -> tuple[ImageT, dict[str, Any]]:
    """Crop a random rectangle with sides of 384 to 600 pixels, or of the image where it is smaller."""
    functional = require(_FUNCTIONAL, "train")
    height, width = functional.get_size(image)
    h, w = (randint(min(side, _CROP_SIDES[0]), min(side, _CROP_SIDES[1])) for side in (height, width))
    region = randint(0, height - h), randint(0, width - w), h, w
    return functional.crop(image, *region), target | {"boxes": functional.crop(target["boxes"], *region)}


def randint(least: int, most: int) -> int:
    """Draw an integer from `least` to `most`, both included."""
    return int(torch.randint(least, most + 1, ()))
