"""Segmentation panel `field`: a larger canvas shows more of the scene at the same scale."""

from collections.abc import Iterator
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ropevit.data.canvas import paint_canvases
from ropevit.data.crops import normalize
from ropevit.data.rng import make_generator
from ropevit.models.vit import ViT
from ropevit.study.panels.base import CheckStop, MajorityScore, Transform, batches
from ropevit.study.panels.canvases import CanvasPanel
from ropevit.study.panels.pixels import mean_iou, predict_pixels
from ropevit.tasks.evaluation.inference_modes import InferenceMode


class FieldPanel(CanvasPanel):
    """Label every pixel of a canvas; a larger test canvas shows more items at the same scale.

    The metric is the mean intersection over union in
    percent, the background counted as a label, over all canvases of a size together; a label that neither occurs nor is
    predicted is excluded from the mean.
    """

    name: ClassVar[str] = "field"
    title: ClassVar[str] = "larger field of view"
    metric: ClassVar[str] = "mean IoU (%)"
    majority_name: ClassVar[str] = "everything background"

    def batch(
        self, seed: int, step: int, size: int | None = None
    ) -> tuple[Float[Tensor, "B c s s"], Int[Tensor, "B s s"]]:
        """Paint new canvases."""
        settings, generator = self.settings, make_generator(self.name, seed, "step", step)
        canvases, truth = paint_canvases(
            *self.train, size or settings.train_size, settings.batch_size, settings.canvas, generator
        )
        return normalize(canvases), truth

    def score(self, model: ViT, size: int, check: CheckStop, mode: InferenceMode = "whole") -> float:
        """Mean IoU on test canvases of a size, the same ones for every model and seed."""
        return self.iou(size, check, lambda images: predict_pixels(model, images, mode))

    def iou(self, size: int, check: CheckStop, label: Transform) -> float:
        """Return the mean IoU in percent of a function that labels the pixels of normalized canvases."""
        num_labels, device = len(self.labels), self.train[0].device
        confusion = torch.zeros(num_labels * num_labels, dtype=torch.long, device=device)
        for canvases, truth in self.canvases(size):
            check()
            predicted = label(normalize(canvases))
            confusion += (truth * num_labels + predicted).flatten().bincount(minlength=num_labels * num_labels)
        return 100 * mean_iou(confusion.unflatten(0, (num_labels, num_labels)))

    def counts(self, model: ViT, size: int, check: CheckStop, mode: InferenceMode = "whole") -> Int[Tensor, "N L 2"]:
        """Return the pixels in the intersection and in the union of truth and prediction, of each canvas and label."""
        found = []
        for canvases, truth in self.canvases(size):
            check()
            predicted = predict_pixels(model, normalize(canvases), mode)
            is_true, is_found = (
                torch.stack([(labels == kind).flatten(1) for kind in range(len(self.labels))], 1)
                for labels in (truth, predicted)
            )
            found.append(torch.stack([(is_true & is_found).sum(2), (is_true | is_found).sum(2)], 2))
        return torch.cat(found)

    def score_of(self, counts: Tensor) -> Tensor:
        """Compute mean IoUs over the labels that occur or are predicted."""
        hit, union = counts.unbind(-1)
        return 100 * (hit / union.clamp(min=1)).sum(1) / (union > 0).sum(1)

    def canvases(self, size: int) -> Iterator[tuple[Float[Tensor, "B c s s"], Int[Tensor, "B s s"]]]:
        """Paint the test canvases of a size, batch by batch."""
        for part in batches(self.settings.test_canvases, size, self.settings.patch_size):
            generator = make_generator(self.name, self.test_name, size, part.start)
            yield paint_canvases(*self.test, size, part.stop - part.start, self.settings.canvas, generator)

    def majority_score(self, size: int) -> MajorityScore:
        """Return the score of labelling every pixel background, with the jackknife standard error over canvases."""
        num_labels = len(self.labels)
        counts = torch.cat(
            [
                torch.stack([(truth == kind).sum((1, 2)) for kind in range(num_labels)], 1)
                for _, truth in self.canvases(size)
            ]
        )
        rest = _background_iou(counts.sum(0) - counts) if len(counts) > 1 else _background_iou(counts)
        error = ((len(rest) - 1) * rest.var(correction=0)).sqrt().item()
        return MajorityScore(_background_iou(counts.sum(0, keepdim=True)).item(), error)


def _background_iou(counts: Int[Tensor, "M L"]) -> Float[Tensor, "M"]:
    """Return the mean IoU in percent of labelling every pixel background, from pixel counts by label."""
    return 100 * counts[:, 0] / counts.sum(1) / (counts > 0).sum(1).clamp(min=1)
