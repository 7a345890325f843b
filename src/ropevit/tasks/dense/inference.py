"""How a detector or segmenter is run over a data set, during and after its training."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class InferenceSettings:
    """How images are resized and normalised, in which precision, and which of the processes takes which images."""

    short: int
    """Limit on the shorter side in pixels."""
    long: int
    """Limit on the longer side in pixels."""
    mean: Float[Tensor, "3 1 1"]
    """Mean of each channel, for pixels from 0 to 1, on the device."""
    std: Float[Tensor, "3 1 1"]
    """Standard deviation of each channel."""
    workers: int
    """Processes that read images for this one; 0 reads in this one."""
    world: int
    """Number of processes that share the images."""
    rank: int
    """Rank of this process."""
    autocast: Callable[[], AbstractContextManager]
    """Sets the precision."""
