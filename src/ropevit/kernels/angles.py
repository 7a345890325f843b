"""From gradients of angles to those of frequencies and positions: angle = sum over axes of position * frequency."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class QKVGradients(NamedTuple):
    """What a backward pass gives; the last two only where they were asked for."""

    packed: Float[Tensor, "B N 3 A D"]
    frequencies: Tensor | None
    positions: Tensor | None


def canonicalize(positions: Tensor, frequencies: Tensor) -> tuple[Float[Tensor, "b n ndim"], Float[Tensor, "ndim a P"]]:
    """Bring positions (n, ndim) or (B, n, ndim) and frequencies (ndim, P) or (ndim, A, P) to one form, in float32."""
    places = positions if positions.ndim == 3 else positions.unsqueeze(0)
    speeds = frequencies if frequencies.ndim == 3 else frequencies.unsqueeze(1)
    return places.to(torch.float32).contiguous(), speeds.to(torch.float32).contiguous()


def frequency_gradient(
    angle: Float[Tensor, "b n a P"], places: Float[Tensor, "b n ndim"], like: Float[Tensor, "ndim *a P"]
) -> Float[Tensor, "ndim *a P"]:
    """Sum position times gradient of the angle over all tokens, element by element: float32 under any autocast."""
    sums = [(angle * places[..., axis, None, None]).sum((0, 1)) for axis in range(places.shape[-1])]
    return torch.stack(sums).reshape(like.shape).to(like.dtype)


def position_gradient(
    angle: Float[Tensor, "b n a P"], speeds: Float[Tensor, "ndim a P"], like: Float[Tensor, "*b n ndim"]
) -> Float[Tensor, "*b n ndim"]:
    """Sum frequency times gradient of the angle over the pairs of all heads."""
    sums = [(angle * speed).sum((-2, -1)) for speed in speeds]
    return torch.stack(sums, dim=-1).reshape(like.shape).to(like.dtype)
