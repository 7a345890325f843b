"""Panel `far`: a label that needs two places of the canvas, further apart than a tile of the training size."""

import math
from collections.abc import Iterator
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ropevit.data.canvas import paint_pairs
from ropevit.data.crops import normalize
from ropevit.data.labeled import LabeledImages
from ropevit.data.rng import make_generator
from ropevit.models.vit import ViT
from ropevit.study.panels.base import CheckStop, MajorityScore, batches
from ropevit.study.panels.canvases import CanvasPanel
from ropevit.study.panels.pixels import predict_pixels
from ropevit.study.settings import PanelSettings
from ropevit.tasks.evaluation.inference_modes import InferenceMode


class FarPanel(CanvasPanel):
    """Name the kind of an item from anywhere on the canvas; a larger test canvas puts it further away.

    Two items among others are marked by a bright disc behind them, and the mark of each has the label of the *other*
    item. All pixels are labeled, as in `field`. On canvases larger than the training size the two are so far apart,
    where there is room, that no tile of the training size sees both; and after a resize to the training size items
    have fewer pixels than any in training.

    The metric is the percentage of the pixels of marks with the right label.
    """

    name: ClassVar[str] = "far"
    title: ClassVar[str] = "longer distance"
    metric: ClassVar[str] = "accuracy on marks (%)"
    majority_name: ClassVar[str] = "always the most frequent label"

    def __init__(self, settings: PanelSettings, train: LabeledImages, test: LabeledImages):
        least = 2 * settings.canvas.tile
        if min(settings.train_size, *settings.test_sizes) < least:
            raise ValueError(
                f"got sizes from {min(settings.train_size, *settings.test_sizes)} px for the panel far; two items of "
                f"{settings.canvas.item_size} px need at least {least} px"
            )
        super().__init__(settings, train, test)

    def batch(
        self, seed: int, step: int, size: int | None = None
    ) -> tuple[Float[Tensor, "B c s s"], Int[Tensor, "B s s"]]:
        """Paint new canvases; their marked items are at any distance."""
        settings, generator = self.settings, make_generator(self.name, seed, "step", step)
        canvases, truth, _ = paint_pairs(
            self.train, size or settings.train_size, settings.batch_size, settings.canvas, generator
        )
        return normalize(canvases), truth

    def score(self, model: ViT, size: int, check: CheckStop, mode: InferenceMode = "whole") -> float:
        """Percentage of the pixels of marks with the right label, on the same canvases for every model and seed."""
        right, total = self.counts(model, size, check, mode).sum(0).tolist()
        return 100 * right / total

    def counts(self, model: ViT, size: int, check: CheckStop, mode: InferenceMode = "whole") -> Int[Tensor, "N 2"]:
        """Return correct and all pixels of marks on each test canvas."""
        found = []
        for canvases, truth, marks in self.canvases(size):
            check()
            right = (predict_pixels(model, normalize(canvases), mode) == truth) & marks
            found.append(torch.stack([right.sum((1, 2)), marks.sum((1, 2))], 1))
        return torch.cat(found)

    def score_of(self, counts: Tensor) -> Tensor:
        """Compute percentages."""
        return 100 * counts[:, 0] / counts[:, 1]

    def least_distance(self, size: int) -> int:
        """Return the least distance in pixels of the marked items' centers on a test canvas.

        Above the training size no square of the training size sees both, where the canvas has room for that.
        """
        if size <= self.settings.train_size:
            return 0
        item = self.settings.canvas.tile
        return min(self.settings.train_size + item, size - item)

    def canvases(
        self, size: int
    ) -> Iterator[tuple[Float[Tensor, "B c s s"], Int[Tensor, "B s s"], Bool[Tensor, "B s s"]]]:
        """Paint the test canvases of a size, batch by batch, with their labels and marks."""
        apart, canvas = self.least_distance(size), self.settings.canvas
        for part in batches(self.settings.test_canvases, size, self.settings.patch_size):
            generator = make_generator(self.name, self.test_name, size, part.start)
            yield paint_pairs(self.test, size, part.stop - part.start, canvas, generator, apart=apart)

    def majority_score(self, size: int) -> MajorityScore:
        """Return the score of always predicting the most frequent label of marks."""
        counts = sum(truth[marks].bincount(minlength=len(self.labels)) for _, truth, marks in self.canvases(size))
        share = (counts.max() / counts.sum()).item()  # pyright: ignore[reportAttributeAccessIssue]
        return MajorityScore(100 * share, 100 * math.sqrt(share * (1 - share) / (2 * self.settings.test_canvases)))
