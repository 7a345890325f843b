"""95 % intervals of mean IoUs, and of their differences on the same images, by the bootstrap over images."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ropevit.data.rng import make_generator
from ropevit.tasks.probe.intervals import Interval
from ropevit.tasks.segment.mean_iou import mean_iou

#: Number of resamples, and how many are computed at a time.
RESAMPLES, _AT_ONCE = 1000, 100
#: Ends of a 95 % interval.
_ENDS = (0.025, 0.975)
#: Number of images below which the bootstrap's intervals are too narrow.
FEW_IMAGES = 30


def iou_interval(counts: Int[Tensor, "n K 3"]) -> Interval:
    """Return the mean IoU in percent with the percentile interval of the bootstrap over images.

    Args:
        counts: Correct, predicted and true pixels of each class in each image; an image without any is left out.

    Raises:
        ValueError: If no image has any.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", section 13.3.
    """
    return _bootstrap(counts[:, None], lambda scores: scores[:, 0])


def iou_difference(before: Int[Tensor, "n K 3"], after: Int[Tensor, "n K 3"]) -> Interval:
    """Return the difference of two mean IoUs on the same images, in points, with such an interval.

    Args:
        before: Correct, predicted and true pixels of each class in each image.
        after: The same of other predictions; images without pixels in either are left out.

    Raises:
        ValueError: If no image has pixels in both.
    """
    return _bootstrap(torch.stack([before, after], 1), lambda scores: scores[:, 1] - scores[:, 0])


def _bootstrap(counts: Int[Tensor, "n M K 3"], value: Callable[[Tensor], Tensor]) -> Interval:
    """Return what `value` computes of the mean IoUs (R, M) of M predictions, with its interval over resamples."""
    counts = counts[(counts.flatten(2).sum(2) > 0).all(1)].double()
    if not len(counts):
        raise ValueError("no test image has labeled pixels, so there is nothing to measure; see `ropevit data check`")
    generator, found = make_generator("probe", "bootstrap"), []
    for _ in range(RESAMPLES // _AT_ONCE):
        drawn = torch.randint(len(counts), (_AT_ONCE, len(counts)), generator=generator)
        times = torch.zeros(_AT_ONCE, len(counts), dtype=torch.float64).scatter_add_(
            1, drawn, torch.ones(drawn.shape, dtype=torch.float64)
        )
        found.append(value(_scores(torch.tensordot(times, counts, 1))))
    low, high = torch.cat(found).quantile(torch.tensor(_ENDS, dtype=torch.float64)).tolist()
    return Interval(value(_scores(counts.sum(0, keepdim=True))).item(), low, high)


def _scores(counts: Float[Tensor, "R M K 3"]) -> Float[Tensor, "R M"]:
    """Return the mean IoU of each resample and prediction in percent."""
    return mean_iou(counts.flatten(0, 1)).unflatten(0, counts.shape[:2])


def majority_iou(counts: Int[Tensor, "n K 3"], label: int) -> float:
    """Return the mean IoU in percent of predicting one class for every pixel.

    Args:
        counts: Correct, predicted and true pixels of each class in each image, of any prediction.
        label: The class, such as the most frequent one in training.
    """
    true = counts.sum(0)[:, 2]
    correct, predicted = torch.zeros_like(true), torch.zeros_like(true)
    correct[label], predicted[label] = true[label], true.sum()
    return mean_iou(torch.stack([correct, predicted, true], 1).double()[None]).item()
