"""95 % intervals of scores, and of their differences on the same images."""

import math
from typing import NamedTuple

from jaxtyping import Int
from torch import Tensor

from ropevit.tasks.evaluation.scaling_search import accuracy, paired_gain

#: Standard errors to either side of a 95 % interval.
_WIDTH = 1.96


class Interval(NamedTuple):
    """A value in percent, or a difference in points, with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.1f} ({self.low:.1f} to {self.high:.1f})"

    @property
    def signed(self) -> str:
        """The text of a difference."""
        return f"{self.value:+.1f} ({self.low:+.1f} to {self.high:+.1f})"

    @property
    def is_shown(self) -> bool:
        """Whether a difference is on one side of 0, with its whole interval."""
        return self.low > 0 or self.high < 0


def accuracy_interval(counts: Int[Tensor, "n 2"]) -> Interval:
    """Return the accuracy in percent with Wilson's interval.

    Args:
        counts: Correct and all predictions of each image.

    Raises:
        ValueError: If no image could be read.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    right, count = counts.sum(0).tolist()
    if not count:
        raise ValueError("no test image could be read, so there is nothing to measure; see `ropevit data check`")
    share, z = right / count, _WIDTH**2 / count
    center = (share + z / 2) / (1 + z)
    half = _WIDTH * math.sqrt(share * (1 - share) / count + z / (4 * count)) / (1 + z)
    return Interval(100 * share, 100 * max(0.0, center - half), 100 * min(1.0, center + half))


def accuracy_difference(before: Int[Tensor, "n 2"], after: Int[Tensor, "n 2"]) -> Interval:
    """Return the difference of two accuracies on the same images, in points, with the interval of `paired_gain`.

    Args:
        before: Correct and all predictions of each image; those without predictions in either are left out.
        after: The same of other predictions.

    Raises:
        ValueError: If fewer than two images have predictions in both.
    """
    gain = paired_gain(before, after, accuracy)
    return Interval(gain.points, gain.low, gain.high)
