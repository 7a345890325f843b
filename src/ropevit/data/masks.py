"""Validation of COCO masks: polygons, or run-length encodings (RLE) in column order, plain or compressed."""

from typing import Any

import numpy as np
from jaxtyping import Bool

#: Maximum bits of a run length; longer numbers are damaged.
MAX_BITS = 40


def mask_fault(mask: Any, height: int, width: int) -> str | None:
    """Return what is wrong with a mask, or None.

    Args:
        mask: Polygons [[x, y, x, y, ...], ...], or {"size": [height, width], "counts": runs}.
        height: Height of the image in pixels.
        width: Width of the image in pixels.
    """
    if mask is None or mask == []:
        return None
    if isinstance(mask, list):
        sound = all(isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in mask)
        numbers = [value for polygon in mask for value in polygon] if sound else [None]
        finite = all(isinstance(value, int | float) and abs(value) < float("inf") for value in numbers)
        return None if finite else "has a polygon that is not a list of at least three corners"
    if not isinstance(mask, dict) or mask.get("size") != [height, width]:
        size = mask.get("size") if isinstance(mask, dict) else mask
        return f"has an RLE mask of size {size}, the image is [{height}, {width}]"
    counts = mask.get("counts")
    runs = decode_runs(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(isinstance(run, int) and run >= 0 for run in runs):
        return "has an RLE mask whose counts are not whole numbers from 0"
    if sum(runs) != height * width:
        return f"has an RLE mask of {sum(runs)} pixels, the image has {height * width}"
    return None


def decode_runs(text: str) -> list[int] | None:
    """Decode compressed run lengths; None if they are cut off or malformed.

    Each character holds six bits, offset by 48: five bits of the number, lowest first, and a continuation bit. From the
    fourth run on, numbers are differences from the run before the last.

    Source: cocodataset/cocoapi, maskApi.c.
    """
    runs, value, shift = [], 0, 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if shift > MAX_BITS:
            return None
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return None if shift else runs


def decode_mask(mask: dict[str, Any]) -> Bool[np.ndarray, "H W"]:
    """Decode a sound RLE mask, plain or compressed: runs of pixels outside and inside in turn, column by column."""
    counts = mask["counts"]
    runs = (decode_runs(counts) or []) if isinstance(counts, str) else counts
    values = np.arange(len(runs)) % 2 == 1
    height, width = mask["size"]
    return values.repeat(runs).reshape(width, height).T
