"""Grayscale images of more than 8 bits: conversion to 256 levels."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image

#: Assumed bit depths of integers: the smallest one that holds the largest value.
_DEPTHS = (8, 12, 16)
#: Rows converted at a time, to save memory.
_ROWS_AT_ONCE = 256
#: Name of the scale of a file whose minimum and maximum become black and white.
STRETCHED = "stretched"


class DepthScale(NamedTuple):
    """Linear mapping of the values of a file to levels: `low` becomes 0, `high` becomes 255."""

    name: str
    """Such as `12 bits`, `0 to 1` or `stretched`; equal names mean equal scales, except for `stretched`."""
    low: float
    high: float
    found: tuple[float, float]
    """Lowest and highest value of the file."""

    def __str__(self) -> str:
        low, high = self.found
        how = "from the lowest to the highest" if self.name == STRETCHED else f"as {self.name}"
        return f"values {low:g} to {high:g}, read {how}"


def is_deep(mode: str) -> bool:
    """Return whether a mode of Pillow has more than 8 bits per channel."""
    return mode == "F" or mode.startswith("I")


def depth_scale(image: Image.Image) -> DepthScale:
    """Choose the mapping of a deep image by its values only.

    Whole numbers from 0 on have the smallest depth of `_DEPTHS` that holds the largest of them; floats within 0 and 1
    have that range. Other values are stretched from minimum to
    maximum: a single file does not show what is black and white.

    Raises:
        ValueError: If values are NaN or infinite.
    """
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("holds values that are not finite (NaN or infinite)")
    whole = values.dtype.kind in "iu"
    if not whole and low >= 0 and high <= 1:
        return DepthScale("0 to 1", 0, 1, (low, high))
    for bits in _DEPTHS:
        if whole and low >= 0 and high < 2**bits:
            return DepthScale(f"{bits} bits", 0, 2**bits - 1, (low, high))
    return DepthScale(STRETCHED, low, high, (low, high))


def to_levels(image: Image.Image) -> UInt8[np.ndarray, "H W"]:
    """Convert a deep image to 256 levels; integers of a known depth keep their upper 8 bits.

    Raises:
        ValueError: If values are NaN or infinite.
    """
    scale, values = depth_scale(image), np.asarray(image)
    levels = np.empty(values.shape, dtype=np.uint8)
    for start in range(0, len(values), _ROWS_AT_ONCE):
        levels[start : start + _ROWS_AT_ONCE] = _scale_rows(values[start : start + _ROWS_AT_ONCE], scale)
    return levels


def _scale_rows(values: Shaped[np.ndarray, "h W"], scale: DepthScale) -> UInt8[np.ndarray, "h W"]:
    """Convert some rows to levels."""
    if scale.name.endswith("bits"):
        return (values >> int(scale.high).bit_length() - 8).astype(np.uint8)
    span = scale.high - scale.low or 1.0
    return np.rint((values.astype(np.float64) - scale.low) / span * 255).astype(np.uint8)
