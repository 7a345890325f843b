"""Triton backend of window attention: one kernel for each direction, from the qkv projection of a map.

A program computes one window and head. It finds the window's tokens in the map, according to shift and padding, rotates
queries and keys, and holds all logits of a query: the softmax is exact in one step and recomputed in the backward pass,
so nothing of it is saved. Each program stores its partial sums, which are added afterwards, without atomic operations,
so results are deterministic.
"""

from typing import Any, NamedTuple, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.errors import OutOfResources

from ropevit.arithmetic import ceil_div
from ropevit.kernels.angles import WindowGradients
from ropevit.kernels.rotation import interpreted
from ropevit.kernels.triton_rotation import cos_sin, frequency_sum, load_pairs, store_pairs

#: Upper bound in bytes of the partial sums of the bias gradient, unless those of one chunk are larger.
SUMS = 2**24

#: Integer arguments that Triton does not specialize on (1, multiples of 16).
ANY_VALUE = ("h", "w", "heads", "shift_y", "shift_x", "period")

#: Whether to convert to float32 before products: the interpreter treats bfloat16 bits as integers.
_WIDEN = tl.constexpr(interpreted())


class WindowLaunch(NamedTuple):
    """Block sizes of a program.

    Attributes:
        block_m: Queries per step.
        block_n: Keys, all of a window.
        block_d: Channels of a head.
        num_warps: Warps of 32 threads.
    """

    block_m: int
    block_n: int
    block_d: int
    num_warps: int


def plan_windows(window: int, channels: int, itemsize: int, *, few: bool = False) -> WindowLaunch:
    """Choose block sizes from the shape, without autotuning: sums always have the same order.

    Args:
        window: Side of a window.
        channels: Channels per head, D.
        itemsize: Bytes of a channel.
        few: Whether to take 16 queries per step in any case.
    """
    block_n, block_d = (max(16, 1 << (size - 1).bit_length()) for size in (window**2, channels))
    if few or itemsize > 2 or block_n > 64:  # all queries together would not fit into registers
        return WindowLaunch(16, block_n, block_d, 8)
    return WindowLaunch(block_n, block_n, block_d, 4 if block_d <= 32 else 8)


def forward(qkv: Tensor, frequencies: Tensor | None, bias: Tensor | None, window: int, shift: list[int]) -> Tensor:
    """Compute attention inside the windows of a contiguous projection (B, h, w, 3, A, D) as `window_attention` does."""
    out = qkv.new_empty(*qkv.shape[:3], *qkv.shape[4:])
    launch(forward_kernel, qkv, frequencies, bias, window, shift, out=out)
    return out


