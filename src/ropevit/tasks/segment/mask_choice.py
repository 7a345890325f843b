"""Attention masks of a Mask2Former: recorded in a forward pass, or replayed from another one."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from ropevit.models.exportable import Shape, relative
from ropevit.tasks.segment.base import SegmentationModel
from ropevit.tasks.segment.mask2former import Mask2Former

#: Number of maps to which the layers attend in turn, the coarsest first.
_MAPS = 3


class MaskChoice:
    """Context that records the attention masks of a Mask2Former, or replays given ones; other heads have none.

    A query attends to the cells where the mask that it predicted is above zero. Rounding errors reverse the decision
    where that mask is nearly zero.

    Args:
        model: The segmenter.
        given: A mask to replay for each layer; None for the model's own.
    """

    masks: list[Bool[Tensor, "B Q _"]]
    """Of each layer: True where a query does not attend to a cell."""
    differences: list[tuple[float, float]]
    """Of each layer, with `given`: largest absolute value of the mask where the model's own decision differs, and the
    same relative to its largest absolute value."""

    def __init__(self, model: SegmentationModel, given: Sequence[Bool[Tensor, "B Q _"]] | None = None):
        self.model, self.given = model if isinstance(model, Mask2Former) else None, given
        self.masks, self.differences = [], []

    def __enter__(self) -> "MaskChoice":
        if self.model is not None:
            self.handle = self.model.decoder.decoder.mask_predictor.register_forward_hook(self.follow)
        return self

    def __exit__(self, *_error: object) -> None:
        if self.model is not None:
            self.handle.remove()

    def follow(self, module: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor] | None:
        """Forward hook of the module that predicts masks and derives the attention mask of the next layer."""
        assert self.model is not None
        (masks, repeated), layer = output, len(self.masks)
        if layer == self.model.config.decoder_layers:  # nothing attends behind the last layer
            return None
        own = repeated.unflatten(0, (-1, module.num_heads))[:, 0]
        self.masks.append(own)
        if self.given is None:
            return None
        given = self.given[layer]
        self.differences.append(_largest_where(own != given, masks, inputs[2]))
        return masks, given.repeat_interleave(module.num_heads, 0)


def _largest_where(
    cells: Bool[Tensor, "B Q _"], masks: Float[Tensor, "B Q h w"], size: tuple[int, int]
) -> tuple[float, float]:
    """Return the largest absolute value of masks, resized as for attention, in some cells; and relative to all."""
    resized = F.interpolate(masks, size=tuple(size), mode="bilinear", align_corners=False).flatten(2).abs()
    return relative((resized * cells).max().item(), resized.max().item())


def mask_shapes(model: SegmentationModel) -> Mapping[str, Shape]:
    """Return name and shape of the attention mask of each layer of a Mask2Former; empty for other heads."""
    if not isinstance(model, Mask2Former):
        return {}
    layers, queries = model.config.decoder_layers, model.config.queries
    return {f"mask_{layer}": ("batch", queries, f"cells_{layer % _MAPS}") for layer in range(layers)}
