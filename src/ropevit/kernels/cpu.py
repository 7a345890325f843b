"""CPU backend of the rotation: one C function for each direction, one pass over memory, angles computed on the fly."""

from torch import Tensor

from ropevit.kernels import native
from ropevit.kernels.angles import QKVGradients, canonicalize, frequency_gradient, position_gradient


def rotate_(qkv: Tensor, positions: Tensor, frequencies: Tensor, num_prefix_tokens: int) -> None:
    """Rotate q and k of a projection (B, N, 3, A, D) in place; arguments as in `rotate_qkv`."""
    if not qkv.numel():
        return
    images, tokens, _, heads, channels = qkv.shape
    positions, frequencies = canonicalize(positions, frequencies)
    arguments = native.make_arguments((images, heads, tokens, channels), positions, frequencies, num_prefix_tokens)
    native.set_projection(arguments, qkv)
    native.call("forward", qkv.dtype, arguments)


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

    Args:
        gradients: Gradients of q, k and v, each (B, A, N, D) with any strides.
        rotated: q and k after the rotation; empty if neither frequencies nor positions need a gradient.
        positions: Positions of the patch tokens, (n, ndim) or (B, n, ndim), in patches.
        frequencies: Radians per patch, (ndim, P) or (ndim, A, P).
        num_prefix_tokens: Tokens in front that were not rotated.
        needs_positions_grad: Whether to compute the gradient of positions, too; it needs `rotated`.
    """
    gradients = [part if part.stride(-1) == 1 else part.contiguous() for part in gradients]
    images, heads, tokens, channels = gradients[0].shape
    grad_qkv = gradients[0].new_empty(images, tokens, 3, heads, channels)
    pos, freqs = canonicalize(positions, frequencies)
    grad_angle = freqs.new_zeros(pos.shape[0], pos.shape[1], *freqs.shape[1:]) if rotated else None
    if grad_qkv.numel():
        arguments = native.make_arguments(gradients[0].shape, pos, freqs, num_prefix_tokens)
        native.set_tensors(arguments.part, arguments.stride, gradients)
        native.set_tensors(arguments.rotated, arguments.rotated_stride, rotated)
        arguments.qkv_gradient = grad_qkv.data_ptr()
        arguments.angle_gradient = None if grad_angle is None else grad_angle.data_ptr()
        native.call("backward", grad_qkv.dtype, arguments)
    if grad_angle is None:
        return QKVGradients(grad_qkv, None, None)
    grad_positions = position_gradient(grad_angle, freqs, positions) if needs_positions_grad else None
    return QKVGradients(grad_qkv, frequency_gradient(grad_angle, pos, frequencies), grad_positions)
