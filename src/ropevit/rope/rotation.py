"""Rotation of queries and keys: angles from positions and frequencies, and their cosines and sines applied to pairs."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class CosSin(NamedTuple):
    """Cosines and sines of the angles of one layer, at half the width of a head."""

    cos: Float[Tensor, "... N P"]
    sin: Float[Tensor, "... N P"]


def rotation_angles(
    positions: Float[Tensor, "*B N ndim"], frequencies: Float[Tensor, "ndim *A P"]
) -> Float[Tensor, "*B heads N P"]:
    """Compute the rotation angles: the sum over the axes of position times frequency.

    Computed element by element: a matrix product would be rounded to bfloat16 or TF32 under mixed precision.

    Args:
        positions: Positions of the tokens, in patches.
        frequencies: Radians per patch, shared by the heads (ndim, P) or for each head (ndim, A, P).

    Returns:
        Angles in radians, in float32 or better; the heads axis has size A, or 1 where heads share frequencies.

    Source: Heo et al. 2024 (arXiv:2403.13298), RoPE-Mixed: angle = f_x x + f_y y.
    """
    dtype = torch.promote_types(torch.promote_types(positions.dtype, frequencies.dtype), torch.float32)
    positions, frequencies = positions.to(dtype).unsqueeze(-3), frequencies.to(dtype)
    if frequencies.ndim == 2:
        frequencies = frequencies.unsqueeze(1)
    terms = [positions[..., axis, None] * frequencies[axis].unsqueeze(-2) for axis in range(frequencies.shape[0])]
    return sum(terms[1:], start=terms[0])


def rotary_cos_sin(
    positions: Float[Tensor, "*B N ndim"], frequencies: Float[Tensor, "ndim *A P"], num_prefix_tokens: int = 0
) -> CosSin:
    """Compute the cosines and sines for one layer, with the identity in front for prefix tokens.

    Args:
        positions: Positions of the patch tokens.
        frequencies: Radians per patch, (ndim, P) or (ndim, A, P).
        num_prefix_tokens: Class and register tokens in front of the patches. Their position is the origin, so their
            angle is 0 and the rotation leaves them unchanged: q and k need not be split.

    Returns:
        Cosines and sines (..., A or 1, num_prefix_tokens + N, P), in float32 or better.
    """
    positions = torch.nn.functional.pad(positions, (0, 0, num_prefix_tokens, 0))
    angle = rotation_angles(positions, frequencies)
    return CosSin(angle.cos(), angle.sin())


def apply_rotary(x: Float[Tensor, "*B N D"], cos_sin: CosSin) -> Float[Tensor, "*B N D"]:
    """Rotate each pair of channels (2p, 2p+1) by its angle.

    Args:
        x: Queries or keys, (B, A, N, D).
        cos_sin: Cosines and sines of the angles, from `rotary_cos_sin`.

    Returns:
        The rotated tensor, computed in float32 or better and returned in the dtype of `x`.

    Source: Su et al. 2021 (arXiv:2104.09864), Eq. 13 and 34, in real arithmetic.
    """
    dtype = torch.promote_types(x.dtype, cos_sin.cos.dtype)
    even, odd = x.to(dtype).unflatten(-1, (-1, 2)).unbind(-1)
    rotated = even * cos_sin.cos - odd * cos_sin.sin, even * cos_sin.sin + odd * cos_sin.cos
    return torch.stack(rotated, dim=-1).flatten(-2).to(x.dtype)


def rotate(
    q: Float[Tensor, "*B A N D"],
    k: Float[Tensor, "*B A N D"],
    positions: Float[Tensor, "*b n ndim"],
    frequencies: Float[Tensor, "ndim *a P"],
    num_prefix_tokens: int = 0,
) -> tuple[Float[Tensor, "*B A N D"], Float[Tensor, "*B A N D"]]:
    """Rotate queries and keys by the positions of their tokens, so that their products depend on relative positions.

    Args:
        q: Queries (B, A, N, D), N = num_prefix_tokens + patch tokens.
        k: Keys, of the same shape.
        positions: Float positions of the patch tokens, in patches: (n, ndim) for all images, or (B, n, ndim).
        frequencies: Radians per patch: (ndim, P) for all heads, or (ndim, A, P), P = D/2.
        num_prefix_tokens: Class and register tokens in front, which are not rotated.

    Returns:
        The rotated queries and keys, in their own dtypes; angles are float32 or better.

    Raises:
        ValueError: If shapes, dtypes or devices do not match, or positions are not finite (checked on the CPU only: on
            an accelerator the check would synchronize; traced, compiled and transformed calls skip it).

    Source: Heo et al. 2024 (arXiv:2403.13298), section 3.
    """
    for x in (q, k):
        check_shapes(x, positions, frequencies, num_prefix_tokens)
    check_finite(positions)
    cos_sin = rotary_cos_sin(positions, frequencies, num_prefix_tokens)
    return apply_rotary(q, cos_sin), apply_rotary(k, cos_sin)


def check_shapes(
    x: Tensor,
    positions: Tensor,
    frequencies: Tensor,
    num_prefix_tokens: int = 0,
    shape: Sequence[int] | None = None,
) -> None:
    """Raise ValueError unless shapes, dtypes and devices match; `rotate` documents what is expected.

    Args:
        x: Queries or keys, or the projection that has them.
        positions: Positions of the patch tokens.
        frequencies: Radians per patch.
        num_prefix_tokens: Tokens in front that are not rotated.
        shape: That of the queries, where x is their projection; else that of x.
    """
    _check_tensors(x, positions, frequencies)
    shape = tuple(x.shape if shape is None else shape)
    ndim, pairs = frequencies.shape[0], frequencies.shape[-1]
    if positions.ndim < 2 or positions.shape[-1] != ndim:
        raise ValueError(f"got positions of shape {tuple(positions.shape)}; expected (..., N, {ndim})")
    if len(shape) < 3 or shape[-1] != 2 * pairs:
        raise ValueError(
            f"got q or k of shape {shape}; expected (..., heads, tokens, {2 * pairs}), "
            f"twice the {pairs} pairs of the frequencies"
        )
    tokens = num_prefix_tokens + positions.shape[-2]
    if frequencies.ndim == 3 and frequencies.shape[1] not in (1, shape[-3]):
        raise ValueError(
            f"got frequencies of {frequencies.shape[1]} heads for q or k of {shape[-3]} heads; expected the same"
            + _order_hint(shape, tokens)
        )
    if num_prefix_tokens < 0 or shape[-2] != tokens:
        raise ValueError(
            f"got {shape[-2]} tokens, {positions.shape[-2]} positions and num_prefix_tokens={num_prefix_tokens}; "
            "expected tokens = num_prefix_tokens + positions" + _order_hint(shape, tokens)
        )
    if not _is_broadcastable(positions.shape[:-2], shape[:-3]):
        raise ValueError(
            f"got positions of shape {tuple(positions.shape)} for q or k of shape {shape}; "
            f"heads share positions: expected (N, {ndim}) for all images, or (B, N, {ndim}) with the same B"
        )


def _check_tensors(x: Tensor, positions: Tensor, frequencies: Tensor) -> None:
    """Raise ValueError unless the arguments are tensors of the right dtype on one device."""
    check_positions(positions)
    if frequencies.ndim not in (2, 3) or 0 in frequencies.shape:
        raise ValueError(
            f"got frequencies of shape {tuple(frequencies.shape)}; expected (axes, pairs) or (axes, heads, pairs), "
            "no size 0"
        )
    if not x.is_floating_point() or positions.is_complex():
        raise ValueError(f"got q or k in {x.dtype} and positions in {positions.dtype}; expected floating-point q and k")
    if x.device != positions.device or x.device != frequencies.device:
        raise ValueError(
            f"got q or k on {x.device}, positions on {positions.device} and frequencies on {frequencies.device}; "
            "move them to one device"
        )


def check_positions(positions: object) -> None:
    """Raise ValueError unless positions are a tensor (a common mistake is to pass the sizes of a grid)."""
    if not isinstance(positions, Tensor):
        sizes = positions if isinstance(positions, tuple | list) else ("h", "w")
        raise ValueError(
            f"got {str(positions)[:50]} for positions; expected a tensor (tokens, axes) with the position of each "
            f"token: ropevit.rope.grid_positions({', '.join(str(size) for size in sizes)[:50]}) gives those of a grid"
        )


def _order_hint(shape: Sequence[int], tokens: int) -> str:
    """Return the end of an error message where heads and tokens seem to be transposed, else an empty text."""
    if shape[-3] != tokens:
        return ""
    return f"; the order is (B, heads, tokens, channels), and {shape} seems to need transpose(-3, -2)"


def _is_broadcastable(given: Sequence[int], batch: Sequence[int]) -> bool:
    """Return whether the leading sizes of positions are those of the batch, 1, or absent."""
    pairs = zip(reversed(given), reversed(batch), strict=False)
    return len(given) <= len(batch) and all(size in (whole, 1) for size, whole in pairs)


def check_finite(positions: Tensor) -> None:
    """Raise ValueError for infinite or NaN positions, where the check costs no synchronization."""
    if torch.compiler.is_compiling() or positions.device.type != "cpu":
        return
    try:
        finite = math.isfinite(positions.detach().sum()) or bool(positions.isfinite().all())  # a sum is one pass
    except RuntimeError:  # torch.func.vmap and tracers have no values to check
        return
    if not finite:
        raise ValueError(
            "got positions that are not finite; expected finite numbers, in patches: check how they are computed"
        )
