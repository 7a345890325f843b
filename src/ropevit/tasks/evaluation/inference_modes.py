"""Inference modes for images of another size than the training's: whole, in tiles of that size, resized to it."""

from collections.abc import Iterator
from typing import Literal

from ropevit.arithmetic import ceil_div

#: Inference mode for an image larger than those of the training: whole; in tiles of the training size, each on its
#: own; or resized to the training size.
InferenceMode = Literal["whole", "tiles", "resize"]

#: The modes that need no position embedding for larger images.
Baseline = Literal["tiles", "resize"]

#: Labels of the baselines in figures.
BASELINE_LABELS: dict[str, str] = {"tiles": "in tiles of {size} px", "resize": "resized to {size} px"}


def window_spans(side: int, window: int, stride: int) -> Iterator[slice]:
    """Yield the sliding windows along one side: one every `stride` pixels, the last one flush with the end."""
    for number in range((max(side - window, 0) + stride - 1) // stride + 1):
        stop = min(number * stride + window, side)
        yield slice(max(stop - window, 0), stop)


def patch_tokens(height: int, width: int, patch_size: int) -> int:
    """Return the number of patch tokens of an image, of the first stage in a Swin; sides are padded to whole patches.

    Args:
        height: In pixels.
        width: In pixels.
        patch_size: Side of a patch in pixels.
    """
    return ceil_div(height, patch_size) * ceil_div(width, patch_size)
