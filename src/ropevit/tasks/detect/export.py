"""A detector as one function of images, which `ropevit export` writes to a file."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ropevit.models.backbone import image_sizes, make_pixel_mask
from ropevit.models.exportable import ExportModel, ImageSpec, difference, worst
from ropevit.models.pyramid import LayerNorm2d
from ropevit.models.vit.dense import pad_to
from ropevit.tasks.dense.sampling import LevelSampling
from ropevit.tasks.dense.tracing import make_maps_contiguous, make_output_contiguous
from ropevit.tasks.detect.boxes import Predictions
from ropevit.tasks.detect.model import Detector
from ropevit.tasks.detect.postprocess import at_pairs, class_scores
from ropevit.tasks.detect.predict import DetectionOptions, load_detection_predictor


class TokenChoice:
    """Context that records which tokens of the encoder a detector selects, or replays a given selection.

    Args:
        model: The detector.
        tokens: Indices (B, Q) of the selection to replay; None for the detector's own.
    """

    scores: Float[Tensor, "B N"]
    """Scores of all tokens."""
    tokens: Int[Tensor, "B Q"]
    """Indices of the selected ones."""

    def __init__(self, model: Detector, tokens: Int[Tensor, "B Q"] | None = None):
        self.module, self.given = model.dino.top_tokens, tokens

    def __enter__(self) -> "TokenChoice":
        self.handle = self.module.register_forward_hook(self.follow)
        return self

    def __exit__(self, *_error: object) -> None:
        self.handle.remove()

    def follow(self, _module: object, inputs: tuple[Tensor], tokens: Tensor) -> Tensor:
        """Forward hook of the module that selects them."""
        self.scores, self.tokens = inputs[0], tokens if self.given is None else self.given
        return self.tokens


class DetectorExport(ExportModel):
    """A detector that returns as many detections of each image as it has queries, by descending score.

    Args:
        model: The detector.
        facts: Metadata of the file, with the names of its `classes`.
    """

    task = "detect"

    def __init__(self, model: Detector, facts: Mapping[str, Any]):
        super().__init__()
        self.model, self.facts = copy.deepcopy(model), facts  # it is changed below
        self.count = model.dino.config.queries
        self.outputs = {
            "boxes": ("batch", self.count, 4),
            "scores": ("batch", self.count),
            "labels": ("batch", self.count),
        }
        self.decisions = {"tokens": ("batch", self.count), "pairs": ("batch", self.count)}
        self.images = _image_spec(model)
        make_traceable(self.model)

    def predict(self, images: Float[Tensor, "B c H W"]) -> Predictions:
        """Return the predictions of the last layer for whole images; no size is read as a number, as tracing needs."""
        sizes, padded = image_sizes(images, None), pad_to(images, self.model.multiple)
        inside = make_pixel_mask(sizes, padded.shape[2], padded.shape[3], 1)
        return self.model.dino(self.model.backbone(padded, sizes).features, ~inside).layers[-1]

    def detections(
        self, predictions: Predictions, pairs: Int[Tensor, "B Q"], size: Sequence[int]
    ) -> tuple[Tensor, ...]:
        """Return boxes (B, Q, 4) in pixels, scores (B, Q) and labels (B, Q) of pairs of query and class."""
        scores, labels, boxes = at_pairs(predictions, pairs)
        left, top, right, bottom = boxes.unbind(-1)
        height, width = size
        pixels = torch.stack([left * width, top * height, right * width, bottom * height], dim=-1)
        return pixels, scores, labels

    def forward(self, images: Float[Tensor, "B c H W"]) -> tuple[Tensor, ...]:
        """Return boxes (B, Q, 4) as (left, top, right, bottom) in pixels, scores and labels (B, Q) of images."""
        with TokenChoice(self.model) as choice:
            predictions = self.predict(images)
        pairs = class_scores(predictions).topk(self.count, dim=1).indices
        found = self.detections(predictions, pairs, images.shape[2:])
        return (*found, choice.tokens, pairs) if self.with_decisions else found

    @torch.no_grad()
    def difference(self, images: Tensor, found: Sequence[Tensor]) -> tuple[float, float]:
        """Return the largest absolute and relative difference of boxes or scores of an exported file.

        Decisions of the file are replayed in this model, and its scores of them are compared with its highest ones;
        another label counts as the whole score.
        """
        boxes, scores, labels, *decisions = found
        tokens, pairs = decisions or (None, None)
        with TokenChoice(self.model, tokens) as choice:
            predictions = self.predict(images)
        best = class_scores(predictions).topk(self.count, dim=1)
        expected = self.detections(predictions, best.indices if pairs is None else pairs, images.shape[2:])
        compared = [
            (boxes, expected[0]),
            (scores, expected[1]),
            (scores, best.values),
            (scores * (labels == expected[2]), scores),
        ]
        if tokens is not None:
            highest = choice.scores.topk(self.count, dim=1).values
            compared.append((choice.scores.gather(1, tokens), highest))
        return worst(difference(*pair) for pair in compared)


def make_traceable(model: Detector) -> None:
    """Replace what tracing would fix to several images: views and layouts that differ for a single one."""
    make_maps_contiguous(model.backbone)
    for module in model.modules():
        if hasattr(module, "sampling_offsets"):
            module.attn = LevelSampling()
        if isinstance(module, LayerNorm2d):
            make_output_contiguous(module)


def _image_spec(model: Detector) -> ImageSpec:
    """Return the images that a file takes; in each sample, the finest map has a token for each query."""
    strides, config = model.backbone.strides, model.dino.config
    coarsest = max(strides) * 2 ** (config.levels - len(strides))
    side = max(min(strides) * math.ceil(math.sqrt(config.queries)), coarsest + 1)
    return ImageSpec(
        channels=model.backbone.config.body.in_channels,
        least=coarsest + 1,  # two cells of the coarsest map
        example=(side + 3 * model.multiple, side + 5 * model.multiple),
        samples=((side, side + 32), (side + 45, side + 70), (side + 60, side + 13)),
    )


def open_export(path: str) -> DetectorExport:
    """Load a trained detector to export it.

    Args:
        path: Its file.

    Raises:
        WeightsError: If it is not a ropevit detector.
        ValueError: If its metadata lack the preprocessing.
    """
    loaded = load_detection_predictor(path, DetectionOptions(), torch.device("cpu"))
    facts = {
        "classes": list(loaded.classes),
        "category_ids": list(loaded.category_ids),
        "mean": _as_decimals(loaded.mean),
        "std": _as_decimals(loaded.std),
        "resize": {"short": loaded.short, "long": loaded.longest, "interpolation": "bilinear"},
        "padding_multiple": loaded.model.multiple,
    }
    return DetectorExport(loaded.model, facts)


def _as_decimals(values: Float[Tensor, "3 1 1"]) -> list[float]:
    """Return float32 numbers with the 7 digits that they hold, such as 0.485 instead of 0.48500001."""
    return [round(value, 7) for value in values.flatten().tolist()]
