"""The attention of torchvision and open_clip, `nn.MultiheadAttention`, with rotation: it has no place for one."""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ropevit.integrations.retrofit.attention import Rope
from ropevit.integrations.retrofit.grid import CurrentGrid
from ropevit.rope import apply_rotary


class PackedAttention(nn.Module):
    """Self-attention with the parameters of an `nn.MultiheadAttention`, under the same names, and a rotation.

    Args:
        attention: What it replaces; the parameters are shared with it, not copied.
        rope: The rotation.
        grid: Where the patches stand.
    """

    def __init__(self, attention: nn.MultiheadAttention, rope: Rope, grid: CurrentGrid):
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
        """Attend among all tokens; called as `nn.MultiheadAttention` is.

        Raises:
            ValueError: If asked for weights, a mask or anything but self-attention.
        """
        if need_weights or attn_mask is not None or masks or query is not key or key is not value:
            raise ValueError(
                "got a mask, need_weights=True or cross-attention in a retrofitted nn.MultiheadAttention; expected "
                "attention(x, x, x, need_weights=False), as torchvision and open_clip call it"
            )
        packed = F.linear(query, self.in_proj_weight, self.in_proj_bias)
        q, k, v = packed.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        turn = self.rope.cos_sin(self.grid.positions(q.shape[-2], q.device), self.grid.num_prefix)
        dropout = self.dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(apply_rotary(q, turn), apply_rotary(k, turn), v, dropout_p=dropout)
        return self.out_proj(x.transpose(1, 2).flatten(2)), None


def check_plain(attention: nn.MultiheadAttention) -> None:
    """Refuse what `PackedAttention` does not compute: only self-attention with one packed projection, batch first."""
    packed = attention.in_proj_weight is not None and attention.bias_k is None and not attention.add_zero_attn
    if not packed or not attention.batch_first:
        raise ValueError(
            "got an nn.MultiheadAttention with options torchvision and open_clip do not use; expected defaults"
        )
    if attention._forward_hooks or attention._forward_pre_hooks:
        raise ValueError("got an nn.MultiheadAttention with hooks, which would be lost; remove them before add_rope")
