"""A segmenter as one function of images, which `ropevit export` writes to a file."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ropevit.models.exportable import ExportModel, ImageSpec
from ropevit.tasks.segment.base import SegmentationModel
from ropevit.tasks.segment.mask2former import Mask2Former
from ropevit.tasks.segment.predict import load_segmentation_predictor


class SegmenterExport(ExportModel):
    """A segmenter that returns the class of each pixel and the logits of all, for whole images.

    Args:
        model: The segmenter.
        facts: Metadata of the file, with the names of its `classes`.
    """

    task = "segment"

    def __init__(self, model: SegmentationModel, facts: Mapping[str, Any]):
        super().__init__()
        self.model, self.facts = model, facts
        self.outputs = {
            "labels": ("batch", "height", "width"),
            "logits": ("batch", len(facts["classes"]), "height", "width"),
        }
        self.images = ImageSpec(
            channels=model.backbone.config.body.in_channels,
            least=max(model.backbone.strides) + 1,  # two cells of the coarsest map
            example=(100, 140),
            samples=((96, 128), (77, 170), (150, 90)),
        )

    def forward(self, images: Float[Tensor, "B c H W"]) -> tuple[Tensor, Tensor]:
        """Return the label map (B, H, W) and the logits (B, K, H, W) of normalized images."""
        logits = self.model.logits(images)
        return logits.argmax(1), logits

    @torch.no_grad()
    def difference(self, images: Tensor, found: Sequence[Tensor]) -> tuple[float, float]:
        """Return the largest absolute and relative difference of the logits of an exported file.

        Another label than this model's counts as the difference between the logits of both.
        """
        labels, logits = found
        expected = self.model.logits(images)
        off = (logits - expected).abs().max().item()
        lost = (expected.amax(1) - expected.take_along_dim(labels[:, None], 1)[:, 0]).max().item()
        absolute = max(off, lost) if off == off else off
        return absolute, absolute / expected.abs().max().item()


def open_export(path: str, scaling: str | None = None) -> SegmenterExport:
    """Load a trained segmenter to export it.

    Args:
        path: Its file.
        scaling: RoPE scaling methods, `none`, or `auto` (what `ropevit tune-scaling` chose for these weights).

    Raises:
        WeightsError: If it is no segmenter of ours.
        ValueError: If its head is Mask2Former, its metadata lack the preprocessing, or scaling would change nothing.
    """
    mode = None if scaling is None else "whole"
    loaded = load_segmentation_predictor(path, None, torch.device("cpu"), mode, scaling)
    if isinstance(loaded.model, Mask2Former):
        raise ValueError(f"{path} has the head mask2former; export supports segmenters with the heads linear, upernet")
    window = loaded.inference.window
    facts = {
        "classes": list(loaded.classes),
        "mean": list(loaded.mean),
        "std": list(loaded.std),
        "resize": {"short": loaded.short, "long": loaded.long, "interpolation": "bilinear"},
        "padding_multiple": max(loaded.model.backbone.strides),
        "sliding_window": None if window is None else {"side": window, "stride": loaded.inference.stride},
    }
    exported = SegmenterExport(loaded.model, facts)
    exported.notes = loaded.notes
    return exported
