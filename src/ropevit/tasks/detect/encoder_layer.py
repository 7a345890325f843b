"""Encoder layer of Deformable DETR; imported only where transformers is needed."""

from typing import Any

from torch import Tensor
from torch.nn import functional
from transformers.models.deformable_detr.modeling_deformable_detr import DeformableDetrEncoderLayer


class EncoderLayer(DeformableDetrEncoderLayer):
    """The layer of transformers, with a forward pass that never waits for the device.

    That of transformers asks in training whether the result is finite, to clamp it. There is nothing to clamp: behind
    the last norm, what is not finite is NaN.
    """

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]: what the encoder gives, not the whole of theirs
        self, x: Tensor, attention_mask: Tensor, spatial_position_embeddings: Tensor, **geometry: Any
    ) -> Tensor:
        """Map tokens (B, N, C) of all levels to (B, N, C).

        Args:
            x: The tokens.
            attention_mask: False for tokens of padding, (B, N).
            spatial_position_embeddings: Added to the queries, (B, N, C).
            geometry: Reference points and shapes of the levels, for the attention.
        """
        attended, _ = self.self_attn(
            x, attention_mask, encoder_hidden_states=x, position_embeddings=spatial_position_embeddings, **geometry
        )
        x = self.self_attn_layer_norm(x + functional.dropout(attended, self.dropout, self.training))
        return self.final_layer_norm(x + self.mlp(x))
