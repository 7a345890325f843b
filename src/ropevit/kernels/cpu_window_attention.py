"""CPU backend of window attention: one C function for each direction, from the qkv projection of a map."""

import ctypes

import torch
from torch import Tensor

from ropevit.kernels import native
from ropevit.kernels.angles import WindowGradients
from ropevit.kernels.native import Int64, Pointer


class WindowArgs(ctypes.Structure):
    """Arguments of the C functions; window_attention.c documents the fields."""

    _fields_ = (
        *((name, Int64) for name in ("images", "h", "w", "heads", "channels", "window", "shift_y", "shift_x")),
        *((name, Int64) for name in ("threads", "frequency_heads")),
        ("bias_stride", Int64 * 3),
        *((name, Pointer) for name in ("qkv", "frequencies", "bias", "out")),
        *((name, Pointer) for name in ("gradient", "qkv_gradient", "frequency_gradient", "bias_gradient")),
    )


def forward(qkv: Tensor, frequencies: Tensor | None, bias: Tensor | None, window: int, shift: list[int]) -> Tensor:
    """Compute attention inside the windows of a contiguous projection (B, h, w, 3, A, D) as `window_attention` does."""
    out = qkv.new_empty(*qkv.shape[:3], *qkv.shape[4:])
    _call("window_forward", qkv, frequencies, bias, (window, *shift), out=out)
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
        frequencies: Radians per token, (2, P), (2, 1, P) or (2, A, P); None without rotation.
        bias: Relative position bias, (A, n, n); None for none.
        window: Side of a window in tokens.
        shift: Rows and columns by which the windows are shifted.
        needs_frequencies_grad: Whether to compute the gradient of the frequencies, too.
        needs_bias_grad: Whether to compute the gradient of the bias, too.
    """
    heads, channels = qkv.shape[4:]
    out = {"gradient": gradient, "qkv_gradient": torch.empty_like(qkv)}
    if frequencies is not None and needs_frequencies_grad:
        out["frequency_gradient"] = qkv.new_zeros(heads, 2, channels // 2, dtype=torch.float32)
    if bias is not None and needs_bias_grad:
        out["bias_gradient"] = qkv.new_zeros(bias.shape, dtype=torch.float32)
    _call("window_backward", qkv, frequencies, bias, (window, *shift), **out)
    grad_frequencies, grad_bias = out.get("frequency_gradient"), out.get("bias_gradient")
    if grad_frequencies is not None and frequencies is not None:
        grad_frequencies = grad_frequencies.transpose(0, 1)
        if frequencies[0].numel() < grad_frequencies[0].numel():  # heads share them
            grad_frequencies = grad_frequencies.sum(1)
        grad_frequencies = grad_frequencies.reshape(frequencies.shape).to(frequencies.dtype)
    if grad_bias is not None and bias is not None:
        grad_bias = grad_bias.to(bias.dtype)
    return WindowGradients(out["qkv_gradient"], grad_frequencies, grad_bias)


def _call(
    name: str,
    qkv: Tensor,
    frequencies: Tensor | None,
    bias: Tensor | None,
    place: tuple[int, ...],
    **tensors: Tensor,
) -> None:
    """Call a C function, unless the projection is empty.

    Args:
        name: Name of the function, without its dtype.
        qkv: The projection, contiguous.
        frequencies: Radians per token.
        bias: Relative position bias.
        place: Side of a window, and the rows and columns of the shift.
        tensors: Further tensors, by the names of their fields.
    """
    if not qkv.numel():
        return
    images, h, w, _, heads, channels = qkv.shape
    sizes = (images, h, w, heads, channels, *place, torch.get_num_threads(), 1)
    arguments = WindowArgs(*sizes)
    if frequencies is not None:
        frequencies = frequencies.to(torch.float32).contiguous()
        arguments.frequencies, arguments.frequency_heads = (
            frequencies.data_ptr(),
            frequencies[0].numel() * 2 // channels,
        )
    if bias is not None:
        bias = bias.to(torch.float32)
        arguments.bias, arguments.bias_stride[:] = bias.data_ptr(), bias.stride()
    for field, tensor in {"qkv": qkv, **tensors}.items():
        setattr(arguments, field, tensor.data_ptr())
    native.call(name, qkv.dtype, arguments)
