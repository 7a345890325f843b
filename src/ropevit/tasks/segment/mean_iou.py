"""mIoU, aAcc and mAcc as in mmseg: from the confusion matrix of all images, not averaged over images."""

from dataclasses import dataclass
from typing import Any

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


def mean_iou(counts: Float[Tensor, "M *sizes K 3"]) -> Float[Tensor, "M"]:
    """Compute the mean IoU in percent, averaged over sizes if there are several; NaN classes are left out.

    Args:
        counts: Correct, predicted and true pixels of each class, summed over images, for each size.
    """
    correct, predicted, true = counts.unbind(-1)
    return (100 * correct / (predicted + true - correct)).nanmean(-1).reshape(len(counts), -1).mean(1)


def encode_pixels(counts: Tensor) -> list[str]:
    """Write counts (n, K, 3) as a line per image: `label correct predicted true` of its classes, with semicolons."""
    lines = []
    for image in counts:
        present = image.sum(1).nonzero()[:, 0].tolist()
        lines.append(";".join(" ".join(map(str, (label, *image[label].tolist()))) for label in present))
    return lines


def decode_pixels(lines: Any, classes: int) -> Tensor:
    """Read what `encode_pixels` wrote.

    Raises:
        ValueError: If it is something else.
    """
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise ValueError("it holds no images")
    counts = torch.zeros(len(lines), classes, 3, dtype=torch.int64)
    for image, line in zip(counts, lines, strict=True):
        for part in filter(None, line.split(";")):
            label, *pixels = map(int, part.split())
            if not 0 <= label < classes or len(pixels) != 3:
                raise ValueError(f"{part!r} are not pixels of a class")
            image[label] = torch.tensor(pixels)
    return counts
