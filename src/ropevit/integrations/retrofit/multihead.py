"""Replaces `nn.MultiheadAttention`, as torchvision and open_clip use it, by attention with rotary embedding.

Hooks would not do: it projects and attends in one function call.
"""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ropevit.integrations.retrofit.attention import RetrofitRope
from ropevit.integrations.retrofit.grid import CurrentGrid
from ropevit.rope import apply_rotary


class RotaryMultiheadAttention(nn.Module):
    """Rotary self-attention with the parameters of an `nn.MultiheadAttention`, under the same names.

    Args:
        attention: The layer that it replaces; parameters are shared, not copied.
        rope: The layer's rotary embedding.
        grid: The patch grid of the current images.
    """

    def __init__(self, attention: nn.MultiheadAttention, rope: RetrofitRope, grid: CurrentGrid):
        super().__init__()
        self.num_heads, self.dropout = attention.num_heads, attention.dropout
        self.in_proj_weight, self.in_proj_bias = attention.in_proj_weight, attention.in_proj_bias
        self.out_proj = attention.out_proj
        self.rope, self.grid = rope, grid
        self.train(attention.training)

    def forward(
        self,
        query: Float[Tensor, "B N C"],
        key: Tensor,
        value: Tensor,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        **masks: Any,
    ) -> tuple[Float[Tensor, "B N C"], None]:
        """Compute self-attention; the arguments are those of `nn.MultiheadAttention`.

        Raises:
            ValueError: If called with need_weights=True, a mask, or cross-attention.
        """
        if need_weights or attn_mask is not None or masks or query is not key or key is not value:
            raise ValueError(
                "got a mask, need_weights=True or cross-attention in a retrofitted nn.MultiheadAttention; expected "
                "attention(x, x, x, need_weights=False), as torchvision and open_clip call it"
            )
        qkv = F.linear(query, self.in_proj_weight, self.in_proj_bias)
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        cos_sin = self.rope.cos_sin(self.grid.positions(q.shape[-2], q.device), self.grid.num_prefix_tokens)
        dropout = self.dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(apply_rotary(q, cos_sin), apply_rotary(k, cos_sin), v, dropout_p=dropout)
        return self.out_proj(x.transpose(1, 2).flatten(2)), None


def check_options(attention: nn.MultiheadAttention) -> None:
    """Raise ValueError for a layer with options that `RotaryMultiheadAttention` lacks, or with hooks."""
    one_projection = attention.in_proj_weight is not None and attention.bias_k is None
    if not one_projection or attention.add_zero_attn or not attention.batch_first:
        raise ValueError(
            "got an nn.MultiheadAttention with kdim, vdim, add_bias_kv, add_zero_attn or batch_first=False; expected "
            "batch_first=True and defaults otherwise, as torchvision and open_clip build it"
        )
    if attention._forward_hooks or attention._forward_pre_hooks:
        raise ValueError(
            "got an nn.MultiheadAttention with hooks, which would be lost; remove them, call add_rope, and register "
            "them on the new layer"
        )
