"""Augmentation of pictures and labels of their pixels: random sizes, crops, flips and colours, as mmseg does.

A sample is an image (3, h, w) and the labels of its pixels (h, w), both of bytes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from ropevit.data.ade import IGNORED
from ropevit.extras import require
from ropevit.tasks.segment.inference import view_size

#: Crops that are drawn until one is not mostly of one class (one, and ten again); the last one is taken.
TRIES = 11

#: Most that is added to or taken from bytes, the range of factors on contrast and saturation, and the most that hues
#: turn, as a share of the circle.
BRIGHTNESS, FACTORS, HUE = 32, (0.5, 1.5), 0.1

Sample = tuple[UInt8[Tensor, "3 _ _"], UInt8[Tensor, "_ _"]]

#: Turns what `AdeSource.read` gives into a sample.
Transform = Callable[[Image.Image, UInt8[np.ndarray, "H W"]], Sample]


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """How large pictures are and how they vary, in training and to measure on; the defaults are mmseg's.

    Raises:
        ValueError: If a field is out of range.

    Source: `configs/_base_/datasets/ade20k.py` of mmsegmentation; Mask2Former's: `short_sides`.
    """

    crop: int = 512
    """Side of the crops in pixels; smaller pictures are padded."""
    short: int = 512
    """Limit on the shorter side in pixels before the crop, multiplied with a drawn ratio."""
    long: int = 2048
    """Limit on the longer side, multiplied likewise."""
    ratios: tuple[float, float] = (0.5, 2.0)
    """Least and greatest ratio."""
    short_sides: tuple[int, ...] = ()
    """Lengths of the shorter side of which one is drawn instead, the longer one at most `long` (Mask2Former)."""
    most_of_one_class: float = 0.75
    """Crops of which no less of the labelled pixels are of one class are drawn again, up to ten times; 1 takes any."""
    pad: int | None = None
    """Value from 0 to 255 that pads pictures smaller than the crop, before they are normalised (Mask2Former: 128); None
    pads them with the mean."""
    flip: float = 0.5
    """Share of images that are mirrored left to right."""
    colours: bool = True
    """Vary brightness, contrast, saturation and hue."""
    test_short: int = 512
    """Limit on the shorter side in pixels to measure on."""
    test_long: int = 2048
    """Limit on the longer side to measure on."""

    def __post_init__(self) -> None:
        for name in ("ratios", "short_sides"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("crop", "short", "long", "test_short", "test_long"):
            if getattr(self, name) < 1:
                raise ValueError(f"got {name}={getattr(self, name)}; expected at least 1 pixel")
        if min(self.short_sides, default=1) < 1 or max(self.short_sides, default=1) > self.long:
            raise ValueError(f"got short_sides={self.short_sides}; expected 1 to long={self.long} pixels each")
        if self.short_sides and (self.short, self.ratios) != (CropConfig.short, CropConfig.ratios):
            raise ValueError(
                f"got short={self.short}, ratios={self.ratios} with short_sides, drawn instead of them; leave them at "
                f"{CropConfig.short} and {CropConfig.ratios}, or give no short_sides"
            )
        if len(self.ratios) != 2 or not 0 < self.ratios[0] <= self.ratios[1]:
            raise ValueError(f"got ratios={self.ratios}; expected the least and the greatest, above 0")
        if self.pad is not None and not 0 <= self.pad <= 255:
            raise ValueError(f"got pad={self.pad}; expected a value of a pixel, 0 to 255, or None for the mean")
        if not 0 <= self.flip <= 1 or not 0 < self.most_of_one_class <= 1:
            raise ValueError(
                f"got flip={self.flip}, most_of_one_class={self.most_of_one_class}; expected 0 to 1, and above 0 to 1"
            )


@dataclass(frozen=True)
class TrainTransform:
    """Augment a sample, drawing from torch's random numbers.

    Images are resized with antialiasing, which mmseg does without, and labels to the nearest pixel.
    """

    config: CropConfig

    def __call__(self, picture: Image.Image, labels: UInt8[np.ndarray, "H W"]) -> Sample:
        """Resize, cut out, mirror and colour a picture; it is at most as large as the crop, and perhaps smaller."""
        config = self.config
        size = draw_size((picture.height, picture.width), config)
        image, truth = cut(*resized(picture, labels, size), config)
        if uniform(0, 1) < config.flip:
            image, truth = image.flip(2), truth.flip(1)
        return (distort(image) if config.colours else image), truth


def draw_size(size: tuple[int, int], config: CropConfig) -> tuple[int, int]:
    """Draw the height and width to which a picture of a height and width is resized."""
    if config.short_sides:
        short = config.short_sides[integer(len(config.short_sides))]
        return view_size(size, short, config.long)
    return view_size(size, config.short, config.long, uniform(*config.ratios))


def resized(picture: Image.Image, labels: UInt8[np.ndarray, "H W"], size: tuple[int, int]) -> Sample:
    """Bring a picture and its labels to a height and width of at least one pixel each."""
    functional: Any = require("torchvision.transforms.v2.functional", "train")
    size = max(size[0], 1), max(size[1], 1)
    image = functional.pil_to_tensor(functional.resize(picture, list(size)))
    truth = functional.resize(
        torch.from_numpy(labels.copy())[None], list(size), interpolation=functional.InterpolationMode.NEAREST_EXACT
    )
    return image, truth[0]


def cut(image: UInt8[Tensor, "3 H W"], labels: UInt8[Tensor, "H W"], config: CropConfig) -> Sample:
    """Cut out a square, or what there is of it, in which no class has more than its share.

    Source: `RandomCrop` of mmsegmentation, `cat_max_ratio`.
    """
    height, width = labels.shape
    rows = columns = slice(None)
    for _ in range(TRIES):
        top, left = integer(max(height - config.crop, 0) + 1), integer(max(width - config.crop, 0) + 1)
        rows, columns = slice(top, top + config.crop), slice(left, left + config.crop)
        if config.most_of_one_class == 1 or largest_share(labels[rows, columns]) < config.most_of_one_class:
            break
    return image[:, rows, columns], labels[rows, columns]


def largest_share(labels: UInt8[Tensor, "H W"]) -> float:
    """Give the share of the commonest class among the labelled pixels; 1 where there are none."""
    counts = labels.flatten().bincount(minlength=IGNORED + 1)[:IGNORED]
    return float(counts.max() / counts.sum()) if counts.any() else 1.0


def distort(image: UInt8[Tensor, "3 H W"]) -> UInt8[Tensor, "3 H W"]:
    """Vary brightness, contrast, saturation and hue, each in half of the images.

    Brightness is added; contrast is a factor on all bytes, before or after the others; saturation is that of HSV.

    Source: Liu et al. 2016 (arXiv:1512.02325), as `PhotoMetricDistortion` of mmsegmentation.
    """
    functional: Any = require("torchvision.transforms.v2.functional", "train")
    if chance():
        image = (image.float() + uniform(-BRIGHTNESS, BRIGHTNESS)).clamp(0, 255).to(torch.uint8)
    early, contrast = chance(), chance()
    if contrast and early:
        image = functional.adjust_brightness(image, uniform(*FACTORS))
    if chance():
        image = saturate(image, uniform(*FACTORS))
    if chance():
        image = functional.adjust_hue(image, uniform(-HUE, HUE))
    if contrast and not early:
        image = functional.adjust_brightness(image, uniform(*FACTORS))
    return image


def saturate(image: UInt8[Tensor, "3 H W"], factor: float) -> UInt8[Tensor, "3 H W"]:
    """Multiply the saturation in HSV, 1 at most: the largest channel of a pixel stays, the others move from or to it.

    Torchvision mixes with grey instead, which changes the largest channel and nearly keeps the brightness.
    """
    value = image.float()
    largest, span = value.amax(0), value.amax(0) - value.amin(0)
    factors = (largest / span.clamp(min=1)).clamp(max=factor)  # grey pixels stay, whatever the factor
    return (largest - (largest - value) * factors).round().to(torch.uint8)


def chance() -> bool:
    """Toss a coin."""
    return integer(2) == 1


def integer(count: int) -> int:
    """Draw a whole number from 0 to below `count`."""
    return int(torch.randint(count, ()))


def uniform(least: float, most: float) -> float:
    """Draw a number."""
    return least + (most - least) * float(torch.rand(()))
