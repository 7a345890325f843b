"""Families of frequencies beside axial and mixed: how directions and speeds of the pairs are spread over the plane.

A pair turns by w (x cos a + y sin a): w is its speed in radians a patch, a its direction. All families here have the
speeds theta^(-p/P), p = 0..P-1, as RoPE-Axial has them on each axis (polar learns its own). Their sources count from
other units and ends; that is said where it is so. None of them has published weights of ViT classifiers.

Directions are isotropic where the mean of d d^T over unit vectors d is half the identity: no direction is preferred.
Frequencies w d then need not be, as fast pairs weigh more: see benchmarks/isotropy.py.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Device = torch.device | str | None

#: 1 over the golden ratio: the fraction whose multiples fill a circle most evenly, however many there are.
GOLDEN_FRACTION = (math.sqrt(5) - 1) / 2


def geometric_magnitudes(
    count: int, theta: float, device: Device = None, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "P"]:
    """Space speeds geometrically: theta^(-p / count), from 1 radian a patch down to just above 1 / theta."""
    return theta ** -(torch.arange(count, device=device, dtype=dtype) / max(count, 1))


def frequency_vectors(speed: Float[Tensor, "*P"], direction: Float[Tensor, "*A P"]) -> Float[Tensor, "2 *A P"]:
    """Join speeds (radians a patch) and directions (radians from the x axis towards y) to frequencies."""
    return torch.stack([speed * direction.cos(), speed * direction.sin()])


def golden_frequencies(
    channels: int, heads: int, theta: float = 100.0, device: Device = None, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "2 heads P"]:
    """Turn from each pair to the next, through all heads, by the golden part of a half circle.

    Pair p of head a has the direction pi * ((a P + p) / golden ratio mod 1), so that any run of pairs is spread evenly,
    and no two heads look along the same directions.

    Args:
        channels: Channels per head, D.
        heads: Number of heads, A.
        theta: Ratio of the fastest to the (excluded) slowest frequency.
        device: Where the result lives.
        dtype: float32 or float64.

    Returns:
        Radians per patch; row 0 is for x, row 1 for y.

    Raises:
        ValueError: If the channels are not even, or theta is not positive.

    Source: Xiong 2025, https://jerryxio.ng/posts/nd-rope ("golden gate RoPE"), which takes speeds between two given
    ends over coordinates from -1 to 1, and may leave some pairs unturned.
    """
    pairs = num_pairs(channels, theta)
    index = torch.arange(heads * pairs, device=device, dtype=dtype).unflatten(0, (heads, pairs))
    return frequency_vectors(geometric_magnitudes(pairs, theta, device, dtype), math.pi * (index * GOLDEN_FRACTION % 1))


def spiral_frequencies(
    channels: int, heads: int, theta: float = 100.0, device: Device = None, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "2 P"]:
    """Share the pairs out among up to 8 fixed directions, evenly over a half circle; all heads alike.

    Pair p has the direction pi * (p mod K) / K. K is the largest divisor of P and 8, so that every direction has as
    many pairs. From one direction to the next the speed goes on falling, which draws a spiral.

    Args: as `golden_frequencies`; the heads change nothing.

    Returns:
        Radians per patch; row 0 is for x, row 1 for y.

    Raises:
        ValueError: If the channels are not a multiple of 4, or theta is not positive.

    Source: Liu et al. 2026 (arXiv:2602.03227), Spiral RoPE: groups of channels on uniformly spread directions. How its
    groups share the speeds was not to be had; here they take them in turn.
    """
    del heads
    pairs = num_pairs(channels, theta)
    directions = math.gcd(pairs, 8)
    if directions < 2:
        raise ValueError(f"got heads of {channels} channels; a spiral needs a multiple of 4 for two or more directions")
    turn = math.pi / directions * (torch.arange(pairs, device=device) % directions)
    return frequency_vectors(geometric_magnitudes(pairs, theta, device, dtype), turn.to(dtype))


def simplex_frequencies(
    channels: int, heads: int, theta: float = 100.0, device: Device = None, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "2 heads P"]:
    """Let three pairs at a time share a speed, 120 degrees apart: the corners of a triangle, at several scales.

    Scale s = 0..S-1, S = floor(P / 3), of head a has the speed theta^(-s/S) and is turned as a whole by 120 degrees *
    ((a S + s) / golden ratio mod 1). The pairs left over, two at most, come last and do not turn: they compare content
    alone, and every scale stays isotropic exactly.

    Args: as `golden_frequencies`.

    Returns:
        Radians per patch; row 0 is for x, row 1 for y.

    Raises:
        ValueError: If there are fewer than 6 channels, they are not even, or theta is not positive.

    Source: Li et al. 2026 (arXiv:2606.12146), nD-RoPE: wave vectors of regular simplices at several scales. It turns
    the simplices at random; here the golden ratio does, so that a model needs no seed.
    """
    pairs = num_pairs(channels, theta)
    scales = pairs // 3
    if scales < 1:
        raise ValueError(f"got heads of {channels} channels; a simplex of three waves needs at least 6")
    scale = torch.arange(heads * scales, device=device, dtype=dtype).unflatten(0, (heads, scales))
    corner = torch.arange(3, device=device, dtype=dtype)
    direction = 2 * math.pi / 3 * (corner + (scale * GOLDEN_FRACTION % 1).unsqueeze(-1))
    speed = geometric_magnitudes(scales, theta, device, dtype).unsqueeze(-1).expand(-1, 3)
    return torch.nn.functional.pad(frequency_vectors(speed, direction).flatten(-2), (0, pairs - 3 * scales))


def polar_directions(pairs: int, device: Device = None, dtype: torch.dtype = torch.float32) -> Float[Tensor, "P"]:
    """Spread pairs over a half circle in P equal steps, neighbours far apart.

    Pair p has the direction pi * (k p mod P) / P; k is the number without a common divisor with P that is nearest to
    the golden part of P. Each step is taken once, so the directions are isotropic exactly (P >= 2), and pairs of about
    the same speed point to different sides.

    Source: Compass-RoPE (ICML 2026, poster 62023), uniform angles; the order is ours.
    """
    coprime = [k for k in range(1, pairs + 1) if math.gcd(k, pairs) == 1]
    stride = min(coprime, key=lambda k: abs(k - GOLDEN_FRACTION * pairs))
    return (math.pi / pairs * (torch.arange(pairs, device=device) * stride % pairs)).to(dtype)


def polar_frequencies(
    raw: Float[Tensor, "heads P"], heading: Float[Tensor, "heads"], slowest: float, fastest: float
) -> Float[Tensor, "2 heads P"]:
    """Make frequencies of learned numbers that may be anything, and keep them within bounds.

    Speeds are slowest * (fastest / slowest)^sigmoid(raw); directions are those of `polar_directions`, turned by one
    heading a head. So whatever is learned, no speed leaves the bounds, and the directions stay isotropic.

    Args:
        raw: One number for the speed of each pair of each head.
        heading: Radians by which all directions of a head are turned.
        slowest: Lower bound of the speeds, in radians a patch.
        fastest: Upper bound. Above pi a wave is not told from a slower one on a grid of whole patches (aliasing).

    Returns:
        Radians per patch; row 0 is for x, row 1 for y.

    Source: Compass-RoPE (ICML 2026, poster 62023): speed and angle apart, angles uniform. The bounds are ours (the
    sampling theorem at one sample a patch); its Fourier mixing of angles is left out.
    """
    speed = slowest * (math.log(fastest / slowest) * raw.sigmoid()).exp()
    spread = polar_directions(raw.shape[-1], raw.device, raw.dtype)
    return frequency_vectors(speed, spread + heading.unsqueeze(-1) % (2 * math.pi))  # whole turns would cost digits


#: kind -> frequencies of (channels, heads, theta, device), for the families that learn nothing.
FIXED_FREQUENCIES: dict[str, Callable[..., Tensor]] = {
    "golden": golden_frequencies,
    "spiral": spiral_frequencies,
    "simplex": simplex_frequencies,
}


def num_pairs(channels: int, theta: float) -> int:
    """Count the pairs of a head, after refusing what has none or no speeds."""
    if channels <= 0 or channels % 2:
        raise ValueError(f"got {channels} channels per head; expected a positive even number, as pairs are turned")
    if not theta > 0:
        raise ValueError(f"got theta={theta}; expected a positive number, such as 100")
    return channels // 2
