"""The rotation on a CPU by one C function for each direction: one pass over memory, angles on the fly."""

from torch import Tensor

from ropevit.kernels import native
from ropevit.kernels.angles import QKVGradients, canonicalize, frequency_gradient, position_gradient


def rotate_(qkv: Tensor, positions: Tensor, frequencies: Tensor, num_prefix: int) -> None:
    """Turn q and k of a packed projection (B, N, 3, A, D) in place; arguments as in `rotate_qkv`."""
    if not qkv.numel():
        return
    parts = [part.transpose(1, 2) for part in qkv.unbind(2)]
    places, speeds = canonicalize(positions, frequencies)
    job = native.describe(parts[0], places, speeds, num_prefix)
    native.fill(job.part, job.stride, parts)
    native.call("forward", qkv.dtype, job)


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

    Args:
        gradients: Of q, k and v, each (B, A, N, D) with any strides.
        turned: q and k as `rotate_` left them; empty where frequencies and positions need no gradient.
        positions: As in `rotate_qkv`.
        frequencies: As in `rotate_qkv`.
        num_prefix: As in `rotate_qkv`.
        of_positions: Whether to give the gradient of positions, too; it takes `turned`.
    """
    gradients = [part if part.stride(-1) == 1 else part.contiguous() for part in gradients]
    images, heads, tokens, channels = gradients[0].shape
    packed = gradients[0].new_empty(images, tokens, 3, heads, channels)
    places, speeds = canonicalize(positions, frequencies)
    angle = speeds.new_zeros(places.shape[0], places.shape[1], *speeds.shape[1:]) if turned else None
    if packed.numel():
        job = native.describe(gradients[0], places, speeds, num_prefix)
        native.fill(job.part, job.stride, gradients)
        native.fill(job.turned, job.turned_stride, turned)
        job.packed, job.angle_gradient = packed.data_ptr(), None if angle is None else angle.data_ptr()
        native.call("backward", packed.dtype, job)
    if angle is None:
        return QKVGradients(packed, None, None)
    place_gradient = position_gradient(angle, speeds, positions) if of_positions else None
    return QKVGradients(packed, frequency_gradient(angle, places, frequencies), place_gradient)
