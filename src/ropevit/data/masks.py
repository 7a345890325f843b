"""Masks of COCO: polygons, or runs of pixels (RLE), column by column, plain or compressed."""

from typing import Any

#: Bits beyond which a number is none of pixels.
LONGEST = 40


def mask_fault(mask: Any, height: int, width: int) -> str | None:
    """Say what is wrong with a mask, if anything; None for none.

    Args:
        mask: Polygons [[x, y, x, y, ...], ...], or {"size": [height, width], "counts": runs}.
        height: Of the image, in pixels.
        width: Of the image.
    """
    if mask is None or mask == []:
        return None
    if isinstance(mask, list):
        sound = all(isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in mask)
        numbers = [value for polygon in mask for value in polygon] if sound else [None]
        finite = all(isinstance(value, int | float) and abs(value) < float("inf") for value in numbers)
        return None if finite else "has a polygon that is no list of three corners or more"
    if not isinstance(mask, dict) or mask.get("size") != [height, width]:
        size = mask.get("size") if isinstance(mask, dict) else mask
        return f"has runs of pixels for {size}, the image is [{height}, {width}]"
    counts = mask.get("counts")
    runs = decode_runs(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(isinstance(run, int) and run >= 0 for run in runs):
        return "has runs of pixels that are no counts"
    if sum(runs) != height * width:
        return f"has runs of {sum(runs)} pixels, the image has {height * width}"
    return None


def decode_runs(text: str) -> list[int] | None:
    """Decode compressed runs; None where they are cut off or no such text.

    Six bits a character, from code 48 on: five of the number, lowest first, and one that says whether more follow. From
    the fourth run on a number is the difference from the run before the last.

    Source: cocodataset/cocoapi, maskApi.c.
    """
    runs, value, shift = [], 0, 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if shift > LONGEST:
            return None
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return None if shift else runs
