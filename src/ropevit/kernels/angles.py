"""Gradients of frequencies and positions from those of the angles: angle = sum over axes of position * frequency."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class QKVGradients(NamedTuple):
    """Results of a backward pass; the last two are None unless they were requested."""

    qkv: Float[Tensor, "B N 3 A D"]
    frequencies: Tensor | None
    positions: Tensor | None


class WindowGradients(NamedTuple):
    """Results of a backward pass of window attention; the last two are None unless they were requested."""

    qkv: Float[Tensor, "B h w 3 A D"]
    frequencies: Tensor | None
    bias: Tensor | None


def canonicalize(positions: Tensor, frequencies: Tensor) -> tuple[Float[Tensor, "b n ndim"], Float[Tensor, "ndim a P"]]:
    """Return positions (n, ndim) or (B, n, ndim) and frequencies (ndim, P) or (ndim, A, P) in 3 axes and float32."""
    positions = positions if positions.ndim == 3 else positions.unsqueeze(0)
    frequencies = frequencies if frequencies.ndim == 3 else frequencies.unsqueeze(1)
    return positions.to(torch.float32).contiguous(), frequencies.to(torch.float32).contiguous()


def frequency_gradient(
    grad_angle: Float[Tensor, "b n a P"], positions: Float[Tensor, "b n ndim"], like: Float[Tensor, "ndim *a P"]
) -> Float[Tensor, "ndim *a P"]:
    """Sum position times gradient of the angle over all tokens, element by element: float32 under any autocast."""
    sums = [(grad_angle * positions[..., axis, None, None]).sum((0, 1)) for axis in range(positions.shape[-1])]
    return torch.stack(sums).reshape(like.shape).to(like.dtype)


def position_gradient(
    grad_angle: Float[Tensor, "b n a P"], frequencies: Float[Tensor, "ndim a P"], like: Float[Tensor, "*b n ndim"]
) -> Float[Tensor, "*b n ndim"]:
    """Sum frequency times gradient of the angle over the pairs of all heads."""
    sums = [(grad_angle * frequency).sum((-2, -1)) for frequency in frequencies]
    return torch.stack(sums, dim=-1).reshape(like.shape).to(like.dtype)
