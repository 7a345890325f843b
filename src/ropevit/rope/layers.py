"""Rotary embeddings as modules, for any attention: `q, k = rope(q, k, positions)`."""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ropevit.rope.directions import FIXED_FREQUENCIES, geometric_magnitudes, num_pairs, polar_frequencies
from ropevit.rope.frequencies import axial_frequencies, check_heads, check_theta, mixed_frequencies, pairs_per_axis
from ropevit.rope.rotation import CosSin, check_positions, rotary_cos_sin, rotate


class Rope(nn.Module):
    """Base class of rotary embeddings: `q, k = rope(q, k, positions)`, or `rope()` for the frequencies only.

    In a forward pass, get the frequencies by calling the module: hooks of offloading and FSDP materialize its
    parameters only then.
    """

    def frequencies(self, device: torch.device | str | None = None) -> Float[Tensor, "ndim *A P"]:
        """Compute the frequencies, in radians per patch; fixed ones on `device`, learned ones on their own device."""
        raise NotImplementedError

    def cos_sin(self, positions: Float[Tensor, "*B N ndim"], num_prefix_tokens: int = 0) -> CosSin:
        """Compute the cosines and sines for a layer, (A or 1, num_prefix_tokens + N, P) for each set of positions."""
        return rotary_cos_sin(positions, self(positions=positions), num_prefix_tokens)

    def forward(
        self,
        q: Tensor | None = None,
        k: Tensor | None = None,
        positions: Float[Tensor, "*B N ndim"] | None = None,
        num_prefix_tokens: int = 0,
    ) -> tuple[Tensor, Tensor] | Tensor:
        """Rotate queries and keys (B, A, num_prefix_tokens + N, D) as `rotate` does; without them, return frequencies.

        Args:
            q: Queries.
            k: Keys.
            positions: Positions of the patch tokens; without queries and keys, only their device is used.
            num_prefix_tokens: Class and register tokens in front, which are not rotated.

        Raises:
            ValueError: If shapes, dtypes or devices do not match, or only one of queries and keys is given.
        """
        if q is None and k is None:  # cloned: a sharded parameter is freed when this returns
            return self.frequencies(None if positions is None else positions.device).clone()
        if q is None or k is None:
            raise ValueError("got queries, keys or positions alone; expected rope(q, k, positions)")
        check_positions(positions)
        assert positions is not None
        return rotate(q, k, positions, self.frequencies(positions.device), num_prefix_tokens)


