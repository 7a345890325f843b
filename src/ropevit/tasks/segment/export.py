"""A segmenter as one function of images, which `ropevit export` writes to a file."""

import copy
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ropevit.models.exportable import ExportModel, ImageSpec, relative, worst
from ropevit.tasks.dense.tracing import make_inputs_contiguous, make_maps_contiguous
from ropevit.tasks.segment.base import SegmentationModel
from ropevit.tasks.segment.mask2former import Mask2Former
from ropevit.tasks.segment.mask_choice import MaskChoice, mask_shapes
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
        self.model, self.facts = copy.deepcopy(model), facts  # it is changed below
        self.outputs = {
            "labels": ("batch", "height", "width"),
            "logits": ("batch", len(facts["classes"]), "height", "width"),
        }
        self.decisions = mask_shapes(model)
        make_traceable(self.model)
        self.images = ImageSpec(
            channels=model.backbone.config.body.in_channels,
            least=max(model.backbone.strides) + 1,  # two cells of the coarsest map
            example=(100, 140),
            samples=((96, 128), (77, 170), (150, 90)),
        )

    def forward(self, images: Float[Tensor, "B c H W"]) -> tuple[Tensor, ...]:
        """Return the label map (B, H, W) and the logits (B, K, H, W) of normalized images."""
        with MaskChoice(self.model) if self.with_decisions else nullcontext() as choice:
            logits = self.model.logits(images)
        return (logits.argmax(1), logits, *(choice.masks if choice else ()))

    @torch.no_grad()
    def difference(self, images: Tensor, found: Sequence[Tensor]) -> tuple[float, float]:
        """Return the largest absolute and relative difference of the logits of an exported file.

        Another label than this model's counts as the difference between the logits of both. Attention masks
        of the file are replayed in this model, and what it predicted for the cells where its own masks differ counts
        as a difference from zero.
        """
        labels, logits, *masks = found
        with MaskChoice(self.model, masks or None) as choice:
            expected = self.model.logits(images)
        off = (logits - expected).abs().max().item()
        lost = (expected.amax(1) - expected.take_along_dim(labels[:, None], 1)[:, 0]).max().item()
        absolute = max(off, lost) if off == off else off
        return worst([relative(absolute, expected.abs().max().item()), *choice.differences])


def make_traceable(model: SegmentationModel) -> None:
    """Let the pyramid, and Mask2Former's decoder, whose tokens have the batch in the middle, take any batch."""
    make_maps_contiguous(model.backbone)
    if isinstance(model, Mask2Former):
        for module in (*model.decoder.modules(), model.classifier):
            if isinstance(module, nn.Linear | nn.MultiheadAttention):
                make_inputs_contiguous(module)


def open_export(path: str, scaling: str | None = None) -> SegmenterExport:
    """Load a trained segmenter to export it.

    Args:
        path: Its file.
        scaling: RoPE scaling methods, `none`, or `auto` (what `ropevit tune-scaling` chose for these weights).

    Raises:
        WeightsError: If it is not a ropevit segmenter.
        ValueError: If its metadata lack the preprocessing, or scaling would change nothing.
    """
    mode = None if scaling is None else "whole"
    loaded = load_segmentation_predictor(path, None, torch.device("cpu"), mode, scaling)
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
