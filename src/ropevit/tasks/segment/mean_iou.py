"""mIoU, aAcc and mAcc as mmseg computes them: from the counts of all pixels, not from scores of images."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor

from ropevit.data.ade import IGNORED


@dataclass(frozen=True)
class SegmentationScores:
    """How well pixels are classified, each from 0 to 1; times 100 it is what is published."""

    miou: float
    """Mean of `iou` over the classes that have one."""
    pixel_accuracy: float
    """Share of the pixels that are right (aAcc)."""
    class_accuracy: float
    """Mean over the classes in the truth of the share of their pixels that are right (mAcc)."""
    iou: Float[Tensor, "K"]
    """Pixels both true and predicted of a class over those of either; NaN for classes neither true nor predicted."""

    def percent(self) -> dict[str, float]:
        """Give the three scores in percent by the names under which they are published."""
        scores = {"mIoU": self.miou, "aAcc": self.pixel_accuracy, "mAcc": self.class_accuracy}
        return {name: 100 * score for name, score in scores.items()}


def confusion(
    predicted: Int[Tensor, "*shape"], truth: Real[Tensor, "*shape"], classes: int
) -> Int[Tensor, "{classes} {classes}"]:
    """Count the pixels of each true class (row) that are predicted as each class (column).

    Counts of images are added up, those of several processes with `Communicator.all_reduce_sum`.

    Args:
        predicted: Class of each pixel, from 0.
        truth: The same as labelled; IGNORED pixels are not counted, whatever is predicted there.
        classes: Number of classes, K.

    Raises:
        ValueError: If a class is out of range.
    """
    counted = truth != IGNORED
    true, found = truth[counted].long(), predicted[counted].long()
    for name, values in (("predictions", found), ("labels", true)):
        if len(values) and (values.min() < 0 or values.max() >= classes):
            raise ValueError(
                f"got {name} from {int(values.min())} to {int(values.max())}; expected 0 to {classes - 1}, "
                f"or {IGNORED} as the label of pixels that are not counted"
            )
    return torch.bincount(true * classes + found, minlength=classes**2).unflatten(0, (classes, classes))


def segmentation_scores(counts: Real[Tensor, "K K"]) -> SegmentationScores:
    """Score what was counted.

    Args:
        counts: Pixels by true class (row) and predicted class (column), of all images and processes.

    Returns:
        The scores; means over nothing are NaN.

    Source: `IoUMetric` of mmsegmentation.
    """
    counts = counts.cpu().double()
    right, true, found = counts.diagonal(), counts.sum(1), counts.sum(0)
    iou = right / (true + found - right)  # 0 / 0 is NaN, which the mean leaves out
    return SegmentationScores(
        miou=iou.nanmean().item(),
        pixel_accuracy=(right.sum() / true.sum()).item(),
        class_accuracy=(right / true).nanmean().item(),
        iou=iou,
    )
