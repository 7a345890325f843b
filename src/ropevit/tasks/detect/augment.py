"""DETR's multi-scale augmentation: flips, random sizes, and random crops of half of the images.

A sample is an image and a dict with "boxes" (torchvision's BoundingBoxes, in pixels) and "labels" (n,); what else the
dict holds is passed on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ropevit.extras import require

#: Lengths of the shorter side in pixels, of which one is drawn for each image.
SHORT_SIDES = tuple(range(480, 801, 32))

#: Longest that the longer side may become in pixels.
LONGEST = 1333

#: Least and greatest side of a crop in pixels, where the image is as large.
CROP = (384, 600)

#: Where torchvision keeps what resizes and crops images with their boxes.
FUNCTIONAL = "torchvision.transforms.v2.functional"

Transform = Callable[[Any, dict[str, Any]], tuple[Any, dict[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class ScaleConfig:
    """How large images are, in training and to measure on; the defaults are DETR's.

    Raises:
        ValueError: If a length is not positive, or the longer side could never be as long as the shorter.

    Source: Carion et al. 2020 (arXiv:2005.12872), 4; sizes and probabilities as in detrex.
    """

    short_sides: tuple[int, ...] = SHORT_SIDES
    """Lengths of the shorter side in pixels, of which one is drawn for each image."""
    longest: int = LONGEST
    """Longest that the longer side may become in pixels, also to measure on."""
    before_crop: tuple[int, ...] = (400, 500, 600)
    """Lengths of the shorter side of the half of the images that is cropped, before the crop; empty crops none."""
    flip: float = 0.5
    """Share of images that are mirrored left to right."""
    test_side: int = 800
    """Length of the shorter side in pixels to measure on."""

    def __post_init__(self) -> None:
        for name in ("short_sides", "before_crop"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        lengths = *self.short_sides, *self.before_crop, self.test_side
        if not self.short_sides or min(lengths) < 1 or max(*self.short_sides, self.test_side) > self.longest:
            raise ValueError(
                f"got short_sides={self.short_sides}, before_crop={self.before_crop}, test_side={self.test_side}, "
                f"longest={self.longest}; expected 1 pixel or more, and none longer than longest"
            )
        if not 0 <= self.flip <= 1:
            raise ValueError(f"got flip={self.flip}; expected 0 to 1")


def train_transform(config: ScaleConfig | None = None) -> Transform:
    """Make what augments a sample, drawing from torch's random numbers.

    Boxes are cut off at the edge of a crop, and those with a side below one pixel are dropped with their labels.

    Args:
        config: Sizes; None takes the defaults.

    Raises:
        MissingExtraError: If torchvision is not installed.

    Source: Carion et al. 2020 (arXiv:2005.12872), 4.
    """
    config = config or ScaleConfig()
    vision = require("torchvision.transforms.v2", "train")
    resize = ShortestSize(config.short_sides, config.longest)
    sized = resize
    if config.before_crop:
        before = ShortestSize(config.before_crop)
        sized = vision.RandomChoice([resize, vision.Compose([before, random_crop, resize])])
    finish = vision.ClampBoundingBoxes(), vision.SanitizeBoundingBoxes()
    return vision.Compose([vision.RandomHorizontalFlip(config.flip), sized, *finish])


def eval_transform(short: int = 800, longest: int = LONGEST) -> Transform:
    """Make what resizes a sample so that its shorter side has `short` pixels, or its longer one `longest` if sooner.

    Raises:
        ValueError: If the longer side could never be as long as the shorter.
    """
    if not 1 <= short <= longest:
        raise ValueError(f"got short={short}, longest={longest}; expected 1 <= short <= longest pixels")
    return ShortestSize((short,), longest)


@dataclass(frozen=True)
class ShortestSize:
    """Resize a sample as detectron2's ResizeShortestEdge does, but to one pixel at least, however narrow it is.

    It is sent to the processes that read images, so it holds nothing but numbers.
    """

    sides: tuple[int, ...]
    """Lengths of the shorter side in pixels, of which one is drawn."""
    longest: int | None = None
    """Longest that the longer side may become; None sets no limit."""

    def __call__(self, image: Any, target: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Resize an image and its boxes."""
        functional = require(FUNCTIONAL, "train")
        short = self.sides[draw(0, len(self.sides) - 1)]
        size = output_size(functional.get_size(image), short, self.longest)
        changed = {"boxes": functional.resize(target["boxes"], size)} if "boxes" in target else {}
        return functional.resize(image, size), target | changed


def output_size(size: Sequence[int], short: int, longest: int | None) -> list[int]:
    """Give height and width after resizing, rounded to the nearest pixel, 1 at least.

    Args:
        size: Height and width before.
        short: Length of the shorter side, unless the longer one were longer than `longest` then.
        longest: Longest that the longer side may become; None sets no limit.

    Source: `ResizeShortestEdge` of detectron2.
    """
    sides = [
        short / min(size) * side for side in size
    ]  # in this order, as halves are rounded by what floats make of them
    if longest is not None and max(sides) > longest:
        sides = [longest / max(sides) * side for side in sides]
    return [max(int(side + 0.5), 1) for side in sides]


def random_crop(image: Any, target: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Cut out a rectangle whose sides are drawn from `CROP`, anywhere in the image."""
    functional = require(FUNCTIONAL, "train")
    height, width = functional.get_size(image)
    h, w = (draw(min(side, CROP[0]), min(side, CROP[1])) for side in (height, width))
    place = draw(0, height - h), draw(0, width - w), h, w
    return functional.crop(image, *place), target | {"boxes": functional.crop(target["boxes"], *place)}


def draw(least: int, most: int) -> int:
    """Draw a whole number from `least` to `most`, both included."""
    return int(torch.randint(least, most + 1, ()))
