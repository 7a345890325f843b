"""Use RoPE in your own attention layer: one class token, and the patches of an image of any size."""

import torch
from torch import nn
from torch.nn import functional as F

from ropevit.rope import MixedRope, grid_positions


class Attention(nn.Module):
    """Multi-head attention whose scores depend on the relative positions of patches."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.rope = MixedRope(channels=width // heads, heads=heads)  # learned; AxialRope(channels) is fixed

    def forward(self, x: torch.Tensor, h: int, w: int) -> torch.Tensor:
        """Attend over tokens (B, 1 + h * w, width), class token first."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = self.rope(q, k, grid_positions(h, w, device=x.device), num_prefix_tokens=1)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).flatten(2))


attention = Attention(width=192, heads=3)
for h, w in [(14, 14), (10, 24)]:
    out = attention(torch.randn(2, 1 + h * w, 192), h, w)
    print(f"{h} x {w} patches and a class token: {tuple(out.shape)}")
