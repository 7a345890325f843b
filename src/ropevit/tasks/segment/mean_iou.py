"""mIoU, aAcc and mAcc as in mmseg: from the confusion matrix of all images, not averaged over images."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Integer, Real
from torch import Tensor

from ropevit.data.ade import IGNORED


@dataclass(frozen=True)
class SegmentationScores:
    """Segmentation metrics, each from 0 to 1."""

    miou: float
    """Mean of `iou` over the classes for which it is defined."""
    pixel_accuracy: float
    """Fraction of correctly classified pixels (aAcc)."""
    class_accuracy: float
    """Mean over labeled classes of the fraction of their pixels that are classified correctly (mAcc)."""
    iou: Float[Tensor, "K"]
    """Intersection over union of each class; NaN for classes that are neither labeled nor predicted."""

    def percent(self) -> dict[str, float]:
        """Return the three scores in percent, by their usual names."""
        scores = {"mIoU": self.miou, "aAcc": self.pixel_accuracy, "mAcc": self.class_accuracy}
        return {name: 100 * score for name, score in scores.items()}


def confusion(
    predicted: Integer[Tensor, "*shape"], truth: Real[Tensor, "*shape"], classes: int
) -> Int[Tensor, "{classes} {classes}"]:
    """Compute a confusion matrix: pixels by true class (row) and predicted class (column).

    Those of several images are summed, those of several processes with `Communicator.all_reduce_sum`.

    Args:
        predicted: Predicted class of each pixel, from 0.
        truth: True class of each pixel; IGNORED pixels are not counted.
        classes: Number of classes, K.

    Raises:
        ValueError: If a class is out of range.
    """
    counted = truth != IGNORED
    true, chosen = truth[counted].long(), predicted[counted].long()
    for name, values in (("predictions", chosen), ("labels", true)):
        if len(values) and (values.min() < 0 or values.max() >= classes):
            raise ValueError(
                f"got {name} from {int(values.min())} to {int(values.max())}; expected 0 to {classes - 1}, "
                f"or {IGNORED} as the label of pixels that are not counted"
            )
    return torch.bincount(true * classes + chosen, minlength=classes**2).unflatten(0, (classes, classes))


def segmentation_scores(counts: Real[Tensor, "K K"]) -> SegmentationScores:
    """Compute the metrics of a confusion matrix.

    Args:
        counts: Pixels by true class (row) and predicted class (column), of all images and processes.

    Returns:
        The metrics; NaN where no class has pixels.

    Source: `IoUMetric` of mmsegmentation.
    """
    counts = counts.cpu().double()
    correct, true, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    iou = correct / (true + predicted - correct)  # 0 / 0 is NaN, which nanmean ignores
    return SegmentationScores(
        miou=iou.nanmean().item(),
        pixel_accuracy=(correct.sum() / true.sum()).item(),
        class_accuracy=(correct / true).nanmean().item(),
        iou=iou,
    )
