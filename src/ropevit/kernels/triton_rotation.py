"""Triton backend of the rotation: one kernel for each direction, one pass over memory, angles computed on the fly.

In the qkv projection each token has a row of A * D channels for each of q, k and v. A program takes a block of tokens
and a block of that row, across head boundaries, computes cosines and sines once, and loops over the images that share
positions. Each program stores its partial sums, which are added afterwards, without atomic operations, so results are
deterministic.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from ropevit.arithmetic import ceil_div
from ropevit.kernels.angles import QKVGradients, canonicalize

#: Bytes of q per program and step: 16 for each of its 128 threads.
TILE = 2048

#: Upper bound, nearly exact, of the programs of a launch: several per SM of a large GPU. It bounds the memory for sums.
PROGRAMS = 8192

#: Integer arguments that Triton does not specialize on (1, multiples of 16).
ANY_VALUE = ("images", "tokens", "heads", "prefix", "period", "chunk")


class RotationLaunch(NamedTuple):
    """Partition of a launch into across * along * chunks programs.

    Attributes:
        across: Programs along the channels of a row.
        along: Programs along the tokens.
        chunks: Programs along the images.
        chunk: Images per program.
        steps: Blocks of tokens per program.
        block_n: Tokens of a block.
        block_c: Channels of a block.
    """

    across: int
    along: int
    chunks: int
    chunk: int
    steps: int
    block_n: int
    block_c: int


def plan_rotation(images: int, tokens: int, width: int, size: int) -> RotationLaunch:
    """Choose block sizes from the shape, without autotuning: sums always have the same order.

    Args:
        images: Number of images, B.
        tokens: Number of tokens.
        width: Channels of a row, A * D.
        size: Bytes of a channel.
    """
    factor = width & -width  # the largest power of two that divides the row
    block_c = min(max(factor, 64), 256, 1 << (width - 1).bit_length())
    block_n = TILE // (size * block_c)
    across, blocks = ceil_div(width, block_c), ceil_div(tokens, block_n)
    steps = (
        1 << (ceil_div(across * blocks, PROGRAMS) - 1).bit_length()
    )  # a power of two: each value compiles another kernel
    chunk = ceil_div(images, max(1, PROGRAMS // (across * blocks)))
    return RotationLaunch(across, ceil_div(blocks, steps), ceil_div(images, chunk), chunk, steps, block_n, block_c)


def launch(
    kernel: Any, plan: RotationLaunch, shape: Sequence[int], pos: Tensor, freqs: Tensor, **arguments: Any
) -> None:
    """Launch a kernel on the device of its tensors.

    Args:
        kernel: The kernel.
        plan: Partition into programs.
        shape: Shape of q, (B, A, N, D).
        pos: Positions, (B or 1, n, ndim), contiguous float32.
        freqs: Frequencies, (ndim, A or 1, P), contiguous float32.
        arguments: Further arguments of the kernel.
    """
    images, heads, tokens, channels = shape
    with torch.cuda.device_of(pos):
        kernel[plan.across * plan.along, plan.chunks](
            **arguments,
            positions=pos,
            frequencies=freqs,
            images=images,
            tokens=tokens,
            heads=heads,
            period=freqs[0].numel(),
            chunk=plan.chunk,
            channels=channels,
            axes=len(freqs),
            per_image=len(pos) > 1,
            block_n=plan.block_n,
            block_c=plan.block_c,
            num_warps=4,
        )


def rotate_(qkv: Tensor, positions: Tensor, frequencies: Tensor, num_prefix_tokens: int) -> None:
    """Rotate q and k of a projection (B, N, 3, A, D) in place; arguments as in `rotate_qkv`."""
    images, tokens, _, heads, channels = qkv.shape
    if not qkv.numel() or tokens == num_prefix_tokens:
        return
    pos, freqs = canonicalize(positions, frequencies)
    plan = plan_rotation(images, tokens - num_prefix_tokens, heads * channels, qkv.element_size())
    plan = plan._replace(along=plan.along * plan.steps, steps=1)  # no sums, so no bound on programs
    shape = (images, heads, tokens, channels)
    launch(forward_kernel, plan, shape, pos, freqs, qkv=qkv, prefix=num_prefix_tokens)


def backward(
    gradients: list[Tensor],
    rotated: list[Tensor],
    positions: Tensor,
    frequencies: Tensor,
    num_prefix_tokens: int,
    *,
    needs_positions_grad: bool,
) -> QKVGradients:
    """Compute the gradients of the projection, and of frequencies and positions if requested.

    Arguments as in `cpu.backward`.
    """
    shape = images, heads, tokens, channels = gradients[0].shape
    grad_qkv = gradients[0].new_empty(images, tokens, 3, heads, channels)
    if not grad_qkv.numel():
        zeros = torch.zeros_like
        return QKVGradients(
            grad_qkv,
            zeros(frequencies) if rotated else None,
            zeros(positions) if rotated and needs_positions_grad else None,
        )
    pos, freqs = canonicalize(positions, frequencies)
    plan = plan_rotation(images, tokens, heads * channels, grad_qkv.element_size())
    sums = freqs.new_empty(plan.chunks * plan.along, len(freqs), heads, channels // 2) if rotated else None
    position_sums = pos.new_empty(plan.across, images, *pos.shape[1:]) if rotated and needs_positions_grad else None
    inputs = _with_strides([*gradients, *rotated])
    outputs = {"grad_qkv": grad_qkv, "sums": sums, "position_sums": position_sums}
    launch(backward_kernel, plan, shape, pos, freqs, prefix=num_prefix_tokens, steps=plan.steps, **outputs, **inputs)
    return QKVGradients(grad_qkv, frequency_sum(sums, frequencies), _position_sum(position_sums, positions))


def _with_strides(parts: list[Tensor]) -> dict[str, Any]:
    """Return tensors (B, A, N, D), and strides in units of a common divisor, from which Triton infers alignment."""
    parts = [part if part.stride(-1) == 1 else part.contiguous() for part in parts]
    unit = math.gcd(16, *(stride for part in parts for stride in part.stride()[:3]))
    return {"parts": tuple((part, *(stride // unit for stride in part.stride()[:3])) for part in parts), "unit": unit}


def frequency_sum(sums: Tensor | None, frequencies: Tensor) -> Tensor | None:
    """Add the partial sums of all programs, (programs, ndim, A, P), and of heads that share frequencies."""
    if sums is None:
        return None
    total = sums.sum(0)
    if frequencies[0].numel() < total[0].numel():
        total = total.sum(1)
    return total.reshape(frequencies.shape).to(frequencies.dtype)


def _position_sum(sums: Tensor | None, positions: Tensor) -> Tensor | None:
    """Add the partial sums of all blocks, (blocks, B, n, ndim), and of images that share positions."""
    if sums is None:
        return None
    total = sums.sum(0) if sums[0].numel() == positions.numel() else sums.sum((0, 1))
    return total.reshape(positions.shape).to(positions.dtype)


@triton.jit
@no_type_check
def reduce_angle(angle):
    """Reduce an angle to about [-pi/4, pi/4] by quarter turns (Cody and Waite, in three steps)."""
    turns = tl.floor(angle * 0.6366197723675814 + 0.5)
    rest = ((angle - turns * 1.5703125) - turns * 4.837512969970703125e-4) - turns * 7.54978995489188216e-8
    return turns, rest


@triton.jit
@no_type_check
def cos_sin(angle):
    """Compute cosine and sine by the polynomials of rotate.c; a second reduction replaces its branch."""
    many, rest = reduce_angle(angle)
    few, r = reduce_angle(rest)
    z = r * r
    s = r + r * z * (-1.6666654611e-1 + z * (8.3321608736e-3 - z * 1.9515295891e-4))
    c = 1.0 - 0.5 * z + z * z * (4.166664568298827e-2 + z * (-1.388731625493765e-3 + z * 2.443315711809948e-5))
    quadrant = (many - 4.0 * tl.floor(many * 0.25) + few).to(tl.int32)
    cosine, sine = tl.where((quadrant & 1) > 0, s, c), tl.where((quadrant & 1) > 0, c, s)
    return tl.where(((quadrant + 1) & 2) > 0, -cosine, cosine), tl.where((quadrant & 2) > 0, -sine, sine)


@triton.jit
@no_type_check
def load_axes(pointers, stride, mask, axes: tl.constexpr):
    """Load x, y and z; missing axes are 0."""
    x = tl.load(pointers, mask, 0.0)
    y = tl.load(pointers + stride, mask & (axes > 1), 0.0)
    z = tl.load(pointers + 2 * stride, mask & (axes > 2), 0.0)
    return x, y, z


@triton.jit
@no_type_check
def load_row(frequencies, heads, period, channels: tl.constexpr, axes: tl.constexpr, block_c: tl.constexpr):
    """Return this program's block of a row: width of the row, channels, pairs, and their frequencies."""
    width = heads * channels
    start = tl.program_id(0) % tl.cdiv(width, block_c) * block_c
    pairs = start // 2 + tl.arange(0, block_c // 2)
    fx, fy, fz = load_axes(frequencies + pairs % period, period, 2 * pairs < width, axes)
    return width, start + tl.arange(0, block_c), pairs, fx, fy, fz


