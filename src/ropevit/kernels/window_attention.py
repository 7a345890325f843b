"""Attention inside the windows of a map, from its qkv projection: plain PyTorch, or one fused kernel per direction.

The fused kernel reads the map as the projection wrote it. Shift, padding, window partition, rotation, bias, mask,
softmax and the reverse are one pass over memory, and only the projection is saved for the backward pass.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ropevit.kernels import native, rotation
from ropevit.kernels.assume_constant import assume_constant
from ropevit.kernels.operations import define_operation
from ropevit.kernels.windows import attend, attention_bias, window_mask, window_partition, window_reverse
from ropevit.rope import grid_positions

#: name -> module with `forward` and `backward`; the reference is plain PyTorch, differentiable any number of times.
WINDOW_BACKENDS = {
    "reference": "",
    "cpu": "ropevit.kernels.cpu_window_attention",
    "triton": "ropevit.kernels.triton_window_attention",
}

#: Limits of the fused kernels: tokens along a side of the window, and channels per head.
LARGEST_WINDOW, LARGEST_HEAD = 16, {"cpu": 128, "triton": 64}

_fusing = ContextVar("fusing", default=True)


def window_attention(
    qkv: Float[Tensor, "B h w 3 A D"],
    window: int,
    shift: tuple[int, int] = (0, 0),
    frequencies: Float[Tensor, "2 *a P"] | None = None,
    bias: Float[Tensor, "A n n"] | None = None,
    *,
    backend: str = "auto",
) -> Float[Tensor, "B h w A D"]:
    """Compute attention between the tokens of each window of a map.

    Padding in windows that the map does not fill is masked, as are tokens that the shift brings into one window from
    opposite sides of the map.

    >>> x = window_attention(linear(x).unflatten(-1, (3, heads, -1)), 7, (3, 3), frequencies).flatten(3)

    Args:
        qkv: Projection of a map of h x w tokens to queries, keys and values.
        window: Side of a window in tokens.
        shift: Rows and columns, smaller than the window, by which windows are shifted down and right.
        frequencies: Radians per patch, to rotate queries and keys by their positions in the window: (2, P) for all
            heads, or (2, A, P), P = D/2. None rotates nothing.
        bias: Added to the logits of a query (first n) and a key (last n), n = window * window, row-major.
        backend: A name of WINDOW_BACKENDS, or "auto": C for float32 and bfloat16 on a CPU, with windows up to 16 and
            an even number of up to 128 channels per head; the reference for everything else, for `torch.export`,
            `torch.func`, frequencies in float64, and if the C kernel cannot be built. "triton" has to be
            named: it has been interpreted and compiled, but not yet run on a GPU.

    Returns:
        The output of each token, in the layout of the map.

    Raises:
        ValueError: If shapes, dtypes or devices do not match, or the backend does not exist or support this tensor.

    Source: Liu et al. 2021 (arXiv:2103.14030), Eq. 4; Heo et al. 2024 (arXiv:2403.13298); gradients in
    docs/kernels.md.
    """
    _check_arguments(qkv, window, shift, frequencies, bias)
    exact = frequencies is not None and frequencies.dtype == torch.float64
    name = resolve_backend(qkv, window, backend, exact=exact)
    if name != "reference":
        return attention_op(qkv, frequencies, bias, window, list(shift), name)
    return _attend_reference(qkv, window, shift, frequencies, bias, backend)


def _attend_reference(
    qkv: Tensor, window: int, shift: tuple[int, int], frequencies: Tensor | None, bias: Tensor | None, backend: str
) -> Tensor:
    """Compute `window_attention` by PyTorch's operations, with a backend of the rotation."""
    (h, w), layout = qkv.shape[1:3], qkv.shape[3:]
    windows = window_partition(qkv.flatten(3), window, shift).unflatten(-1, layout)
    if frequencies is None:
        q, k, v = (part.transpose(1, 2) for part in windows.unbind(2))
    else:
        positions = grid_positions(window, window, device=qkv.device)
        q, k, v = rotation.rotate_qkv(windows, positions, frequencies, inplace=True, backend=backend)
    x = attend(q, k, v, attention_bias(bias, window_mask(h, w, window, shift, qkv.device), q.dtype))
    return window_reverse(x.transpose(1, 2).flatten(2), h, w, window, shift).unflatten(-1, layout[1:])


