"""DETR's multi-scale augmentation: flips, random sizes, and random crops of half of the images.

A sample is an image and a dict with "boxes" (torchvision's BoundingBoxes, in pixels) and "labels" (n,); what else the
dict holds is passed on.
"""

from collections.abc import Callable
from typing import Any

import torch

from ropevit.extras import require

#: Lengths of the shorter side in pixels, of which one is drawn for each image.
SHORT_SIDES = tuple(range(480, 801, 32))

#: Longest that the longer side may become in pixels.
LONGEST = 1333

#: Lengths of the shorter side in pixels before a crop.
BEFORE_CROP = (400, 500, 600)

#: Least and greatest side of a crop in pixels, where the image is as large.
CROP = (384, 600)

Transform = Callable[[Any, dict[str, Any]], tuple[Any, dict[str, Any]]]


def train_transform() -> Transform:
    """Make what augments a sample, drawing from torch's random numbers.

    Boxes are cut off at the edge of a crop, and those with a side below one pixel are dropped with their labels.

    Raises:
        MissingExtraError: If torchvision is not installed.

    Source: Carion et al. 2020 (arXiv:2005.12872), 4; sizes and probabilities as in detrex.
    """
    vision = require("torchvision.transforms.v2", "train")
    resize = vision.RandomShortestSize(list(SHORT_SIDES), LONGEST)
    cropped = vision.Compose([vision.RandomShortestSize(list(BEFORE_CROP)), random_crop, resize])
    return vision.Compose(
        [
            vision.RandomHorizontalFlip(),
            vision.RandomChoice([resize, cropped]),
            vision.ClampBoundingBoxes(),
            vision.SanitizeBoundingBoxes(),
        ]
    )


def eval_transform(short: int = 800, longest: int = LONGEST) -> Transform:
    """Make what resizes a sample so that its shorter side has `short` pixels, or its longer one `longest` if sooner.

    Raises:
        MissingExtraError: If torchvision is not installed.
        ValueError: If the longer side could never be as long as the shorter.
    """
    if not 1 <= short <= longest:
        raise ValueError(f"got short={short}, longest={longest}; expected 1 <= short <= longest pixels")
    return require("torchvision.transforms.v2", "train").RandomShortestSize([short], longest)


def random_crop(image: Any, target: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Cut out a rectangle whose sides are drawn from `CROP`, anywhere in the image."""
    functional = require("torchvision.transforms.v2.functional", "train")
    height, width = functional.get_size(image)
    h, w = (draw(min(side, CROP[0]), min(side, CROP[1])) for side in (height, width))
    place = draw(0, height - h), draw(0, width - w), h, w
    return functional.crop(image, *place), target | {"boxes": functional.crop(target["boxes"], *place)}


def draw(least: int, most: int) -> int:
    """Draw a whole number from `least` to `most`, both included."""
    return int(torch.randint(least, most + 1, ()))
