"""RoPE-Axial, RoPE-Mixed and the other families as modules, for anyone's attention: `q, k = rope(q, k, positions)`."""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ropevit.rope.families import FIXED_FREQUENCIES, geometric_magnitudes, num_pairs, polar_frequencies
from ropevit.rope.frequencies import axial_frequencies, check_theta, mixed_frequencies, pairs_per_axis
from ropevit.rope.rotation import CosSin, check_positions, rotary_cos_sin, rotate


class Rope(nn.Module):
    """Base of the rotations: `q, k = rope(q, k, positions)`, or `rope()` for the frequencies alone.

    Whoever needs the frequencies of a module in a forward pass calls it: hooks of offloading and sharding bring its
    parameters in only then.
    """

    def frequencies(self, device: torch.device | str | None = None) -> Float[Tensor, "ndim *A P"]:
        """Compute the frequencies, in radians per patch; fixed ones on a device, learned ones where they are."""
        raise NotImplementedError

    def cos_sin(self, positions: Float[Tensor, "*B N ndim"], num_prefix: int = 0) -> CosSin:
        """Compute the cosines and sines of this layer, (A or 1, num_prefix + N, P) for each set of positions."""
        return rotary_cos_sin(positions, self(positions=positions), num_prefix)

    def forward(
        self,
        q: Tensor | None = None,
        k: Tensor | None = None,
        positions: Float[Tensor, "*B N ndim"] | None = None,
        num_prefix: int = 0,
    ) -> tuple[Tensor, Tensor] | Tensor:
        """Rotate queries and keys (B, A, num_prefix + N, D), see `rotate`; without them, give the frequencies.

        Args:
            q: Queries.
            k: Keys.
            positions: Of the patch tokens; without queries and keys, what names the device of fixed frequencies.
            num_prefix: Class and register tokens in front, which are not turned.

        Raises:
            ValueError: As `rotate`, or if only one of queries and keys is given.
        """
        if q is None and k is None:  # a copy: a sharded parameter is freed when this returns
            return self.frequencies(None if positions is None else positions.device).clone()
        if q is None or k is None:
            raise ValueError("got queries, keys or positions alone; expected rope(q, k, positions)")
        check_positions(positions)
        assert positions is not None
        return rotate(q, k, positions, self.frequencies(positions.device), num_prefix)


class AxialRope(Rope):
    """Rotation with fixed frequencies, each pair turning along one axis; it has no parameters and no buffers.

    Args:
        channels: Channels per head, D.
        theta: Ratio of the fastest to the (excluded) slowest frequency; 100 in ViT, 50 in Swin.
        ndim: Number of axes, 1 to 3.
        pairs: Pairs for each axis, x first; None shares them equally.

    Source: Heo et al. 2024 (arXiv:2403.13298), RoPE-Axial.
    """

    def __init__(self, channels: int, theta: float = 100.0, ndim: int = 2, pairs: Sequence[int] | None = None):
        super().__init__()
        self.channels, self.theta, self.ndim = channels, theta, ndim
        self.pairs = pairs_per_axis(channels, ndim, pairs)
        check_theta(theta)

    def frequencies(self, device: torch.device | str | None = None) -> Float[Tensor, "ndim P"]:
        """Compute the frequencies on a device, in radians per patch."""
        return axial_frequencies(self.channels, self.theta, self.ndim, self.pairs, device)

    def extra_repr(self) -> str:
        """Describe the module in `print(model)`."""
        return f"channels={self.channels}, theta={self.theta:g}, pairs={self.pairs}"


