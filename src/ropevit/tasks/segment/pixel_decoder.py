"""Mask2Former's pixel decoder; imported only where transformers is needed."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerPixelDecoder,
    Mask2FormerPixelDecoderEncoderLayer,
)

from ropevit.device import to_device
from ropevit.tasks.dense.sampling import cell_centers, flatten_maps, sample_levels


class PixelDecoder(Mask2FormerPixelDecoder):
    """The modules of transformers, with a forward pass for images without padding.

    It computes the same, never waits for the device, and is traced for any number of images of any size; that of
    transformers copies the sizes of maps to the device, where tracing fixes them.
    """

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], Float[Tensor, "B C h w"]]:  # pyright: ignore[reportIncompatibleMethodOverride]: what Mask2Former gives
        """Return the maps to which the queries attend, the coarsest first, and the map of mask embeddings, the finest.

        Args:
            features: Maps (B, c, h, w) of the backbone, the finest first.
        """
        coarse = list(features)[::-1][: self.num_feature_levels]
        projected = [project(x) for project, x in zip(self.input_projections, coarse, strict=True)]
        positions = [
            self.position_embedding(x.shape, x.device, x.dtype) + level[:, None, None]
            for x, level in zip(coarse, self.level_embed, strict=True)
        ]
        maps = self.encode(projected, positions)
        x = maps[-1]
        fine = list(features)[: self.num_fpn_levels][::-1]
        for lateral, output, feature in zip(self.lateral_convolutions, self.output_convolutions, fine, strict=True):
            skip = lateral(feature)
            x = output(skip + functional.interpolate(x, skip.shape[2:], mode="bilinear", align_corners=False))
        return maps, self.mask_projection(x)

    def encode(self, maps: Sequence[Tensor], positions: Sequence[Tensor]) -> list[Tensor]:
        """Run the deformable encoder over the tokens of maps (B, C, h, w), and return maps of the same shapes."""
        shapes = [(x.shape[2], x.shape[3]) for x in maps]
        x, position_embeddings = flatten_maps(maps), flatten_maps(positions)
        sides = to_device(torch.tensor([(width, height) for height, width in shapes]), x.device)
        centers = [cell_centers(*shape, x.device) / side for shape, side in zip(shapes, sides, strict=True)]
        for layer in self.encoder.layers:
            x = layer(x, position_embeddings, torch.cat(centers), shapes, sides)
        tokens = x.split([height * width for height, width in shapes], dim=1)
        return [x.transpose(1, 2).unflatten(2, shape) for x, shape in zip(tokens, shapes, strict=True)]


class EncoderLayer(Mask2FormerPixelDecoderEncoderLayer):
    """The modules of transformers' layer, with a forward pass that never waits for the device.

    That of transformers copies the shapes in each layer, and asks in training whether the result is finite, to clamp
    it. There is nothing to clamp: behind the last norm, what is not finite is NaN.
    """

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]: what the pixel decoder gives
        self,
        x: Float[Tensor, "B N C"],
        position_embeddings: Float[Tensor, "B N C"],
        centers: Float[Tensor, "N 2"],
        shapes: Sequence[tuple[int, int]],
        sides: Int[Tensor, "L 2"],
    ) -> Float[Tensor, "B N C"]:
        """Return the tokens of all levels after attention and MLP.

        Args:
            x: The tokens.
            position_embeddings: Added to the queries.
            centers: Center (x, y) of each token, as fractions of the width and height of its level.
            shapes: Height and width of each level.
            sides: Width and height of each level.
        """
        attended = _deformable_attention(self.self_attn, x + position_embeddings, x, centers, shapes, sides)
        x = self.self_attn_layer_norm(x + functional.dropout(attended, self.dropout, self.training))
        hidden = functional.dropout(self.activation_fn(self.fc1(x)), self.activation_dropout, self.training)
        return self.final_layer_norm(x + functional.dropout(self.fc2(hidden), self.dropout, self.training))


def _deformable_attention(
    attention: Any,
    queries: Float[Tensor, "B N C"],
    x: Float[Tensor, "B N C"],
    centers: Float[Tensor, "N 2"],
    shapes: Sequence[tuple[int, int]],
    sides: Int[Tensor, "L 2"],
) -> Float[Tensor, "B N C"]:
    """Attend to a few points of each level, at learned offsets in cells from the center of each query.

    Source: Zhu et al. 2020 (arXiv:2010.04159), Eq. 3.
    """
    heads, levels, count = attention.n_heads, attention.n_levels, attention.n_points
    values = attention.value_proj(x).unflatten(-1, (heads, -1))
    offsets = attention.sampling_offsets(queries).unflatten(-1, (heads, levels, count, 2))
    weights = attention.attention_weights(queries).unflatten(-1, (heads, -1)).softmax(-1)
    places = centers[:, None, None, None] + offsets / sides[:, None]
    return attention.output_proj(sample_levels(values, shapes, places, weights.unflatten(-1, (levels, count))))