@triton.jit
@no_type_check
def load_positions(positions, image, rows, tokens, prefix, axes: tl.constexpr):
    """Load the positions of a block of tokens; prefix tokens are at the origin, so they are not rotated."""
    pos = positions + (image * (tokens - prefix) + rows - prefix) * axes
    return load_axes(pos, 1, (rows >= prefix) & (rows < tokens), axes)


@triton.jit
@no_type_check
def rotary_cos_sin(x, y, z, fx, fy, fz):
    """Compute the cosines and sines of a block of tokens and pairs."""
    return cos_sin(x[:, None] * fx[None, :] + y[:, None] * fy[None, :] + z[:, None] * fz[None, :])


@triton.jit
@no_type_check
def load_pairs(pointers, mask):
    """Load a block; return the first and second channel of each pair in float32."""
    block = tl.load(pointers, mask, 0.0).to(tl.float32)
    return tl.split(block.reshape(block.shape[0], block.shape[1] // 2, 2))


@triton.jit
@no_type_check
def store_pairs(pointers, first, second, mask):
    """Store a block, rounded to the dtype of the pointers."""
    block = tl.join(first, second).reshape(first.shape[0], 2 * first.shape[1])
    tl.store(pointers, block.to(pointers.dtype.element_ty), mask)


@triton.jit
@no_type_check
def block_pointers(part, image, rows, columns, channels: tl.constexpr, unit: tl.constexpr):
    """Return pointers to a block of a tensor (B, A, N, D) with contiguous channels, given with its strides."""
    of_head, of_token = (columns // channels).to(tl.int64) * part[2], rows * part[3]
    start = part[0] + image * part[1] * unit
    return start + (of_token[:, None] + of_head[None, :]) * unit + columns[None, :] % channels


@triton.jit(do_not_specialize=ANY_VALUE)
@no_type_check
def forward_kernel(
    qkv, positions, frequencies, images, tokens, heads, prefix, period, chunk,
    channels: tl.constexpr, axes: tl.constexpr, per_image: tl.constexpr, block_n: tl.constexpr, block_c: tl.constexpr,
):  # fmt: skip
    """Rotate q and k of the patches in place; arguments in `launch`."""
    width, columns, _pairs, fx, fy, fz = load_row(frequencies, heads, period, channels, axes, block_c)
    first, block = tl.program_id(1).to(tl.int64) * chunk, tl.program_id(0) // tl.cdiv(width, block_c)
    rows = prefix + block.to(tl.int64) * block_n + tl.arange(0, block_n)
    mask = (rows < tokens)[:, None] & (columns < width)[None, :]
    if not per_image:
        x, y, z = load_positions(positions, 0, rows, tokens, prefix, axes)
        c, s = rotary_cos_sin(x, y, z, fx, fy, fz)
    for index in tl.range(0, tl.minimum(chunk, images - first)):
        image = first + index
        if per_image:
            x, y, z = load_positions(positions, image, rows, tokens, prefix, axes)
            c, s = rotary_cos_sin(x, y, z, fx, fy, fz)
        q = qkv + image * tokens * 3 * width + rows[:, None] * 3 * width + columns[None, :]
        q0, q1 = load_pairs(q, mask)
        k0, k1 = load_pairs(q + width, mask)
        store_pairs(q, q0 * c - q1 * s, q0 * s + q1 * c, mask)
        store_pairs(q + width, k0 * c - k1 * s, k0 * s + k1 * c, mask)


@triton.jit(do_not_specialize=ANY_VALUE)
@no_type_check
def backward_kernel(
    parts, grad_qkv, sums, position_sums, positions, frequencies, images, tokens, heads, prefix, period, chunk,
    channels: tl.constexpr, axes: tl.constexpr, per_image: tl.constexpr, block_n: tl.constexpr, block_c: tl.constexpr,
    steps: tl.constexpr, unit: tl.constexpr,
):  # fmt: skip
    """Rotate the gradients of all tokens back and concatenate them.

    `parts` are the gradients of q, k and v, then the rotated q and k if sums are requested.
    """
    width, columns, pairs, fx, fy, fz = load_row(frequencies, heads, period, channels, axes, block_c)
    across, first = tl.cdiv(width, block_c), tl.program_id(1).to(tl.int64) * chunk
    sum_x = tl.zeros((block_n, block_c // 2), tl.float32)
    sum_y, sum_z = sum_x, sum_x
    for step in tl.range(0, steps):
        block = tl.program_id(0) // across * steps + step
        rows = block.to(tl.int64) * block_n + tl.arange(0, block_n)
        mask = (rows < tokens)[:, None] & (columns < width)[None, :]
        if not per_image:
            x, y, z = load_positions(positions, 0, rows, tokens, prefix, axes)
            c, s = rotary_cos_sin(x, y, z, fx, fy, fz)
        for index in tl.range(0, tl.minimum(chunk, images - first)):
            image = first + index
            if per_image:
                x, y, z = load_positions(positions, image, rows, tokens, prefix, axes)
                c, s = rotary_cos_sin(x, y, z, fx, fy, fz)
            q0, q1 = load_pairs(block_pointers(parts[0], image, rows, columns, channels, unit), mask)
            k0, k1 = load_pairs(block_pointers(parts[1], image, rows, columns, channels, unit), mask)
            if sums is not None:
                slope = angle_gradient(parts[3], q0, q1, image, rows, columns, mask, channels, unit)
                slope += angle_gradient(parts[4], k0, k1, image, rows, columns, mask, channels, unit)
                sum_x, sum_y, sum_z = sum_x + slope * x[:, None], sum_y + slope * y[:, None], sum_z + slope * z[:, None]
                if position_sums is not None:
                    row_of_sums = (tl.program_id(0) % across * images + image) * (tokens - prefix) + rows - prefix
                    patches = (rows >= prefix) & (rows < tokens)
                    sums_at = position_sums + row_of_sums * axes
                    store_axes(sums_at, 1, slope * fx, slope * fy, slope * fz, 1, patches, axes)
            to = grad_qkv + image * tokens * 3 * width + rows[:, None] * 3 * width + columns[None, :]
            store_pairs(to, q0 * c + q1 * s, q1 * c - q0 * s, mask)
            store_pairs(to + width, k0 * c + k1 * s, k1 * c - k0 * s, mask)
            v = tl.load(block_pointers(parts[2], image, rows, columns, channels, unit), mask, 0.0)
            tl.store(to + 2 * width, v, mask)
    if sums is not None:
        row = tl.program_id(1) * (tl.num_programs(0) // across) + tl.program_id(0) // across
        to = sums + row.to(tl.int64) * axes * (width // 2) + pairs
        store_axes(to, width // 2, sum_x, sum_y, sum_z, 0, 2 * pairs < width, axes)


@triton.jit
@no_type_check
def angle_gradient(part, first, second, image, rows, columns, mask, channels: tl.constexpr, unit: tl.constexpr):
    """Compute the gradient of the angles of q or k: g1 y0 - g0 y1, with g the gradient of the rotated y."""
    y0, y1 = load_pairs(block_pointers(part, image, rows, columns, channels, unit), mask)
    return second * y0 - first * y1


@triton.jit
@no_type_check
def store_axes(pointers, stride, x, y, z, over: tl.constexpr, mask, axes: tl.constexpr):
    """Store the sums over tokens (0) or pairs (1) of x, y and z, one for each axis."""
    tl.store(pointers, tl.sum(x, over), mask)
    if axes > 1:
        tl.store(pointers + stride, tl.sum(y, over), mask)
    if axes > 2:
        tl.store(pointers + 2 * stride, tl.sum(z, over), mask)