class FixedRope(Rope):
    """Rotation of an image with fixed frequencies of another family; it has no parameters and no buffers.

    Args:
        rope_type: A name of `ropevit.rope.families.FIXED_FREQUENCIES`: golden, spiral or simplex.
        channels: Channels per head, D.
        heads: Number of heads, A.
        theta: Ratio of the fastest to the (excluded) slowest frequency.

    Source: see `ropevit.rope.families`.
    """

    def __init__(self, rope_type: str, channels: int, heads: int, theta: float = 100.0):
        super().__init__()
        if rope_type not in FIXED_FREQUENCIES:
            raise ValueError(
                f"no family of fixed frequencies named {rope_type!r}; choose one of {', '.join(FIXED_FREQUENCIES)}"
            )
        self.rope_type, self.channels, self.heads, self.theta = rope_type, channels, heads, theta
        self.frequencies("meta")  # refuses bad arguments now, not in training

    def frequencies(self, device: torch.device | str | None = None) -> Float[Tensor, "2 *A P"]:
        """Compute the frequencies on a device, in radians per patch."""
        return FIXED_FREQUENCIES[self.rope_type](self.channels, self.heads, self.theta, device)

    def extra_repr(self) -> str:
        """Describe the module in `print(model)`."""
        return f"{self.rope_type}, channels={self.channels}, heads={self.heads}, theta={self.theta:g}"


class LearnedRope(Rope):
    """Base of the rotations that learn: their parameters stay float32 when the model is cast to a shorter dtype.

    They should not be decayed.
    """

    freqs: Tensor
    """Frequencies (ndim, heads, P), in radians per patch."""

    def reset_parameters(self) -> None:
        """Start anew."""
        raise NotImplementedError

    def frequencies(self, device: torch.device | str | None = None) -> Float[Tensor, "ndim heads P"]:
        """Give `freqs`, where they are; read in a forward pass by calling the module."""
        del device
        return self.freqs

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "LearnedRope":
        """Follow `.to(device)` and `.double()`, but keep float32 under `.half()` and `.bfloat16()`."""
        return super()._apply(keep_float32(fn), recurse)

    def extra_repr(self) -> str:
        """Describe the module in `print(model)`."""
        ndim, heads, pairs = self.freqs.shape
        return f"channels={2 * pairs}, heads={heads}, ndim={ndim}"


class MixedRope(LearnedRope):
    """Rotation with learned frequencies: each pair of each head turns along a direction of its own.

    The parameter `freqs` (ndim, heads, P) holds the frequencies themselves.

    Args:
        channels: Channels per head, D.
        heads: Number of heads, A.
        theta: Of the starting frequencies.
        ndim: Number of axes, 1 to 3.
        pairs: Pairs for each axis of a head's turned frame; None shares them equally.
        generator: Source of the random directions; None takes PyTorch's own.

    Source: Heo et al. 2024 (arXiv:2403.13298), RoPE-Mixed.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        theta: float = 10.0,
        ndim: int = 2,
        pairs: Sequence[int] | None = None,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.theta, self.pairs = theta, pairs_per_axis(channels, ndim, pairs)
        self.freqs = nn.Parameter(mixed_frequencies(channels, heads, theta, ndim, pairs, generator))

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw new directions, as at the start."""
        ndim, heads, pairs = self.freqs.shape
        self.freqs.copy_(mixed_frequencies(2 * pairs, heads, self.theta, ndim, self.pairs, generator))

    def extra_repr(self) -> str:
        """Describe the module in `print(model)`."""
        return f"{super().extra_repr()}, theta={self.theta:g}"