class AxialRope(Rope):
    """RoPE-Axial: fixed frequencies, each pair rotates along one axis. No parameters and no buffers.

    Args:
        channels: Channels per head, D.
        theta: Base of the frequencies: the fastest is theta times the (excluded) slowest; 100 in ViT, 50 in Swin.
        ndim: Number of axes, 1 to 3.
        pairs: Pairs for each axis, x first; None divides them equally.

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
    """Golden, spiral, star or simplex RoPE in two dimensions: fixed frequencies. No parameters and no buffers.

    Args:
        rope_type: A name of `ropevit.rope.directions.FIXED_FREQUENCIES`: golden, spiral, star or simplex.
        channels: Channels per head, D.
        heads: Number of heads, A.
        theta: Base of the frequencies: the fastest is theta times the (excluded) slowest.

    Source: see `ropevit.rope.directions`.
    """

    def __init__(self, rope_type: str, channels: int, heads: int, theta: float = 100.0):
        super().__init__()
        if rope_type not in FIXED_FREQUENCIES:
            raise ValueError(
                f"no rope type with fixed frequencies named {rope_type!r}; choose one of {', '.join(FIXED_FREQUENCIES)}"
            )
        self.rope_type, self.channels, self.heads, self.theta = rope_type, channels, heads, theta
        self.frequencies("cpu")  # raises ValueError for bad arguments now, not in training

    def frequencies(self, device: torch.device | str | None = None) -> Float[Tensor, "2 *A P"]:
        """Compute the frequencies on a device, in radians per patch."""
        return FIXED_FREQUENCIES[self.rope_type](self.channels, self.heads, self.theta, device)

    def extra_repr(self) -> str:
        """Describe the module in `print(model)`."""
        return f"{self.rope_type}, channels={self.channels}, heads={self.heads}, theta={self.theta:g}"


class LearnedRope(Rope):
    """Base class of learned rotary embeddings: parameters stay float32 when the model is cast to bfloat16 or half.

    Do not apply weight decay to them: it pulls frequencies to 0.
    """

    freqs: Tensor
    """Frequencies (ndim, heads, P), in radians per patch."""

    def reset_parameters(self) -> None:
        """Initialize the parameters."""
        raise NotImplementedError

    def frequencies(self, device: torch.device | str | None = None) -> Float[Tensor, "ndim heads P"]:
        """Return `freqs` on their own device; in a forward pass, call the module instead."""
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
    """RoPE-Mixed: learned frequencies, each pair of each head rotates along its own direction.

    The parameter `freqs` (ndim, heads, P) holds the frequencies themselves.

    Args:
        channels: Channels per head, D.
        heads: Number of heads, A.
        theta: Base of the initial frequencies.
        ndim: Number of axes, 1 to 3.
        pairs: Initial pairs for each axis of a head's rotated frame; None divides them equally.
        generator: Random number generator for the initial directions; None uses PyTorch's global one.

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
        check_heads(heads)
        check_theta(theta)
        self.freqs = nn.Parameter(torch.empty(ndim, heads, channels // 2, dtype=torch.float32))
        self.reset_parameters(generator)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Initialize the frequencies with new random directions; on the meta device there is nothing to initialize."""
        if self.freqs.is_meta:
            return
        ndim, heads, pairs = self.freqs.shape
        self.freqs.copy_(mixed_frequencies(2 * pairs, heads, self.theta, ndim, self.pairs, generator))

    def extra_repr(self) -> str:
        """Describe the module in `print(model)`."""
        return f"{super().extra_repr()}, theta={self.theta:g}"


class PolarRope(LearnedRope):
    """RoPE with learned magnitudes between bounds, and evenly spread directions.

    Parameters: `raw_speeds` (heads, P), whose sigmoid gives the magnitudes, and `heading` (heads,), which rotates all
    directions of a head together. Initially magnitudes are theta^(-p/P), and headings differ from head to head.

    Args:
        channels: Channels per head, D.
        heads: Number of heads, A.
        theta: Base of the initial magnitudes.
        slowest: Lower bound of the magnitudes, in radians per patch; 0.01 is one rotation in 628 patches.
        fastest: Upper bound; above pi, half a rotation per patch, frequencies alias on whole patches.

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
                "the initial magnitudes, from 1 to 1 / theta radians per patch, between them"
            )
        self.theta, self.slowest, self.fastest = theta, slowest, fastest
        self.raw_speeds = nn.Parameter(torch.empty(heads, pairs))
        self.heading = nn.Parameter(torch.empty(heads))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialize magnitudes and headings, which are deterministic; on the meta device, nothing."""
        if self.raw_speeds.is_meta:
            return
        heads, pairs = self.raw_speeds.shape
        magnitude = geometric_magnitudes(pairs, self.theta, self.raw_speeds.device)
        fraction = (magnitude / self.slowest).log() / math.log(self.fastest / self.slowest)
        self.raw_speeds.copy_(fraction.logit().expand(heads, -1))
        self.heading.copy_(math.pi / pairs / heads * torch.arange(heads, device=self.heading.device))

    @property
    def freqs(self) -> Float[Tensor, "2 heads P"]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Frequencies, in radians per patch."""
        return polar_frequencies(self.raw_speeds, self.heading, self.slowest, self.fastest)

    def extra_repr(self) -> str:
        """Describe the module in `print(model)`."""
        return f"{super().extra_repr()}, theta={self.theta:g}, magnitudes {self.slowest:g} to {self.fastest:.4g}"


class GatedAxialRope(Rope):
    """RoPE-Axial with a learned gate per head that scales its angles: angle = tanh(gate) (f_x x + f_y y).

    The gate starts at 0, where nothing is rotated but the gate has a gradient; for large gates this is RoPE-Axial. For
    every gate it is a rotation: scores depend on relative positions. The parameter `gate` (heads,) and the buffer
    `freqs` (ndim, P), saved with the model, stay float32 when the model is cast to bfloat16 or half.

    Args:
        channels: Channels per head, D.
        heads: Number of heads, A.
        theta: Base of the frequencies: the fastest is theta times the (excluded) slowest.
        ndim: Number of axes, 1 to 3.
        pairs: Pairs for each axis, x first; None divides them equally.

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
        """Compute the gated frequencies of each head, in radians per patch, on the module's device."""
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
    """Wrap the function that `nn.Module._apply` gets, so that no tensor becomes shorter than float32."""

    def keep(tensor: Tensor) -> Tensor:
        moved = fn(tensor)
        return moved if moved.dtype.itemsize >= 4 else tensor.to(moved.device)

    return keep
