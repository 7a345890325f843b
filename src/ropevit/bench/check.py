"""Whether a way is right: outputs and gradients against the rotation in float64."""

import torch
from torch import Tensor

from ropevit.bench.peers import Implementation, Layer, Parts, split
from ropevit.rope import rotate

#: Largest error, relative in the Euclidean norm, of what is computed in a dtype.
TOLERANCES = {torch.float32: 2e-5, torch.bfloat16: 2e-2}


class WrongResultError(ValueError):
    """Something computes other numbers than the reference."""


def rotate_exact(way: Implementation, layer: Layer, qkv: Tensor, frequencies: Tensor) -> Parts:
    """Split and rotate in float64, laying pairs out as the way does; differentiable.

    Args:
        way: Whose embedding and pairs are asked for.
        layer: The layer.
        qkv: Packed projection (B, N, 3, A, D) in float64.
        frequencies: In float64.
    """
    q, k, v = split(qkv)
    if way.embedding == "none":
        return q, k, v
    if way.halves:
        q, k = (part.unflatten(-1, (2, -1)).transpose(-2, -1).flatten(-2) for part in (q, k))
    q, k = rotate(q, k, layer.positions.double(), frequencies, layer.shape.prefix)
    if way.halves:
        q, k = (part.unflatten(-1, (-1, 2)).transpose(-2, -1).flatten(-2) for part in (q, k))
    return q, k, v


def relative_error(got: Tensor, expected: Tensor) -> float:
    """Measure a difference relative to what is expected."""
    return ((got.double() - expected).norm() / expected.norm().clamp(min=1e-30)).item()


def compare(got: dict[str, Tensor], expected: dict[str, Tensor], dtype: torch.dtype, factor: float = 1.0) -> float:
    """Compare named results.

    Args:
        got: What was computed.
        expected: The same in float64.
        dtype: In which it was computed; decides how far off it may be.
        factor: Multiplies the allowed error.

    Returns:
        The largest relative error.

    Raises:
        WrongResultError: If one is too far off or not finite.
    """
    allowed, largest = factor * TOLERANCES[dtype], 0.0
    for name, value in expected.items():
        off = relative_error(got[name], value)
        if not off <= allowed:
            raise WrongResultError(f"{name} is off by {off:.1e} of its norm, more than {allowed:.0e}")
        largest = max(largest, off)
    return largest