class PolarRope(LearnedRope):
    """Rotation of an image with learned speeds between bounds, in directions that stay evenly spread.

    Parameters: `raw_speeds` (heads, P), of which a sigmoid makes speeds, and `heading` (heads,), which turns all
    directions of a head together. At the start the speeds are theta^(-p/P), and headings differ from head to head.

    Args:
        channels: Channels per head, D.
        heads: Number of heads, A.
        theta: Of the starting speeds.
        slowest: Lower bound of the speeds, in radians a patch; 0.01 is one turn in 628 patches.
        fastest: Upper bound; pi is half a turn a patch, beyond which whole patches cannot tell waves apart.

    Source: Compass-RoPE (ICML 2026, poster 62023); see `polar_frequencies`.
    """

    def __init__(self, channels: int, heads: int, theta: float = 10.0, slowest: float = 0.01, fastest: float = math.pi):
        super().__init__()
        pairs = num_pairs(channels, theta)
        if heads < 1 or pairs < 2:
            raise ValueError(f"got {heads} heads of {channels} channels; expected at least 1 head of 4 channels")
        if not 0 < slowest < fastest <= math.pi or not slowest <= min(1, 1 / theta) or fastest <= 1:
            raise ValueError(
                f"got slowest={slowest}, fastest={fastest}, theta={theta}; expected 0 < slowest < fastest <= pi with "
                "the starting speeds, from 1 to 1 / theta radians a patch, between them"
            )
        self.theta, self.slowest, self.fastest = theta, slowest, fastest
        self.raw_speeds = nn.Parameter(torch.empty(heads, pairs))
        self.heading = nn.Parameter(torch.empty(heads))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Go back to the starting speeds and headings, which are always the same."""
        heads, pairs = self.raw_speeds.shape
        speed = geometric_magnitudes(pairs, self.theta, self.raw_speeds.device)
        share = (speed / self.slowest).log() / math.log(self.fastest / self.slowest)
        self.raw_speeds.copy_(share.logit().expand(heads, -1))
        self.heading.copy_(math.pi / pairs / heads * torch.arange(heads, device=self.heading.device))

    @property
    def freqs(self) -> Float[Tensor, "2 heads P"]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Frequencies, in radians per patch."""
        return polar_frequencies(self.raw_speeds, self.heading, self.slowest, self.fastest)

    def extra_repr(self) -> str:
        """Describe the module in `print(model)`."""
        return f"{super().extra_repr()}, theta={self.theta:g}, speeds {self.slowest:g} to {self.fastest:.4g}"


class GatedAxialRope(Rope):
    """RoPE-Axial whose angles each head fades in from nothing: angle = tanh(gate) (f_x x + f_y y).

    At gate 0, where it starts, nothing turns, and the gradient of the gate is not 0; far from 0 it is RoPE-Axial. At
    every gate this is a rotation: scores depend on differences of positions. The parameter `gate` (heads,) and the
    buffer `freqs` (ndim, P), saved with the model, stay float32 when the model is cast to a shorter dtype.

    Args:
        channels: Channels per head, D.
        heads: Number of heads, A.
        theta: Ratio of the fastest to the (excluded) slowest frequency.
        ndim: Number of axes, 1 to 3.
        pairs: Pairs for each axis, x first; None shares them equally.

    Source: this package; the frequencies are RoPE-Axial's, Heo et al. 2024 (arXiv:2403.13298).
    """

    freqs: Tensor

    def __init__(
        self, channels: int, heads: int, theta: float = 100.0, ndim: int = 2, pairs: Sequence[int] | None = None
    ):
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(heads))
        self.register_buffer("freqs", axial_frequencies(channels, theta, ndim, pairs))

    def frequencies(self, device: torch.device | str | None = None) -> Float[Tensor, "ndim heads P"]:
        """Compute the faded frequencies of each head, in radians per patch, where they are."""
        del device
        return self.freqs.unsqueeze(1) * self.gate.tanh().unsqueeze(-1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "GatedAxialRope":
        """Follow `.to(device)` and `.double()`, but keep float32 under `.half()` and `.bfloat16()`."""
        return super()._apply(keep_float32(fn), recurse)

    def extra_repr(self) -> str:
        """Describe the module in `print(model)`."""
        ndim, pairs = self.freqs.shape
        return f"channels={2 * pairs}, heads={len(self.gate)}, ndim={ndim}"


def keep_float32(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Keep what moves a tensor to another device or dtype from making it shorter than float32."""

    def keep(tensor: Tensor) -> Tensor:
        moved = fn(tensor)
        return moved if moved.dtype.itemsize >= 4 else tensor.to(moved.device)

    return keep
