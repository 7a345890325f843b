"""Augmentation for segmentation as in mmseg: random resize, crop, flip and photometric distortion.

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

#: Most crops that are drawn until one satisfies `cat_max_ratio`; the last one is taken in any case.
_TRIES = 11

#: Largest change of brightness in bytes, range of the factors on contrast and saturation, and largest shift of hue as a
#: fraction of the circle.
BRIGHTNESS, FACTORS, HUE = 32, (0.5, 1.5), 0.1

Sample = tuple[UInt8[Tensor, "3 _ _"], UInt8[Tensor, "_ _"]]

#: Makes a sample of an image and its labels, as `AdeSource.read` returns them.
Transform = Callable[[Image.Image, UInt8[np.ndarray, "H W"]], Sample]


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """Image sizes and augmentation in training, and sizes in evaluation; the defaults are mmseg's.

    Raises:
        ValueError: If a field is out of range.

    Source: `configs/_base_/datasets/ade20k.py` of mmsegmentation; Mask2Former's: `short_edge_lengths`.
    """

    crop_size: int = 512
    """Side of the crops in pixels; smaller images are padded."""
    short: int = 512
    """Before the crop, resize so that the shorter side does not exceed this and the longer one `long`, in pixels, both
    multiplied by a random ratio (mmseg: img_scale)."""
    long: int = 2048
    """Maximum of the longer side, multiplied by the same ratio."""
    ratio_range: tuple[float, float] = (0.5, 2.0)
    """Minimum and maximum ratio (mmseg ratio_range)."""
    short_edge_lengths: tuple[int, ...] = ()
    """Lengths of the shorter side, one of which is drawn instead of a ratio (Mask2Former); --long limits the longer."""
    cat_max_ratio: float = 0.75
    """Redraw a crop, at most ten times, while one class covers at least this fraction of its labeled pixels (mmseg
    cat_max_ratio); 1 disables."""
    pad_value: int | None = None
    """Value from 0 to 255 that pads images smaller than the crop before normalization (Mask2Former: 128); None pads
    with the mean."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    photometric_distortion: bool = True
    """Randomly change brightness, contrast, saturation and hue."""
    test_short: int = 512
    """In evaluation, resize so that the shorter side does not exceed this and the longer one `test_long`, in pixels."""
    test_long: int = 2048
    """Maximum of the longer side in evaluation."""

    def __post_init__(self) -> None:
        for name in ("ratio_range", "short_edge_lengths"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("crop_size", "short", "long", "test_short", "test_long"):
            if getattr(self, name) < 1:
                raise ValueError(f"got {name}={getattr(self, name)}; expected at least 1 pixel")
        if min(self.short_edge_lengths, default=1) < 1 or max(self.short_edge_lengths, default=1) > self.long:
            raise ValueError(
                f"got short_edge_lengths={self.short_edge_lengths}; expected 1 to long={self.long} pixels each"
            )
        if self.short_edge_lengths and (self.short, self.ratio_range) != (CropConfig.short, CropConfig.ratio_range):
            raise ValueError(
                f"got short={self.short}, ratio_range={self.ratio_range} with short_edge_lengths, drawn instead of "
                f"them; leave them at {CropConfig.short} and {CropConfig.ratio_range}, or give no short_edge_lengths"
            )
        if len(self.ratio_range) != 2 or not 0 < self.ratio_range[0] <= self.ratio_range[1]:
            raise ValueError(f"got ratio_range={self.ratio_range}; expected minimum and maximum, above 0")
        if self.pad_value is not None and not 0 <= self.pad_value <= 255:
            raise ValueError(f"got pad_value={self.pad_value}; expected 0 to 255, or None for the mean")
        if not 0 <= self.flip <= 1 or not 0 < self.cat_max_ratio <= 1:
            raise ValueError(
                f"got flip={self.flip}, cat_max_ratio={self.cat_max_ratio}; expected 0 to 1, and above 0 to 1"
            )


@dataclass(frozen=True)
class TrainTransform:
    """Training augmentation, which draws from torch's random numbers.

    Unlike in mmseg, images are resized with antialiasing; labels are resized to the nearest pixel.
    """

    config: CropConfig

    def __call__(self, image: Image.Image, labels: UInt8[np.ndarray, "H W"]) -> Sample:
        """Resize, crop, flip and distort an image; it may be smaller than the crop."""
        config = self.config
        size = draw_size((image.height, image.width), config)
        pixels, truth = random_crop(*resize(image, labels, size), config)
        if uniform(0, 1) < config.flip:
            pixels, truth = pixels.flip(2), truth.flip(1)
        return (photometric_distortion(pixels) if config.photometric_distortion else pixels), truth


def draw_size(size: tuple[int, int], config: CropConfig) -> tuple[int, int]:
    """Draw the height and width to which an image of a height and width is resized."""
    if config.short_edge_lengths:
        short = config.short_edge_lengths[randint(len(config.short_edge_lengths))]
        return view_size(size, short, config.long)
    return view_size(size, config.short, config.long, uniform(*config.ratio_range))


def resize(image: Image.Image, labels: UInt8[np.ndarray, "H W"], size: tuple[int, int]) -> Sample:
    """Resize an image and its labels to a height and width of at least one pixel each."""
    functional: Any = require("torchvision.transforms.v2.functional", "train")
    shape = [max(size[0], 1), max(size[1], 1)]
    nearest = functional.InterpolationMode.NEAREST_EXACT
    truth = functional.resize(torch.from_numpy(labels.copy())[None], shape, interpolation=nearest)
    return functional.pil_to_tensor(functional.resize(image, shape)), truth[0]


def random_crop(image: UInt8[Tensor, "3 H W"], labels: UInt8[Tensor, "H W"], config: CropConfig) -> Sample:
    """Crop a square, or as much of it as the image has, at a random place where no class exceeds `cat_max_ratio`.

    Source: `RandomCrop` of mmsegmentation, `cat_max_ratio`.
    """
    height, width = labels.shape
    rows = columns = slice(None)
    for _ in range(_TRIES):
        top, left = randint(max(height - config.crop_size, 0) + 1), randint(max(width - config.crop_size, 0) + 1)
        rows, columns = slice(top, top + config.crop_size), slice(left, left + config.crop_size)
        if config.cat_max_ratio == 1 or largest_class_fraction(labels[rows, columns]) < config.cat_max_ratio:
            break
    return image[:, rows, columns], labels[rows, columns]


def largest_class_fraction(labels: UInt8[Tensor, "H W"]) -> float:
    """Return the fraction of the labeled pixels that the most frequent class covers; 1 without labeled pixels."""
    counts = labels.flatten().bincount(minlength=IGNORED + 1)[:IGNORED]
    return float(counts.max() / counts.sum()) if counts.any() else 1.0


def photometric_distortion(image: UInt8[Tensor, "3 H W"]) -> UInt8[Tensor, "3 H W"]:
    """Change brightness, contrast, saturation and hue, each with probability 0.5.

    Brightness is added; contrast is a factor on all bytes, before or after the others; saturation is that of HSV.

    Source: Liu et al. 2016 (arXiv:1512.02325), as `PhotoMetricDistortion` of mmsegmentation.
    """
    functional: Any = require("torchvision.transforms.v2.functional", "train")
    if _coin_flip():
        image = (image.float() + uniform(-BRIGHTNESS, BRIGHTNESS)).clamp(0, 255).to(torch.uint8)
    early, contrast = _coin_flip(), _coin_flip()
    if contrast and early:
        image = functional.adjust_brightness(image, uniform(*FACTORS))
    if _coin_flip():
        image = saturate(image, uniform(*FACTORS))
    if _coin_flip():
        image = functional.adjust_hue(image, uniform(-HUE, HUE))
    if contrast and not early:
        image = functional.adjust_brightness(image, uniform(*FACTORS))
    return image


def saturate(image: UInt8[Tensor, "3 H W"], factor: float) -> UInt8[Tensor, "3 H W"]:
    """Multiply the saturation in HSV, 1 at most: the largest channel of a pixel stays, the others move from or to it.

    Torchvision mixes with gray instead, which changes the largest channel and nearly keeps the brightness.
    """
    value = image.float()
    largest, span = value.amax(0), value.amax(0) - value.amin(0)
    factors = (largest / span.clamp(min=1)).clamp(max=factor)  # gray pixels stay, whatever the factor
    return (largest - (largest - value) * factors).round().to(torch.uint8)


def _coin_flip() -> bool:
    """Return True with probability 0.5."""
    return randint(2) == 1


def randint(count: int) -> int:
    """Draw an integer from 0 to below `count`."""
    return int(torch.randint(count, ()))


def uniform(least: float, most: float) -> float:
    """Draw a number from `least` to `most`."""
    return least + (most - least) * float(torch.rand(()))