def _check_arguments(
    qkv: Tensor, window: int, shift: tuple[int, int], frequencies: Tensor | None, bias: Tensor | None
) -> None:
    """Raise ValueError unless shapes and devices match; `window_attention` documents what is expected."""
    if qkv.ndim != 6 or qkv.shape[3] != 3:
        raise ValueError(f"got a projection of shape {tuple(qkv.shape)}; expected (B, h, w, 3, heads, channels)")
    if window < 1 or not (torch.compiler.is_compiling() or all(0 <= step < window for step in shift)):
        raise ValueError(f"got window={window}, shift={shift}; expected a window of at least 1 and smaller shifts")
    heads, channels = qkv.shape[4:]
    pairs = (heads, channels // 2)
    if frequencies is not None and (
        channels % 2 or tuple(frequencies.shape) not in {(2, *pairs), (2, 1, pairs[1]), (2, pairs[1])}
    ):
        raise ValueError(
            f"got frequencies of shape {tuple(frequencies.shape)} for {heads} heads of {channels} channels; "
            f"expected (2, {channels // 2}) or (2, {heads}, {channels // 2})"
        )
    if bias is not None and tuple(bias.shape) != (heads, window**2, window**2):
        raise ValueError(
            f"got a bias of shape {tuple(bias.shape)} for {heads} heads and windows of {window}; "
            f"expected ({heads}, {window**2}, {window**2})"
        )
    for name, part in (("frequencies", frequencies), ("a bias", bias)):
        if part is not None and part.device != qkv.device:
            raise ValueError(f"got {name} on {part.device} and a projection on {qkv.device}; move both to one device")


def resolve_backend(qkv: Tensor, window: int, backend: str, *, exact: bool = False) -> str:
    """Return the name of the backend to use; raise ValueError if it does not exist or support this tensor.

    Args:
        qkv: The projection.
        window: Side of a window in tokens.
        backend: A name of WINDOW_BACKENDS, or "auto": see `window_attention` for what it chooses.
        exact: Whether angles must be float64.
    """
    if backend != "auto" and backend not in WINDOW_BACKENDS:
        raise ValueError(f"no backend named {backend!r}; choose auto or one of {', '.join(WINDOW_BACKENDS)}")
    channels = qkv.shape[-1]
    if backend == "auto":
        return "cpu" if chooses_kernel(qkv.device, qkv.dtype, window, channels, exact=exact) else "reference"
    if backend == "reference":
        return backend
    rotation.resolve_backend(qkv, backend)
    if not _within_limits(window, channels, backend):
        even = "of an even number of channels " if backend == "cpu" else ""
        raise ValueError(
            f"got windows of {window} and heads of {channels} channels for backend={backend!r}; it takes windows "
            f"up to {LARGEST_WINDOW} and heads {even}up to {LARGEST_HEAD[backend]}: use backend='auto'"
        )
    if backend == "cpu" and not native.available_windows(qkv.dtype):
        raise ValueError(
            f"got {qkv.dtype} for backend='cpu', whose C kernel has no window attention for it here; use backend='auto'"
        )
    return backend


def chooses_kernel(
    device: torch.device, dtype: torch.dtype, window: int, channels: int, *, exact: bool = False
) -> bool:
    """Return whether "auto" takes the C kernel for a projection of this device and dtype; see `resolve_backend`."""
    if exact or device.type != "cpu" or not _within_limits(window, channels, "cpu"):
        return False
    if torch.compiler.is_exporting() or rotation.under_transform() or not _is_fusing():
        return False
    return native.available_windows(dtype)


def _within_limits(window: int, channels: int, backend: str) -> bool:
    """Return whether a kernel takes windows and heads of a size."""
    return window <= LARGEST_WINDOW and channels <= LARGEST_HEAD[backend] and (backend != "cpu" or channels % 2 == 0)


@assume_constant
def _is_fusing() -> bool:
    """Return whether "auto" may take a kernel: see `without_fusion`."""
    return _fusing.get()


@contextmanager
def without_fusion() -> Iterator[None]:
    """Let "auto" compute window attention by PyTorch's own while active, for what intercepts that."""
    token = _fusing.set(False)
    try:
        yield
    finally:
        _fusing.reset(token)


def _forward(
    qkv: Tensor, frequencies: Tensor | None, bias: Tensor | None, window: int, shift: list[int], backend: str
) -> Tensor:
    """Compute window attention with a fused kernel."""
    return import_module(WINDOW_BACKENDS[backend]).forward(qkv.contiguous(), frequencies, bias, window, shift)


def _fake_forward(
    qkv: Tensor, frequencies: Tensor | None, bias: Tensor | None, window: int, shift: list[int], backend: str
) -> Tensor:
    """Return an empty tensor of the shape of `attention_op`."""
    del frequencies, bias, window, shift, backend
    return qkv.new_empty(*qkv.shape[:3], *qkv.shape[4:])


def _backward(
    gradient: Tensor,
    qkv: Tensor,
    frequencies: Tensor | None,
    bias: Tensor | None,
    window: int,
    shift: list[int],
    *,
    backend: str,
    needs_frequencies_grad: bool,
    needs_bias_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of projection, frequencies and bias; the last two are empty unless requested."""
    requested = {"needs_frequencies_grad": needs_frequencies_grad, "needs_bias_grad": needs_bias_grad}
    module = import_module(WINDOW_BACKENDS[backend])
    found = module.backward(gradient.contiguous(), qkv.contiguous(), frequencies, bias, window, shift, **requested)
    grad_qkv, grad_frequencies, grad_bias = (gradient.new_empty(0) if part is None else part for part in found)
    return grad_qkv, grad_frequencies, grad_bias


def _fake_backward(
    gradient: Tensor,
    qkv: Tensor,
    frequencies: Tensor | None,
    bias: Tensor | None,
    window: int,
    shift: list[int],
    *,
    backend: str,
    needs_frequencies_grad: bool,
    needs_bias_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return empty tensors of the shapes of `backward_op`."""
    del window, shift, backend
    none = gradient.new_empty(0)
    grad_frequencies, grad_bias = none, none.clone()
    if needs_frequencies_grad and frequencies is not None:
        grad_frequencies = frequencies.new_empty(frequencies.shape)
    if needs_bias_grad and bias is not None:
        grad_bias = bias.new_empty(bias.shape)
    return qkv.new_empty(qkv.shape), grad_frequencies, grad_bias


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Save the projection for the backward pass, and nothing of the logits."""
    del output
    *tensors, ctx.window, ctx.shift, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """Recompute attention, and compute the requested gradients."""
    _, frequencies_needed, bias_needed = ctx.needs_input_grad[:3]
    grad_qkv, grad_frequencies, grad_bias = backward_op(
        gradient,
        *ctx.saved_tensors,
        ctx.window,
        ctx.shift,
        backend=ctx.backend,
        needs_frequencies_grad=frequencies_needed,
        needs_bias_grad=bias_needed,
    )
    return grad_qkv, grad_frequencies if frequencies_needed else None, grad_bias if bias_needed else None, *[None] * 3


attention_op = define_operation(
    "window_attention", _forward, _fake_forward, backward=_differentiate, setup_context=_setup_context
)
backward_op = define_operation("window_attention_backward", _backward, _fake_backward, backward=rotation.refuse_second)
