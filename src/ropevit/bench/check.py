"""Checks of benchmarked implementations: outputs and gradients against the rotation in float64."""

import torch
from torch import Tensor

from ropevit.bench.peers import BenchLayer, Implementation, Parts, split
from ropevit.rope import rotate

#: Largest allowed relative error (Euclidean norm) of results computed in a dtype.
TOLERANCES = {torch.float32: 2e-5, torch.bfloat16: 2e-2}


class WrongResultError(ValueError):
    """Raised when results differ from the reference by more than the tolerance."""


def rotate_exact(impl: Implementation, layer: BenchLayer, qkv: Tensor, frequencies: Tensor) -> Parts:
    """Split and rotate in float64, with the pair layout of an implementation; differentiable.

    Args:
        impl: Implementation whose embedding and pair layout to use.
        layer: The layer.
        qkv: Packed projection (B, N, 3, A, D) in float64.
        frequencies: Frequencies in float64.
    """
    q, k, v = split(qkv)
    if impl.embedding == "none":
        return q, k, v
    if impl.halves:
        q, k = (part.unflatten(-1, (2, -1)).transpose(-2, -1).flatten(-2) for part in (q, k))
    q, k = rotate(q, k, layer.positions.double(), frequencies, layer.shape.prefix)
    if impl.halves:
        q, k = (part.unflatten(-1, (-1, 2)).transpose(-2, -1).flatten(-2) for part in (q, k))
    return q, k, v


def _relative_error(got: Tensor, expected: Tensor) -> float:
    """Return the norm of a difference over the norm of the expected values."""
    return ((got.double() - expected).norm() / expected.norm().clamp(min=1e-30)).item()


def compare(got: dict[str, Tensor], expected: dict[str, Tensor], dtype: torch.dtype, factor: float = 1.0) -> float:
    """Return the largest relative error of named results.

    Args:
        got: Computed results.
        expected: The same results in float64.
        dtype: Dtype of the computation, which decides the tolerance.
        factor: Factor on the tolerance.

    Returns:
        The largest relative error.

    Raises:
        WrongResultError: If a result exceeds the tolerance or is not finite.
    """
    allowed, largest = factor * TOLERANCES[dtype], 0.0
    for name, value in expected.items():
        off = _relative_error(got[name], value)
        if not off <= allowed:
            raise WrongResultError(f"{name} has a relative error of {off:.1e}; expected at most {allowed:.0e}")
        largest = max(largest, off)
    return largest
