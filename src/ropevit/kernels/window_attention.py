"""Attention inside the windows of a map, from its qkv projection: plain PyTorch, or one fused kernel per direction.

The fused kernel reads the map as the projection wrote it. Shift, padding, window partition, rotation, bias, mask,
softmax and the reverse are one pass over memory, and only the projection is saved for the backward pass.
"""

from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ropevit.kernels import rotation
from ropevit.kernels.windows import attend, attention_bias, window_mask, window_partition, window_reverse
from ropevit.rope import grid_positions

#: name -> module with `forward` and `backward`; the reference is plain PyTorch, differentiable any number of times.
WINDOW_BACKENDS = {"reference": None, "triton": "ropevit.kernels.triton_window_attention"}

#: Limits of the fused kernel: tokens along a side of the window, and channels per head.
LARGEST_WINDOW, LARGEST_HEAD = 16, 64


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
        backend: A name of WINDOW_BACKENDS, or "auto": the reference. "triton" has to be named: it has been interpreted
            and compiled, but not yet run on a GPU.

    Returns:
        The output of each token, in the layout of the map.

    Raises:
        ValueError: If shapes, dtypes or devices do not match, or the backend does not exist or support this tensor.

    Source: Liu et al. 2021 (arXiv:2103.14030), Eq. 4; Heo et al. 2024 (arXiv:2403.13298); gradients in
    docs/kernels.md.
    """
    _check_arguments(qkv, window, shift, frequencies, bias)
    if resolve_backend(qkv, window, backend) == "triton":
        return attention_op(qkv, frequencies, bias, window, list(shift))
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


def resolve_backend(qkv: Tensor, window: int, backend: str) -> str:
    """Return the name of the backend to use; raise ValueError if it does not exist or support this tensor."""
    if backend != "auto" and backend not in WINDOW_BACKENDS:
        raise ValueError(f"no backend named {backend!r}; choose auto or one of {', '.join(WINDOW_BACKENDS)}")
    if backend != "triton":
        return "reference"
    rotation.resolve_backend(qkv, backend)
    if window > LARGEST_WINDOW or qkv.shape[-1] > LARGEST_HEAD:
        raise ValueError(
            f"got windows of {window} and heads of {qkv.shape[-1]} channels for backend='triton'; "
            f"it takes windows up to {LARGEST_WINDOW} and heads up to {LARGEST_HEAD}: use backend='auto'"
        )
    return backend


def _backend_module() -> ModuleType:
    """Import the kernels, on first use."""
    return import_module(str(WINDOW_BACKENDS["triton"]))


@torch.library.custom_op("ropevit::window_attention", mutates_args=())
def attention_op(qkv: Tensor, frequencies: Tensor | None, bias: Tensor | None, window: int, shift: list[int]) -> Tensor:
    """Compute window attention with the fused kernel."""
    return _backend_module().forward(qkv.contiguous(), frequencies, bias, window, shift)


@attention_op.register_fake
def fake_attention(
    qkv: Tensor, frequencies: Tensor | None, bias: Tensor | None, window: int, shift: list[int]
) -> Tensor:
    """Return an empty tensor of the shape of `attention_op`."""
    del frequencies, bias, window, shift
    return qkv.new_empty(*qkv.shape[:3], *qkv.shape[4:])


@torch.library.custom_op("ropevit::window_attention_backward", mutates_args=())
def backward_op(
    gradient: Tensor,
    qkv: Tensor,
    frequencies: Tensor | None,
    bias: Tensor | None,
    window: int,
    shift: list[int],
    *,
    needs_frequencies_grad: bool,
    needs_bias_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of projection, frequencies and bias; the last two are empty unless requested."""
    requested = {"needs_frequencies_grad": needs_frequencies_grad, "needs_bias_grad": needs_bias_grad}
    found = _backend_module().backward(
        gradient.contiguous(), qkv.contiguous(), frequencies, bias, window, shift, **requested
    )
    grad_qkv, grad_frequencies, grad_bias = (gradient.new_empty(0) if part is None else part for part in found)
    return grad_qkv, grad_frequencies, grad_bias


@backward_op.register_fake
def fake_backward(
    gradient: Tensor,
    qkv: Tensor,
    frequencies: Tensor | None,
    bias: Tensor | None,
    window: int,
    shift: list[int],
    *,
    needs_frequencies_grad: bool,
    needs_bias_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return empty tensors of the shapes of `backward_op`."""
    del window, shift
    none = gradient.new_empty(0)
    grad_frequencies, grad_bias = none, none.clone()
    if needs_frequencies_grad and frequencies is not None:
        grad_frequencies = frequencies.new_empty(frequencies.shape)
    if needs_bias_grad and bias is not None:
        grad_bias = bias.new_empty(bias.shape)
    return qkv.new_empty(qkv.shape), grad_frequencies, grad_bias


backward_op.register_autograd(rotation.refuse_second)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Save the projection for the backward pass, and nothing of the logits."""
    del output
    *tensors, ctx.window, ctx.shift = inputs
    ctx.save_for_backward(*tensors)


def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """Recompute attention, and compute the requested gradients."""
    _, frequencies_needed, bias_needed = ctx.needs_input_grad[:3]
    requested = {"needs_frequencies_grad": frequencies_needed, "needs_bias_grad": bias_needed}
    found = backward_op(gradient, *ctx.saved_tensors, ctx.window, ctx.shift, **requested)
    grad_qkv, grad_frequencies, grad_bias = found
    return grad_qkv, grad_frequencies if frequencies_needed else None, grad_bias if bias_needed else None, None, None


attention_op.register_autograd(backward, setup_context=_setup_context)