def backward(
    gradient: Tensor,
    qkv: Tensor,
    frequencies: Tensor | None,
    bias: Tensor | None,
    window: int,
    shift: list[int],
    *,
    needs_frequencies_grad: bool,
    needs_bias_grad: bool,
) -> WindowGradients:
    """Compute the gradients of the projection, and of frequencies and bias if requested.

    Args:
        gradient: Gradient of the output, (B, h, w, A, D), contiguous.
        qkv: The projection, (B, h, w, 3, A, D), contiguous.
        frequencies: Radians per token, (2, P) or (2, A, P); None without rotation.
        bias: Relative position bias, (A, n, n); None for none.
        window: Side of a window in tokens.
        shift: Rows and columns by which the windows are shifted.
        needs_frequencies_grad: Whether to compute the gradient of the frequencies, too.
        needs_bias_grad: Whether to compute the gradient of the bias, too.
    """
    heads, channels = qkv.shape[4:]
    count, grad_qkv = _count_windows(qkv, window), torch.empty_like(qkv)
    sums = qkv.new_empty(count, 2, heads, channels // 2, dtype=torch.float32) if needs_frequencies_grad else None
    given = qkv, frequencies, bias, window, shift
    launch(backward_kernel, *given, gradient=gradient, grad_qkv=grad_qkv, sums=sums)
    grad_frequencies = None if frequencies is None else frequency_sum(sums, frequencies)
    if bias is None or not needs_bias_grad:
        return WindowGradients(grad_qkv, grad_frequencies, None)
    chunk = max(1, ceil_div(count, max(1, SUMS // (4 * bias.numel()))))
    bias_sums = bias.new_empty(ceil_div(count, chunk), *bias.shape, dtype=torch.float32)
    launch(bias_kernel, *given, gradient=gradient, sums=bias_sums, count=count, chunk=chunk)
    return WindowGradients(grad_qkv, grad_frequencies, bias_sums.sum(0).to(bias.dtype))


def _count_windows(qkv: Tensor, window: int) -> int:
    """Count the windows of all images of a projection (B, h, w, 3, A, D)."""
    images, h, w = qkv.shape[:3]
    return images * ceil_div(h, window) * ceil_div(w, window)


def launch(
    kernel: Any,
    qkv: Tensor,
    frequencies: Tensor | None,
    bias: Tensor | None,
    window: int,
    shift: list[int],
    **arguments: Any,
) -> None:
    """Launch a kernel on the device of its tensors, unless they are empty.

    Raises:
        ValueError: If a program needs more shared memory or registers than the GPU has.
    """
    if not qkv.numel():
        return
    _, h, w, _, heads, channels = qkv.shape
    freqs = None if frequencies is None else frequencies.to(torch.float32).contiguous()
    parts, sums_bias = _count_windows(qkv, window), "chunk" in arguments
    plan = plan_windows(window, channels, qkv.element_size(), few=sums_bias)
    if sums_bias:
        parts = ceil_div(parts, arguments["chunk"]) * (plan.block_n // plan.block_m)
    try:
        with torch.cuda.device_of(qkv):
            kernel[(parts * heads,)](
                qkv=qkv,
                frequencies=freqs,
                bias=None if bias is None else bias.contiguous(),
                h=h,
                w=w,
                heads=heads,
                shift_y=shift[0],
                shift_x=shift[1],
                period=0 if freqs is None else freqs[0].numel(),
                scale=channels**-0.5,
                window=window,
                channels=channels,
                num_stages=1,
                **plan._asdict(),
                **arguments,
            )
    except OutOfResources as error:
        raise ValueError(
            f"got windows of {window} and heads of {channels} channels in {qkv.dtype} for backend='triton': a program "
            f"needs {error.required} of {error.name}, and this GPU has {error.limit}; use backend='auto'"
        ) from error


@triton.jit
@no_type_check
def matmul(a, b):
    """Multiply matrices of one dtype with float32 accumulation, without TF32."""
    if _WIDEN:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
@no_type_check
def locate_tokens(index, start, h, w, shift_y, shift_x, window: tl.constexpr, block: tl.constexpr):
    """Locate tokens of a window: index in the maps of all images, region of the window, and x and y in the window.

    Tokens attend to those of their own region. Padding is region -1: it attends to itself, so that no softmax is empty.
    """
    rows, columns = tl.cdiv(h, window), tl.cdiv(w, window)
    token = start + tl.arange(0, block)
    i, j = token // window, token % window
    tile = index % (rows * columns)
    y, x = tile // columns * window + i + shift_y, tile % columns * window + j + shift_x
    past_y, past_x = y >= rows * window, x >= columns * window
    y, x = tl.where(past_y, y - rows * window, y), tl.where(past_x, x - columns * window, x)
    # rows and columns are never 0; without these comparisons ptxas needs a stack for the bias kernel in float32
    region = 2 * (past_y & (rows > 0)).to(tl.int32) + (past_x & (columns > 0)).to(tl.int32)
    real = (token < window * window) & (y < h) & (x < w)
    index_q = (index // (rows * columns)).to(tl.int64) * h * w + y * w + x
    return index_q, tl.where(real, region, -1), j.to(tl.float32), i.to(tl.float32)


@triton.jit
@no_type_check
def head_pointers(tensor, rows, width, head, columns, channels: tl.constexpr):
    """Return pointers to the channels of a head in rows of a width."""
    return tensor + (rows * width + head * channels)[:, None] + columns[None, :]


@triton.jit
@no_type_check
def load_rotated(pointers, mask, x, y, fx, fy, rotated: tl.constexpr):
    """Load queries or keys, and rotate them by their positions in the window."""
    if rotated:
        first, second = load_pairs(pointers, mask)
        c, s = cos_sin(x[:, None] * fx[None, :] + y[:, None] * fy[None, :])
        block = tl.join(first * c - second * s, first * s + second * c).reshape(mask.shape[0], mask.shape[1])
        block = block.to(pointers.dtype.element_ty)
    else:
        block = tl.load(pointers, mask, 0.0)
    return block


@triton.jit
@no_type_check
def bias_pointers(bias, row, first, like, n: tl.constexpr):
    """Return pointers to a block of the bias (n queries, n keys), and a mask of those inside it."""
    queries, keys = first + tl.arange(0, like.shape[0]), tl.arange(0, like.shape[1])
    return bias + (row * n + queries[:, None]) * n + keys[None, :], (queries < n)[:, None] & (keys < n)[None, :]


@triton.jit
@no_type_check
def attention_weights(q, k, region_q, region_k, bias, head, first, scale, n: tl.constexpr):
    """Compute the attention weights of queries over all keys of their window."""
    scores = matmul(q, tl.trans(k)) * scale
    if bias is not None:
        pointers, mask = bias_pointers(bias, head, first, scores, n)
        scores += tl.load(pointers, mask, 0.0).to(tl.float32)
    scores = tl.where(region_q[:, None] == region_k[None, :], scores, float("-inf"))
    weights = tl.exp(scores - tl.max(scores, 1)[:, None])
    return weights / tl.sum(weights, 1)[:, None]


@triton.jit
@no_type_check
def logits_gradient(weights, g, v):
    """Compute the gradient of the logits; all weights of a query are in registers, so the output is not needed."""
    slope = matmul(g, tl.trans(v)) * weights
    return slope - weights * tl.sum(slope, 1)[:, None]


@triton.jit
@no_type_check
def store_unrotated(pointers, mask, gradient, rotated, x, y, fx, fy, rotates: tl.constexpr):
    """Store a gradient of queries or keys, rotated back; return the sums for the gradient of the frequencies."""
    if rotates:
        g0, g1 = tl.split(gradient.reshape(mask.shape[0], mask.shape[1] // 2, 2))
        c, s = cos_sin(x[:, None] * fx[None, :] + y[:, None] * fy[None, :])
        store_pairs(pointers, g0 * c + g1 * s, g1 * c - g0 * s, mask)
        y0, y1 = tl.split(rotated.to(tl.float32).reshape(mask.shape[0], mask.shape[1] // 2, 2))
        slope = g1 * y0 - g0 * y1
        fx, fy = tl.sum(slope * x[:, None], 0), tl.sum(slope * y[:, None], 0)
    else:
        tl.store(pointers, gradient.to(pointers.dtype.element_ty), mask)
    return fx, fy


@triton.jit
@no_type_check
def load_frequencies(frequencies, head, period, channels: tl.constexpr, block_d: tl.constexpr):
    """Load the frequencies of a head; 0 without rotation."""
    pairs = tl.arange(0, block_d // 2)
    fx, fy = tl.zeros((block_d // 2,), tl.float32), tl.zeros((block_d // 2,), tl.float32)
    if frequencies is not None:
        pointers, mask = frequencies + (head * (channels // 2) + pairs) % period, 2 * pairs < channels
        fx, fy = tl.load(pointers, mask, 0.0), tl.load(pointers + period, mask, 0.0)
    return pairs, fx, fy


@triton.jit(do_not_specialize=ANY_VALUE)
@no_type_check
def forward_kernel(
    qkv, out, frequencies, bias, h, w, heads, shift_y, shift_x, period, scale,
    window: tl.constexpr, channels: tl.constexpr, block_m: tl.constexpr, block_n: tl.constexpr, block_d: tl.constexpr,
):  # fmt: skip
    """Compute attention inside a window; arguments in `launch`."""
    head, index = tl.program_id(0) % heads, tl.program_id(0) // heads
    width, columns = heads * channels, tl.arange(0, block_d)
    rotated: tl.constexpr = frequencies is not None  # on its own line: Triton treats no value of a tuple as constexpr
    _pairs, fx, fy = load_frequencies(frequencies, head, period, channels, block_d)
    index_k, region_k, x_k, y_k = locate_tokens(index, 0, h, w, shift_y, shift_x, window, block_n)
    mask_k = (region_k >= 0)[:, None] & (columns < channels)[None, :]
    start = head_pointers(qkv, index_k, 3 * width, head, columns, channels) + width
    k, v = load_rotated(start, mask_k, x_k, y_k, fx, fy, rotated), tl.load(start + width, mask_k, 0.0)
    for first in tl.range(0, block_n, block_m):
        index_q, region_q, x, y = locate_tokens(index, first, h, w, shift_y, shift_x, window, block_m)
        mask = (region_q >= 0)[:, None] & (columns < channels)[None, :]
        q = load_rotated(head_pointers(qkv, index_q, 3 * width, head, columns, channels), mask, x, y, fx, fy, rotated)
        weights = attention_weights(q, k, region_q, region_k, bias, head, first, scale, window * window)
        attended = matmul(weights.to(v.dtype), v)
        tl.store(head_pointers(out, index_q, width, head, columns, channels), attended.to(v.dtype), mask)


@triton.jit(do_not_specialize=ANY_VALUE)
@no_type_check
def backward_kernel(
    gradient, qkv, grad_qkv, sums, frequencies, bias, h, w, heads, shift_y, shift_x, period, scale,
    window: tl.constexpr, channels: tl.constexpr, block_m: tl.constexpr, block_n: tl.constexpr, block_d: tl.constexpr,
):  # fmt: skip
    """Recompute attention, and compute the gradients of projection and frequencies; arguments in `launch`."""
    head, index = tl.program_id(0) % heads, tl.program_id(0) // heads
    width, columns = heads * channels, tl.arange(0, block_d)
    rotated: tl.constexpr = frequencies is not None
    pairs, fx, fy = load_frequencies(frequencies, head, period, channels, block_d)
    sum_x, sum_y = tl.zeros((block_d // 2,), tl.float32), tl.zeros((block_d // 2,), tl.float32)
    index_k, region_k, x_k, y_k = locate_tokens(index, 0, h, w, shift_y, shift_x, window, block_n)
    mask_k = (region_k >= 0)[:, None] & (columns < channels)[None, :]
    start = head_pointers(qkv, index_k, 3 * width, head, columns, channels) + width
    k, v = load_rotated(start, mask_k, x_k, y_k, fx, fy, rotated), tl.load(start + width, mask_k, 0.0)
    dk, dv = tl.zeros((block_n, block_d), tl.float32), tl.zeros((block_n, block_d), tl.float32)
    for first in tl.range(0, block_n, block_m):
        index_q, region_q, x, y = locate_tokens(index, first, h, w, shift_y, shift_x, window, block_m)
        mask = (region_q >= 0)[:, None] & (columns < channels)[None, :]
        q = load_rotated(head_pointers(qkv, index_q, 3 * width, head, columns, channels), mask, x, y, fx, fy, rotated)
        g = tl.load(head_pointers(gradient, index_q, width, head, columns, channels), mask, 0.0)
        weights = attention_weights(q, k, region_q, region_k, bias, head, first, scale, window * window)
        dv += matmul(tl.trans(weights.to(v.dtype)), g)
        slope = (logits_gradient(weights, g, v) * scale).to(q.dtype)
        dk += matmul(tl.trans(slope), q)
        to = head_pointers(grad_qkv, index_q, 3 * width, head, columns, channels)
        more_x, more_y = store_unrotated(to, mask, matmul(slope, k), q, x, y, fx, fy, rotated)
        sum_x, sum_y = sum_x + more_x, sum_y + more_y
    to_k = head_pointers(grad_qkv, index_k, 3 * width, head, columns, channels) + width
    tl.store(to_k + width, dv.to(v.dtype), mask_k)
    more_x, more_y = store_unrotated(to_k, mask_k, dk, k, x_k, y_k, fx, fy, rotated)
    if sums is not None:
        own = sums + (index.to(tl.int64) * 2 * heads + head) * (channels // 2) + pairs
        tl.store(own, sum_x + more_x, 2 * pairs < channels)
        tl.store(own + heads * (channels // 2), sum_y + more_y, 2 * pairs < channels)


@triton.jit(do_not_specialize=(*ANY_VALUE, "count", "chunk"))
@no_type_check
def bias_kernel(
    gradient, qkv, sums, frequencies, bias, h, w, heads, shift_y, shift_x, period, scale, count, chunk,
    window: tl.constexpr, channels: tl.constexpr, block_m: tl.constexpr, block_n: tl.constexpr, block_d: tl.constexpr,
):  # fmt: skip
    """Compute the gradient of a block of the bias, summed over a chunk of windows; arguments in `launch`."""
    blocks: tl.constexpr = block_n // block_m
    part, block = tl.program_id(0) // (heads * blocks), tl.program_id(0) % blocks
    head = tl.program_id(0) // blocks % heads
    width, columns = heads * channels, tl.arange(0, block_d)
    rotated: tl.constexpr = frequencies is not None
    _pairs, fx, fy = load_frequencies(frequencies, head, period, channels, block_d)
    first, start = block * block_m, part * chunk
    total = tl.zeros((block_m, block_n), tl.float32)
    for index in tl.range(start, tl.minimum(start + chunk, count)):
        index_k, region_k, x_k, y_k = locate_tokens(index, 0, h, w, shift_y, shift_x, window, block_n)
        mask_k = (region_k >= 0)[:, None] & (columns < channels)[None, :]
        keys = head_pointers(qkv, index_k, 3 * width, head, columns, channels) + width
        k, v = load_rotated(keys, mask_k, x_k, y_k, fx, fy, rotated), tl.load(keys + width, mask_k, 0.0)
        index_q, region_q, x, y = locate_tokens(index, first, h, w, shift_y, shift_x, window, block_m)
        mask = (region_q >= 0)[:, None] & (columns < channels)[None, :]
        q = load_rotated(head_pointers(qkv, index_q, 3 * width, head, columns, channels), mask, x, y, fx, fy, rotated)
        g = tl.load(head_pointers(gradient, index_q, width, head, columns, channels), mask, 0.0)
        weights = attention_weights(q, k, region_q, region_k, bias, head, first, scale, window * window)
        total += logits_gradient(weights, g, v)
    own, inside = bias_pointers(sums, part.to(tl.int64) * heads + head, first, total, window * window)
    tl.store(own, total, inside)
