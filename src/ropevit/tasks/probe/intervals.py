"""95 % intervals of accuracies, and of their differences on the same images."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from torch import Tensor

#: Number of resamples.
ROUNDS = 10_000
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


def paired_difference(
    before: Int[Tensor, "n 2"], after: Int[Tensor, "n 2"], seed: int = 0, rounds: int = ROUNDS
) -> Interval:
    """Return the difference of two accuracies on the same images, in points, with a bootstrap interval.

    An image's difference is -1, 0 or 1. Drawing as many images with replacement means drawing how often each of the
    three occurs, from a multinomial distribution. Percentiles 2.5 and 97.5 of the resampled means are returned.

    Args:
        before: Correct and all predictions of each image; those without predictions in either are left out.
        after: The same of other predictions.
        seed: Seed of the resamples.
        rounds: Number of resamples.

    Raises:
        ValueError: If no image has predictions in both.

    Source: Efron 1979, "Bootstrap methods: another look at the jackknife".
    """
    both = (before[:, 1] > 0) & (after[:, 1] > 0)
    change = (after[both, 0] - before[both, 0]).numpy()
    if not len(change):
        raise ValueError("got no image with predictions in both; nothing to compare")
    shares = [float((change == value).mean()) for value in (-1, 1)]
    drawn = np.random.default_rng(seed).multinomial(len(change), [*shares, max(0.0, 1 - sum(shares))], rounds)
    low, high = np.percentile(100 * (drawn[:, 1] - drawn[:, 0]) / len(change), (2.5, 97.5))
    return Interval(100 * float(change.mean()), float(low), float(high))
