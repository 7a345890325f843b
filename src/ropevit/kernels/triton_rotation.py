"""The rotation on a GPU by one Triton kernel for each direction: one pass over memory, angles on the fly.

In the packed projection each token has a row of A * D channels for each of q, k and v. A program takes a block of
tokens and a block of that row, whatever heads it is of, computes cosines and sines once, and goes through the images
that share positions. Sums are kept by each program and added up afterwards, without atomic operations, so results do
not change from run to run.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from ropevit.kernels.angles import QKVGradients, canonicalize

#: Bytes of q that a program holds at a time: 16 for each of its 128 threads.
TILE = 2048

#: Programs of a launch, at most or little more: a few for each place on a large GPU. It bounds the memory for sums.
PROGRAMS = 8192

#: Numbers whose values (1, multiples of 16) are not worth a kernel of their own.
ANY_VALUE = ("images", "tokens", "heads", "prefix", "period", "chunk")


class RotationLaunch(NamedTuple):
    """How a launch is shared out to across * along * chunks programs.

    Attributes:
        across: Programs that share the channels of a row.
        along: Programs that share the tokens.
        chunks: Programs that share the images.
        chunk: Images that a program goes through.
        steps: Blocks of tokens that a program goes through.
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
    """Choose blocks by rule, never by trial: sums are taken in the same order each time.

    Args:
        images: B.
        tokens: Tokens to visit.
        width: Channels of a row, A * D.
        size: Bytes of a channel.
    """
    factor = width & -width  # the largest power of two in it: blocks of that size end where the row ends
    block_c = min(max(factor, 64), 256, 1 << (width - 1).bit_length())
    block_n = TILE // (size * block_c)
    across, blocks = divide(width, block_c), divide(tokens, block_n)
    steps = 1 << (divide(across * blocks, PROGRAMS) - 1).bit_length()  # a power of two: each is a kernel of its own
    chunk = divide(images, max(1, PROGRAMS // (across * blocks)))
    return RotationLaunch(across, divide(blocks, steps), divide(images, chunk), chunk, steps, block_n, block_c)


def divide(whole: int, size: int) -> int:
    """Count the pieces of a size that cover the whole."""
    return -(-whole // size)


def launch(
    kernel: Any, plan: RotationLaunch, shape: Sequence[int], places: Tensor, speeds: Tensor, **arguments: Any
) -> None:
    """Run a kernel on the device of its tensors.

    Args:
        kernel: What to run.
        plan: How to share it out.
        shape: That of q, (B, A, N, D).
        places: Positions, (B or 1, n, ndim), contiguous float32.
        speeds: Frequencies, (ndim, A or 1, P), contiguous float32.
        arguments: What else the kernel takes.
    """
    images, heads, tokens, channels = shape
    with torch.cuda.device_of(places):
        kernel[plan.across * plan.along, plan.chunks](
            **arguments,
            positions=places,
            frequencies=speeds,
            images=images,
            tokens=tokens,
            heads=heads,
            period=speeds[0].numel(),
            chunk=plan.chunk,
            channels=channels,
            axes=len(speeds),
            per_image=len(places) > 1,
            block_n=plan.block_n,
            block_c=plan.block_c,
            num_warps=4,
        )


def rotate_(qkv: Tensor, positions: Tensor, frequencies: Tensor, num_prefix: int) -> None:
    """Turn q and k of a packed projection (B, N, 3, A, D) in place; arguments as in `rotate_qkv`."""
    images, tokens, _, heads, channels = qkv.shape
    if not qkv.numel() or tokens == num_prefix:
        return
    places, speeds = canonicalize(positions, frequencies)
    plan = plan_rotation(images, tokens - num_prefix, heads * channels, qkv.element_size())
    plan = plan._replace(along=plan.along * plan.steps, steps=1)  # no sums, nothing to bound
    shape = (images, heads, tokens, channels)
    launch(forward_kernel, plan, shape, places, speeds, qkv=qkv, prefix=num_prefix)


def backward(
    gradients: list[Tensor],
    turned: list[Tensor],
    positions: Tensor,
    frequencies: Tensor,
    num_prefix: int,
    *,
    of_positions: bool,
) -> QKVGradients:
    """Turn the gradients of q and k back, pack them with that of v, and give those of frequencies and positions.

    Arguments as in `cpu.backward`.
    """
    shape = images, heads, tokens, channels = gradients[0].shape
    packed = gradients[0].new_empty(images, tokens, 3, heads, channels)
    if not packed.numel():
        zeros = torch.zeros_like
        return QKVGradients(
            packed, zeros(frequencies) if turned else None, zeros(positions) if turned and of_positions else None
        )
    places, speeds = canonicalize(positions, frequencies)
    plan = plan_rotation(images, tokens, heads * channels, packed.element_size())
    sums = speeds.new_empty(plan.chunks * plan.along, len(speeds), heads, channels // 2) if turned else None
    place_sums = places.new_empty(plan.across, images, *places.shape[1:]) if turned and of_positions else None
    tensors = {"packed": packed, "sums": sums, "place_sums": place_sums, **as_axis_rows([*gradients, *turned])}
    launch(backward_kernel, plan, shape, places, speeds, prefix=num_prefix, steps=plan.steps, **tensors)
    return QKVGradients(packed, frequency_sum(sums, frequencies), position_sum(place_sums, positions))


def as_axis_rows(parts: list[Tensor]) -> dict[str, Any]:
    """Tell a kernel where tensors (B, A, N, D) lie: strides in units that say how they are aligned."""
    parts = [part if part.stride(-1) == 1 else part.contiguous() for part in parts]
    unit = math.gcd(16, *(stride for part in parts for stride in part.stride()[:3]))
    return {"parts": tuple((part, *(stride // unit for stride in part.stride()[:3])) for part in parts), "unit": unit}


def frequency_sum(sums: Tensor | None, frequencies: Tensor) -> Tensor | None:
    """Add up what the programs have kept, (programs, ndim, A, P), and over heads that share frequencies."""
    if sums is None:
        return None
    total = sums.sum(0)
    if frequencies[0].numel() < total[0].numel():
        total = total.sum(1)
    return total.reshape(frequencies.shape).to(frequencies.dtype)


def position_sum(sums: Tensor | None, positions: Tensor) -> Tensor | None:
    """Add up what the programs have kept, (blocks, B, n, ndim), and over images that share positions."""
    if sums is None:
        return None
    total = sums.sum(0) if sums[0].numel() == positions.numel() else sums.sum((0, 1))
    return total.reshape(positions.shape).to(positions.dtype)


@triton.jit
@no_type_check
def reduce_angle(angle):
    """Bring an angle near [-pi/4, pi/4], by quarter turns (Cody and Waite, in three steps)."""
    turns = tl.floor(angle * 0.6366197723675814 + 0.5)
    rest = ((angle - turns * 1.5703125) - turns * 4.837512969970703125e-4) - turns * 7.54978995489188216e-8
    return turns, rest


@triton.jit
@no_type_check
def cos_sin(angle):
    """Cosine and sine by the polynomials of rotate.c; a second reduction takes the place of its branch."""
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
    """Load x, y and z; an axis that there is not is 0."""
    x = tl.load(pointers, mask, 0.0)
    y = tl.load(pointers + stride, mask & (axes > 1), 0.0)
    z = tl.load(pointers + 2 * stride, mask & (axes > 2), 0.0)
    return x, y, z


@triton.jit
@no_type_check
def load_row(frequencies, heads, period, channels: tl.constexpr, axes: tl.constexpr, block_c: tl.constexpr):
    """Find this program's block of a row: width of the row, channels, pairs, and their frequencies."""
    width = heads * channels
    start = tl.program_id(0) % tl.cdiv(width, block_c) * block_c
    pairs = start // 2 + tl.arange(0, block_c // 2)
    fx, fy, fz = load_axes(frequencies + pairs % period, period, 2 * pairs < width, axes)
    return width, start + tl.arange(0, block_c), pairs, fx, fy, fz


@triton.jit
@no_type_check
def load_positions(positions, image, rows, tokens, prefix, axes: tl.constexpr):
    """Load the positions of a block of tokens; those of the prefix stand at the origin, so they are not turned."""
    places = positions + (image * (tokens - prefix) + rows - prefix) * axes
    return load_axes(places, 1, (rows >= prefix) & (rows < tokens), axes)


@triton.jit
@no_type_check
def rotary_cos_sin(x, y, z, fx, fy, fz):
    """Give the cosines and sines of a block of tokens and pairs."""
    return cos_sin(x[:, None] * fx[None, :] + y[:, None] * fy[None, :] + z[:, None] * fz[None, :])


@triton.jit
@no_type_check
def load_pairs(pointers, mask):
    """Load a block, and give the first and second of each pair in float32."""
    block = tl.load(pointers, mask, 0.0).to(tl.float32)
    return tl.split(block.reshape(block.shape[0], block.shape[1] // 2, 2))


@triton.jit
@no_type_check
def store_pairs(pointers, first, second, mask):
    """Store a block, rounded to the dtype that it goes to."""
    block = tl.join(first, second).reshape(first.shape[0], 2 * first.shape[1])
    tl.store(pointers, block.to(pointers.dtype.element_ty), mask)


@triton.jit
@no_type_check
def locate(part, image, rows, columns, channels: tl.constexpr, unit: tl.constexpr):
    """Point to a block of a tensor (B, A, N, D), given with its strides, channels next to each other."""
    of_head, of_token = (columns // channels).to(tl.int64) * part[2], rows * part[3]
    start = part[0] + image * part[1] * unit
    return start + (of_token[:, None] + of_head[None, :]) * unit + columns[None, :] % channels


@triton.jit(do_not_specialize=ANY_VALUE)
@no_type_check
def forward_kernel(
    qkv, positions, frequencies, images, tokens, heads, prefix, period, chunk,
    channels: tl.constexpr, axes: tl.constexpr, per_image: tl.constexpr, block_n: tl.constexpr, block_c: tl.constexpr,
):  # fmt: skip
    """Turn q and k of the patches in place; arguments in `launch`."""
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
    parts, packed, sums, place_sums, positions, frequencies, images, tokens, heads, prefix, period, chunk,
    channels: tl.constexpr, axes: tl.constexpr, per_image: tl.constexpr, block_n: tl.constexpr, block_c: tl.constexpr,
    steps: tl.constexpr, unit: tl.constexpr,
):  # fmt: skip
    """Turn back and pack all tokens; `parts` are the gradients of q, k, v, and q, k where sums are wanted."""
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
            q0, q1 = load_pairs(locate(parts[0], image, rows, columns, channels, unit), mask)
            k0, k1 = load_pairs(locate(parts[1], image, rows, columns, channels, unit), mask)
            if sums is not None:
                slope = cross(parts[3], q0, q1, image, rows, columns, mask, channels, unit)
                slope += cross(parts[4], k0, k1, image, rows, columns, mask, channels, unit)
                sum_x, sum_y, sum_z = sum_x + slope * x[:, None], sum_y + slope * y[:, None], sum_z + slope * z[:, None]
                if place_sums is not None:
                    place = (tl.program_id(0) % across * images + image) * (tokens - prefix) + rows - prefix
                    patches = (rows >= prefix) & (rows < tokens)
                    store_axes(place_sums + place * axes, 1, slope * fx, slope * fy, slope * fz, 1, patches, axes)
            to = packed + image * tokens * 3 * width + rows[:, None] * 3 * width + columns[None, :]
            store_pairs(to, q0 * c + q1 * s, q1 * c - q0 * s, mask)
            store_pairs(to + width, k0 * c + k1 * s, k1 * c - k0 * s, mask)
            v = tl.load(locate(parts[2], image, rows, columns, channels, unit), mask, 0.0)
            tl.store(to + 2 * width, v, mask)
    if sums is not None:
        row = tl.program_id(1) * (tl.num_programs(0) // across) + tl.program_id(0) // across
        to = sums + row.to(tl.int64) * axes * (width // 2) + pairs
        store_axes(to, width // 2, sum_x, sum_y, sum_z, 0, 2 * pairs < width, axes)


@triton.jit
@no_type_check
def cross(part, first, second, image, rows, columns, mask, channels: tl.constexpr, unit: tl.constexpr):
    """Give the gradient of the angles of q or k: with gradients g of the turned y, g1 y0 - g0 y1."""
    y0, y1 = load_pairs(locate(part, image, rows, columns, channels, unit), mask)
    return second * y0 - first * y1


@triton.jit
@no_type_check
def store_axes(pointers, stride, x, y, z, over: tl.constexpr, mask, axes: tl.constexpr):
    """Store the sums, over tokens (0) or pairs (1), of x, y and z, as many as there are axes."""
    tl.store(pointers, tl.sum(x, over), mask)
    if axes > 1:
        tl.store(pointers + stride, tl.sum(y, over), mask)
    if axes > 2:
        tl.store(pointers + 2 * stride, tl.sum(z, over), mask)
