"""Frequencies of the rope types beyond the paper: directions and magnitudes of the pairs.

The angle of a pair is w (x cos a + y sin a): w is the magnitude of its frequency in radians per patch, a its direction.
All types here have the magnitudes theta^(-p/P), p = 0..P-1, as RoPE-Axial has them on each axis (polar learns its own).
Where a source uses other units or ranges, the docstring says so. None has published weights of ViT classifiers.

Directions are isotropic if the mean of d d^T over their unit vectors d is half the identity: no direction is preferred.
The frequencies w d may still be anisotropic, as pairs of large magnitude weigh more: see benchmarks/isotropy.py.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Device = torch.device | str | None

#: 1 / golden ratio: its multiples modulo 1 are spread evenly, however many there are.
_GOLDEN_FRACTION = (math.sqrt(5) - 1) / 2


def geometric_magnitudes(
    count: int, theta: float, device: Device = None, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "P"]:
    """Compute geometrically spaced magnitudes theta^(-p / count): 1 radian per patch down to just above 1 / theta."""
    return theta ** -(torch.arange(count, device=device, dtype=dtype) / max(count, 1))


def _frequency_vectors(magnitude: Float[Tensor, "*P"], direction: Float[Tensor, "*A P"]) -> Float[Tensor, "2 *A P"]:
    """Convert magnitudes (radians per patch) and directions (radians from the x axis towards y) to frequencies."""
    return torch.stack([magnitude * direction.cos(), magnitude * direction.sin()])


def golden_frequencies(
    channels: int, heads: int, theta: float = 100.0, device: Device = None, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "2 heads P"]:
    """Compute frequencies whose directions advance by pi / golden ratio from pair to pair, through all heads.

    Pair p of head a has the direction pi * ((a P + p) / golden ratio mod 1), so that the directions of consecutive
    pairs are spread evenly, and no two heads have the same.

    Args:
        channels: Channels per head, D.
        heads: Number of heads, A.
        theta: Base of the frequencies: the fastest is theta times the (excluded) slowest.
        device: Device of the result.
        dtype: float32 or float64.

    Returns:
        Radians per patch; row 0 is for x, row 1 for y.

    Raises:
        ValueError: If the channels are not even, or theta is not positive.

    Source: Xiong 2025, https://jerryxio.ng/posts/nd-rope ("golden gate RoPE"), which takes magnitudes between two given
    bounds over coordinates from -1 to 1, and may leave some pairs unrotated.
    """
    pairs = num_pairs(channels, theta)
    index = torch.arange(heads * pairs, device=device, dtype=dtype).unflatten(0, (heads, pairs))
    return _frequency_vectors(
        geometric_magnitudes(pairs, theta, device, dtype), math.pi * (index * _GOLDEN_FRACTION % 1)
    )


def spiral_frequencies(
    channels: int, heads: int, theta: float = 100.0, device: Device = None, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "2 P"]:
    """Compute frequencies with up to 8 directions, evenly spread over a half circle, the same for all heads.

    Pair p has the direction pi * (p mod K) / K. K is the greatest common divisor of P and 8, so that every direction
    has the same number of pairs. Magnitudes decrease from pair to pair: the frequencies lie on a spiral.

    Args:
        channels: Channels per head, D.
        heads: Number of heads; not used.
        theta: Base of the frequencies: the fastest is theta times the (excluded) slowest.
        device: Device of the result.
        dtype: float32 or float64.

    Returns:
        Radians per patch; row 0 is for x, row 1 for y.

    Raises:
        ValueError: If the channels are not a multiple of 4, or theta is not positive.

    Source: Liu et al. 2026 (arXiv:2602.03227), Spiral RoPE: groups of channels on uniformly spread directions. How it
    assigns magnitudes to groups was not available; here they alternate.
    """
    del heads
    pairs = num_pairs(channels, theta)
    directions = math.gcd(pairs, 8)
    if directions < 2:
        raise ValueError(f"got heads of {channels} channels; a spiral needs a multiple of 4 for two or more directions")
    direction = math.pi / directions * (torch.arange(pairs, device=device) % directions)
    return _frequency_vectors(geometric_magnitudes(pairs, theta, device, dtype), direction.to(dtype))


def star_frequencies(
    channels: int, heads: int, theta: float = 100.0, device: Device = None, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "2 P"]:
    """Compute frequencies with evenly spread directions that all have the same magnitudes, from 1 down to 1 / theta.

    There are K = 2, 4 or 8 directions pi * k / K with S = P / K >= K magnitudes theta^(-s/S) each; pair k S + s has
    direction k and magnitude s. RoPE-Axial is the case K = 2. Each magnitude is exactly isotropic, where those of
    `spiral_frequencies` have one direction each.

    Args:
        channels: Channels per head, D.
        heads: Number of heads; not used.
        theta: Base of the frequencies: the fastest is theta times the (excluded) slowest.
        device: Device of the result.
        dtype: float32 or float64.

    Returns:
        Radians per patch; row 0 is for x, row 1 for y.

    Raises:
        ValueError: If the channels are not a multiple of 4, or theta is not positive.

    Source: Liu et al. 2026 (arXiv:2602.03227), Spiral RoPE: groups of channels on uniformly spread directions. How it
    assigns magnitudes to groups was not available; here every group has all of them.
    """
    del heads
    pairs = num_pairs(channels, theta)
    if pairs % 2:
        raise ValueError(f"got heads of {channels} channels; a star needs a multiple of 4 for two or more directions")
    count = max(count for count in (2, 4, 8) if count == 2 or (pairs % count == 0 and count**2 <= pairs))
    direction = math.pi / count * torch.arange(count, device=device).to(dtype)
    magnitude = geometric_magnitudes(pairs // count, theta, device, dtype).repeat(count)
    return _frequency_vectors(magnitude, direction.repeat_interleave(pairs // count))


def simplex_frequencies(
    channels: int, heads: int, theta: float = 100.0, device: Device = None, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "2 heads P"]:
    """Compute frequencies in groups of three pairs of equal magnitude, 120 degrees apart, at several scales.

    Scale s = 0..S-1, S = floor(P / 3), of head a has the magnitude theta^(-s/S) and is rotated as a whole by
    120 degrees * ((a S + s) / golden ratio mod 1). The remaining pairs, two at most, come last with frequency 0: they
    compare content only, and every scale stays exactly isotropic.

    Args:
        channels: Channels per head, D.
        heads: Number of heads, A.
        theta: Base of the frequencies: the fastest is theta times the (excluded) slowest.
        device: Device of the result.
        dtype: float32 or float64.

    Returns:
        Radians per patch; row 0 is for x, row 1 for y.

    Raises:
        ValueError: If there are fewer than 6 channels, they are not even, or theta is not positive.

    Source: Li et al. 2026 (arXiv:2606.12146), nD-RoPE: wave vectors of regular simplices at several scales. It rotates
    the simplices at random; here they are rotated by the golden ratio, so that a model needs no seed.
    """
    pairs = num_pairs(channels, theta)
    scales = pairs // 3
    if scales < 1:
        raise ValueError(f"got heads of {channels} channels; a simplex of three waves needs at least 6")
    scale = torch.arange(heads * scales, device=device, dtype=dtype).unflatten(0, (heads, scales))
    corner = torch.arange(3, device=device, dtype=dtype)
    direction = 2 * math.pi / 3 * (corner + (scale * _GOLDEN_FRACTION % 1).unsqueeze(-1))
    magnitude = geometric_magnitudes(scales, theta, device, dtype).unsqueeze(-1).expand(-1, 3)
    return torch.nn.functional.pad(_frequency_vectors(magnitude, direction).flatten(-2), (0, pairs - 3 * scales))


def polar_directions(pairs: int, device: Device = None, dtype: torch.dtype = torch.float32) -> Float[Tensor, "P"]:
    """Compute P evenly spaced directions over a half circle, ordered so that consecutive pairs are far apart.

    Pair p has the direction pi * (k p mod P) / P; k is the integer coprime to P that is nearest to P / golden ratio.
    Each direction occurs once, so they are exactly isotropic (P >= 2), and pairs of similar magnitude point in
    different directions.

    Source: Compass-RoPE (ICML 2026, poster 62023), uniform angles; the order is ours.
    """
    coprime = [k for k in range(1, pairs + 1) if math.gcd(k, pairs) == 1]
    stride = min(coprime, key=lambda k: abs(k - _GOLDEN_FRACTION * pairs))
    return (math.pi / pairs * (torch.arange(pairs, device=device) * stride % pairs)).to(dtype)


def polar_frequencies(
    raw: Float[Tensor, "heads P"], heading: Float[Tensor, "heads"], slowest: float, fastest: float
) -> Float[Tensor, "2 heads P"]:
    """Compute frequencies from unconstrained learned parameters, with magnitudes kept within bounds.

    Magnitudes are slowest * (fastest / slowest)^sigmoid(raw); directions are those of `polar_directions`, rotated by
    one heading per head. Whatever is learned, magnitudes stay within the bounds and directions isotropic.

    Args:
        raw: Logit of the log magnitude of each pair of each head.
        heading: Radians by which all directions of a head are rotated.
        slowest: Lower bound of the magnitudes, in radians per patch.
        fastest: Upper bound. Above pi, frequencies alias on a grid of whole patches.

    Returns:
        Radians per patch; row 0 is for x, row 1 for y.

    Source: Compass-RoPE (ICML 2026, poster 62023): magnitude and angle are separate, angles uniform. The bounds are
    this package's (sampling theorem, one sample per patch); its Fourier mixing of angles is left out.
    """
    magnitude = slowest * (math.log(fastest / slowest) * raw.sigmoid()).exp()
    direction = polar_directions(raw.shape[-1], raw.device, raw.dtype)
    return _frequency_vectors(magnitude, direction + heading.unsqueeze(-1) % (2 * math.pi))  # whole turns cost digits


#: Rope type -> its fixed frequencies, a function of (channels, heads, theta, device).
FIXED_FREQUENCIES: dict[str, Callable[..., Tensor]] = {
    "golden": golden_frequencies,
    "spiral": spiral_frequencies,
    "star": star_frequencies,
    "simplex": simplex_frequencies,
}


def num_pairs(channels: int, theta: float) -> int:
    """Return the number of pairs of a head; raise ValueError for odd channels or theta <= 0."""
    if channels <= 0 or channels % 2:
        raise ValueError(f"got {channels} channels per head; expected a positive even number, as pairs are rotated")
    if not theta > 0:
        raise ValueError(f"got theta={theta}; expected a positive number, such as 100")
    return channels // 2
