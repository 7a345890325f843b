"""Rotate a packed qkv projection in place, in your own attention layer: no copies in forward or backward pass."""

import torch
from torch import nn
from torch.nn import functional as F

from ropevit.kernels import rotate_qkv
from ropevit.rope import grid_positions, mixed_frequencies

heads, channels, h, w = 6, 64, 10, 14
linear = nn.Linear(heads * channels, 3 * heads * channels)
frequencies = nn.Parameter(mixed_frequencies(channels, heads))  # (2, heads, channels / 2), learned

tokens = torch.randn(2, 1 + h * w, heads * channels)  # one class token in front, which is not rotated
packed = linear(tokens).unflatten(-1, (3, heads, channels))
q, k, v = rotate_qkv(packed, grid_positions(h, w), frequencies, num_prefix_tokens=1, inplace=True)
F.scaled_dot_product_attention(q, k, v).square().mean().backward()
print(f"queries {tuple(q.shape)}, gradient of the frequencies {frequencies.grad.norm():.4f}")

packed = linear(tokens).unflatten(-1, (3, heads, channels))
exact, _, _ = rotate_qkv(packed, grid_positions(h, w), frequencies, num_prefix_tokens=1, backend="reference")
print(f"largest difference from plain PyTorch: {(q - exact).abs().max():.1e}")
