"""Choose a RoPE scaling method on one half of the images, and measure its gain with an interval on the other half.

An image has counts (such as correct and all predictions). They are summed over images before the score is computed, so
that mean IoU is handled like accuracy.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ropevit.data.rng import make_generator

#: The half on which the method is chosen, and the half on which its gain is reported.
Half = Literal["choose", "report"]
#: Returns counts (M, n, ...) for M scaling methods on the n images of a half; an unreadable image has zeros.
Measure = Callable[[Sequence[str], Half], Tensor]
#: Computes a score in percent from counts added up over images: (M, ...) to (M,).
Score = Callable[[Tensor], Tensor]

#: Minimum number of images in a half.
MIN_IMAGES = 20
#: Value of `--scaling` without RoPE scaling.
NONE = "none"

#: Standard errors to either side of a 95 % interval.
_WIDTH = 1.96
#: Powers of `log` in the grid.
_POWERS = (0.0, 0.5, 1.0)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A point of the search: a method that changes frequencies, and the power of `log`."""

    method: str = NONE
    """Method that changes frequencies: none, pi, ntk or parts."""
    slow: float = 0.5
    """Rotations up to which `parts` interpolates."""
    fast: float = 2.0
    """Rotations from which `parts` changes nothing."""
    power: float = 0.0
    """Power of `log`, the attention factor; 0 for none. At one size, any attention factor is some power."""

    @property
    def name(self) -> str:
        """Value of `--scaling`."""
        options = f"(slow={self.slow:g},fast={self.fast:g})" if self.method == "parts" else ""
        parts = [] if self.method == NONE else [self.method + options]
        parts += [] if self.power == 0 else ["log" if self.power == 1 else f"log(power={self.power:g})"]
        return "+".join(parts) or NONE


#: Methods in the grid that change frequencies.
_METHODS = (
    *(Candidate(method=name) for name in (NONE, "pi", "ntk")),
    *(Candidate(method="parts", slow=slow, fast=fast) for slow, fast in ((0.25, 0.5), (0.5, 1.0), (0.5, 2.0))),
)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A scaling method with its score in percent on the half on which the method is chosen."""

    scaling: str
    score: float


@dataclass(frozen=True, kw_only=True)
class Gain:
    """Scores in percent without and with the chosen method, on the half that the search has not seen."""

    before: float
    after: float
    low: float
    """Lower end of the 95 % interval of the gain, in points."""
    high: float

    @property
    def points(self) -> float:
        """The gain in points."""
        return self.after - self.before

    @property
    def shown(self) -> bool:
        """Whether the whole interval is above 0."""
        return self.low > 0

    def __str__(self) -> str:
        return f"{self.points:+.1f} ({self.low:+.1f} to {self.high:+.1f})"


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """Result of a search."""

    baseline: str
    """The model's own scaling, against which gains are measured: `none` for most."""
    chosen: str
    """The method with the highest score in the search."""
    trials: tuple[Trial, ...]
    """All methods tried, in order; the baseline first."""
    gain: Gain
    """Gain of the chosen method over the baseline."""
    counts: tuple[Tensor, Tensor]
    """Counts (n, ...) of the baseline and of the chosen method, on the half that the search has not seen."""

    @property
    def recommended(self) -> str:
        """The chosen method if its gain is significant, else the baseline."""
        return self.chosen if self.gain.shown else self.baseline


