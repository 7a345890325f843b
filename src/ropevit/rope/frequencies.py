"""Frequencies of RoPE-Axial and RoPE-Mixed: radians per patch by which a pair's angle grows along each axis."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def pairs_per_axis(channels: int, ndim: int = 2, pairs: Sequence[int] | None = None) -> tuple[int, ...]:
    """Return the number of pairs for each axis of a head with P = D/2 pairs: equal, or as given.

    Args:
        channels: Channels per head, D.
        ndim: Number of axes: 1 (sequence), 2 (image) or 3 (video, volume).
        pairs: Pairs for each axis, x first; None divides them equally.

    Returns:
        Pairs for each axis; their sum is D/2.

    Raises:
        ValueError: If the pairs cannot be divided equally, or the given ones do not add up to D/2.
    """
    if ndim not in (1, 2, 3):
        raise ValueError(f"got ndim={ndim}; expected 1, 2 or 3 axes")
    if pairs is None:
        if channels <= 0 or channels % (2 * ndim):
            raise ValueError(
                f"got {channels} channels per head; expected a positive multiple of {2 * ndim} for {ndim} axes: change "
                "the width or the number of heads, or give the pairs of each axis"
            )
        return (channels // (2 * ndim),) * ndim
    if channels <= 0 or channels % 2:
        raise ValueError(f"got {channels} channels per head; expected a positive even number, as pairs are rotated")
    if len(pairs) != ndim or min(pairs) < 0 or sum(pairs) != channels // 2:
        raise ValueError(f"got pairs={tuple(pairs)}; expected {ndim} counts, none negative, with sum {channels // 2}")
    return tuple(pairs)


def axial_frequencies(
    channels: int,
    theta: float = 100.0,
    ndim: int = 2,
    pairs: Sequence[int] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "ndim P"]:
    """Compute the frequencies of RoPE-Axial: each pair rotates along one axis, geometrically spaced.

    With n pairs, an axis has the frequencies theta^(-i/n), i = 0..n-1; in two dimensions n = D/4 and this is
    theta^(-4i/D). The first pairs of a head rotate along x, the next ones along y (then z).

    Args:
        channels: Channels per head, D.
        theta: Base of the frequencies: the fastest is theta times the (excluded) slowest; 100 in ViT, 50 in Swin.
        ndim: Number of axes.
        pairs: Pairs for each axis, x first; None divides them equally.
        device: Device of the result.
        dtype: float32 or float64.

    Returns:
        Radians per patch; row 0 is for x, row 1 for y, row 2 for z.

    Raises:
        ValueError: If theta is not positive, the dtype is not one of these, or the pairs do not fit the channels.

    Source: Heo et al. 2024 (arXiv:2403.13298), RoPE-Axial; Su et al. 2021 (arXiv:2104.09864).
    """
    check_theta(theta)
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"got dtype={dtype}; frequencies need float32 or float64")
    rows = []
    budget = pairs_per_axis(channels, ndim, pairs)
    for axis, count in enumerate(budget):
        exponents = torch.arange(count, device=device, dtype=dtype) / max(count, 1)
        before, after = sum(budget[:axis]), sum(budget[axis + 1 :])
        rows.append(torch.nn.functional.pad(theta**-exponents, (before, after)))
    return torch.stack(rows)


def check_theta(theta: float) -> None:
    """Raise ValueError unless theta > 0."""
    if not theta > 0:
        raise ValueError(f"got theta={theta}; expected a positive number, such as 100")


def check_heads(heads: int) -> None:
    """Raise ValueError unless there is a head."""
    if heads < 1:
        raise ValueError(f"got heads={heads}; expected at least 1")


def random_directions(
    heads: int, ndim: int = 2, generator: torch.Generator | None = None
) -> Float[Tensor, "heads ndim ndim"]:
    """Draw a uniformly random rotation of space for each head (in two dimensions: an angle from 0 to 2 pi).

    Args:
        heads: Number of heads, A.
        ndim: Number of axes.
        generator: Random number generator; None uses PyTorch's global one.

    Returns:
        Rotation matrices in float64 (one dimension has only the identity).
    """
    square, triangle = torch.linalg.qr(torch.randn(heads, ndim, ndim, generator=generator, dtype=torch.float64))
    square = square * triangle.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)  # for uniformity
    mirror = torch.ones(heads, ndim, dtype=torch.float64)
    mirror[:, -1] = torch.linalg.det(square).sign()
    return square * mirror.unsqueeze(-2)


def mixed_frequencies(
    channels: int,
    heads: int,
    theta: float = 10.0,
    ndim: int = 2,
    pairs: Sequence[int] | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "ndim heads P"]:
    """Draw the initial frequencies of RoPE-Mixed: the axial ones, rotated by a random angle for each head.

    Args:
        channels: Channels per head, D.
        heads: Number of heads, A.
        theta: Base of the frequencies, from 1 to (excluded) 1 / theta; the paper takes 10 for learned frequencies.
        ndim: Number of axes.
        pairs: Pairs for each (rotated) axis; None divides them equally.
        generator: Random number generator for the directions; None uses PyTorch's global one.

    Returns:
        Radians per patch in float32, to be learned; row 0 is for x, row 1 for y, row 2 for z.

    Raises:
        ValueError: If there are no heads, theta is not positive, or the pairs do not fit the channels.

    Source: Heo et al. 2024 (arXiv:2403.13298), RoPE-Mixed: the angle of a pair is f_x x + f_y y, per head and layer.
    """
    check_heads(heads)
    axial = axial_frequencies(channels, theta, ndim, pairs, dtype=torch.float64)
    directions = random_directions(heads, ndim, generator)
    return (directions @ axial).transpose(0, 1).to(torch.float32).contiguous()
