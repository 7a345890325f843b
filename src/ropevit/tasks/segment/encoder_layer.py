"""Encoder layer of Mask2Former's pixel decoder; imported only where transformers is needed."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerPixelDecoderEncoderLayer,
    multi_scale_deformable_attention,
)

from ropevit.device import to_device


class EncoderLayer(Mask2FormerPixelDecoderEncoderLayer):
    """The layer of transformers, with a forward pass that never waits for the device; there is no padding.

    That of transformers copies the shapes in each layer, and asks in training whether the result is finite, to clamp
    it. There is nothing to clamp: behind the last norm, what is not finite is NaN.
    """

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]: what the encoder gives, not the whole of theirs
        self,
        x: Float[Tensor, "B N C"],
        _padding: Tensor,
        position_embeddings: Float[Tensor, "B N C"],
        reference_points: Float[Tensor, "B N L 2"],
        spatial_shapes_list: Sequence[tuple[int, int]],
        **_unused: Any,
    ) -> tuple[Tensor]:
        """Return the tokens of all levels after attention and MLP.

        Args:
            x: The tokens.
            position_embeddings: Added to the queries.
            reference_points: Of each query on each level, as fractions of its width and height.
            spatial_shapes_list: Height and width of each level.
        """
        queries = x + position_embeddings
        attended = _deformable_attention(self.self_attn, queries, x, reference_points, spatial_shapes_list)
        x = self.self_attn_layer_norm(x + functional.dropout(attended, self.dropout, self.training))
        hidden = functional.dropout(self.activation_fn(self.fc1(x)), self.activation_dropout, self.training)
        return (self.final_layer_norm(x + functional.dropout(self.fc2(hidden), self.dropout, self.training)),)


def _deformable_attention(
    attention: Any,
    queries: Float[Tensor, "B N C"],
    x: Float[Tensor, "B N C"],
    points: Float[Tensor, "B N L 2"],
    shapes: Sequence[tuple[int, int]],
) -> Float[Tensor, "B N C"]:
    """Attend to a few points of each level, at learned offsets in cells from a reference point of each query.

    Source: Zhu et al. 2020 (arXiv:2010.04159), Eq. 3.
    """
    heads, levels, count = attention.n_heads, attention.n_levels, attention.n_points
    values = attention.value_proj(x).unflatten(-1, (heads, -1))
    offsets = attention.sampling_offsets(queries).unflatten(-1, (heads, levels, count, 2))
    weights = attention.attention_weights(queries).unflatten(-1, (heads, -1)).softmax(-1)
    sides = to_device(torch.tensor([(width, height) for height, width in shapes]), x.device)
    places = points[:, :, None, :, None] + offsets / sides[:, None]
    weights = weights.unflatten(-1, (levels, count))
    return attention.output_proj(multi_scale_deformable_attention(values, list(shapes), places, weights))