def split_images(count: int, *keys: str | int) -> dict[Half, Int[Tensor, "n"]]:
    """Split images at random into two halves, reproducibly: the split depends only on the arguments.

    Args:
        count: Number of images.
        keys: Name of the random stream.

    Returns:
        Ascending indices of each half.

    Raises:
        ValueError: If there are too few images for an interval.
    """
    if count < 2 * MIN_IMAGES:
        raise ValueError(
            f"got {count} images to choose a scaling method with; expected at least {2 * MIN_IMAGES}: half of them "
            "choose the method, the others measure its gain"
        )
    order = torch.randperm(count, generator=make_generator("scaling", "halves", *keys))
    return {"choose": order[: count // 2].sort().values, "report": order[count // 2 :].sort().values}


def coarse_grid() -> list[Candidate]:
    """Return the candidates of the first pass: each method that changes frequencies, with each power of `log`."""
    return [replace(method, power=power) for power in _POWERS for method in _METHODS]


def neighbors(best: Candidate) -> dict[str, list[Candidate]]:
    """Return the candidates of the refinement: option -> the best candidate with other values of it."""
    beyond = {min(_POWERS): [-0.5], max(_POWERS): [0.5]}.get(best.power, [])  # at an end of the grid
    found = {"power": [replace(best, power=best.power + step) for step in (*beyond, -0.25, 0.25)]}
    if best.method == "parts":
        found["slow"] = [replace(best, slow=best.slow * factor) for factor in (0.5, 1.5)]
        found["fast"] = [replace(best, fast=best.fast * factor) for factor in (0.75, 1.5)]
    return {name: list(dict.fromkeys(each for each in some if each.slow < each.fast)) for name, some in found.items()}


def search_scaling(measure: Measure, score: Score, baseline: str = NONE) -> SearchResult:
    """Choose a scaling method by a grid search and one refinement around the best, at most 27 methods.

    Only the baseline and the chosen method are measured on the other half. Of methods with equal scores the first one
    is chosen, and the baseline is the first of all.

    Args:
        measure: Returns the counts of images with scaling methods.
        score: Computes the score of counts.
        baseline: The model's own scaling, as a name for `measure`.
    """
    scores: dict[str, float] = {}

    def attempt(candidates: Sequence[str]) -> None:
        new = [name for name in dict.fromkeys(candidates) if name not in scores]
        if new:
            found = score(measure(new, "choose").double().sum(1)).tolist()
            scores.update(zip(new, found, strict=True))

    grid = {each.name: each for each in coarse_grid()}
    attempt([baseline, *grid])
    best = max(grid.values(), key=lambda each: scores[each.name])
    around = neighbors(best)
    attempt([each.name for some in around.values() for each in some])
    together = {
        name: getattr(max([best, *some], key=lambda each: scores[each.name]), name) for name, some in around.items()
    }
    if (combined := replace(best, **together)).slow < combined.fast:
        attempt([combined.name])
    chosen = max(scores, key=lambda name: scores[name])
    return _report(measure, score, scores, baseline, chosen)


def _report(measure: Measure, score: Score, scores: dict[str, float], baseline: str, chosen: str) -> SearchResult:
    """Measure the gain of the chosen method on the other half."""
    names = list(dict.fromkeys((baseline, chosen)))
    counts = measure(names, "report")
    before, after = counts[0], counts[-1]
    return SearchResult(
        baseline=baseline,
        chosen=chosen,
        trials=tuple(Trial(scaling=name, score=value) for name, value in scores.items()),
        gain=paired_gain(before, after, score),
        counts=(before, after),
    )


def paired_gain(before: Tensor, after: Tensor, score: Score) -> Gain:
    """Compute the gain on the same images, with a 95 % interval over images.

    The interval is Wald's of the differences of the jackknife's pseudo-values (for an accuracy: of the paired
    correctness), after two images are added, one with the largest difference either way. For an accuracy that is the
    interval of Bonett and Price, which also holds with few images and few differences.

    Args:
        before: Counts (n, ...) of the images; an image whose counts are all 0 could not be read, and is ignored.
        after: Counts of the same images.
        score: Computes the score of counts.

    Raises:
        ValueError: If fewer than two images have counts.

    Source: Bonett and Price 2012, "Adjusted Wald confidence interval for a difference of binomial proportions based on
    paired data", Journal of Educational and Behavioral Statistics 37(4), pages 479 to 488.
    """
    both = torch.stack([before, after]).double()
    both = both[:, (both.flatten(2).sum(2) > 0).all(0)]
    number = both.shape[1]
    if number < 2:
        raise ValueError(f"got {number} images that could be read; expected at least {MIN_IMAGES}")
    total = both.sum(1)
    whole, rest = score(total), score((total[:, None] - both).flatten(0, 1)).unflatten(0, (2, number))
    center, error = _adjusted_mean(number * (whole[1] - whole[0]) - (number - 1) * (rest[1] - rest[0]))
    return Gain(
        before=whole[0].item(), after=whole[1].item(), low=center - _WIDTH * error, high=center + _WIDTH * error
    )


def _adjusted_mean(differences: Float[Tensor, "n"]) -> tuple[float, float]:
    """Return mean and standard error after adding two images: the largest difference, with either sign."""
    most = differences.abs().max()
    values = torch.cat([differences, torch.stack([most, -most])])
    return values.mean().item(), values.std(correction=0).item() / math.sqrt(len(values))


def accuracy(counts: Float[Tensor, "M *sizes 2"]) -> Float[Tensor, "M"]:
    """Compute an accuracy in percent, averaged over sizes if there are several.

    Args:
        counts: Correct and all predictions, summed over images, for each size.
    """
    return (100 * counts[..., 0] / counts[..., 1]).reshape(len(counts), -1).mean(1)
