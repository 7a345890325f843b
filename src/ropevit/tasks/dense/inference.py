"""Settings of inference with a detector or segmenter over a data set."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class InferenceSettings:
    """Image sizes, normalization, precision and processes of inference."""

    short: int
    """Limit on the shorter side in pixels."""
    long: int
    """Limit on the longer side in pixels."""
    mean: Float[Tensor, "3 1 1"]
    """Mean of each channel, for pixels from 0 to 1, on the device."""
    std: Float[Tensor, "3 1 1"]
    """Standard deviation of each channel."""
    workers: int
    """Number of DataLoader workers; 0 reads in this process."""
    world: int
    """Number of processes over which the images are divided."""
    rank: int
    """Rank of this process."""
    autocast: Callable[[], AbstractContextManager]
    """Returns a context with the precision of the forward pass."""
    resize_first: tuple[int, int] | None = None
    """Limits on the shorter and the longer side to which an image is resized before it is resized to `short` and
    `long`; None resizes it once."""
