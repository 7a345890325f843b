"""Attention inside the windows of a map, from its packed projection: plain PyTorch, or one fused kernel a direction.

The fused kernel takes the map as the projection leaves it. Shift, padding, cutting, rotation, biases, masks, softmax
and the way back are one pass over memory, and the projection is all that is kept for the backward pass.
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
WINDOW_BACKENDS = {"reference": None, "triton": "ropevit.kernels.triton_windows"}

#: What the fused kernel takes: tokens along a side of the window, and channels per head.
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
    """Let the tokens of each window of a map attend to each other.

    Windows that the map does not fill hold less; those that the shift fills from opposite sides of the map hold pieces
    that do not see each other.

    >>> x = window_attention(linear(x).unflatten(-1, (3, heads, -1)), 7, (3, 3), frequencies).flatten(3)

    Args:
        qkv: Projection of a map of h x w tokens to queries, keys and values.
        window: Side of a window in tokens.
        shift: Rows and columns, below the window, by which windows are shifted down and right.
        frequencies: Radians per patch, by which queries and keys are turned at their places in the window: (2, P) for
            all heads, or (2, A, P), P = D/2. None turns nothing.
        bias: What is added to the scores of a query (first n) and a key (last n), n = window * window, row-major.
        backend: A name of WINDOW_BACKENDS, or "auto": the reference. "triton" is taken by name only: it has been
            interpreted and compiled, but not yet run on a GPU.

    Returns:
        What each token has attended to, at its place in the map.

    Raises:
        ValueError: If shapes, dtypes or devices do not fit, there is no such backend, or it cannot take this tensor.

    Source: Liu et al. 2021 (arXiv:2103.14030), Eq. 4; Heo et al. 2024 (arXiv:2403.13298); gradients in
    docs/kernels.md.
    """
    check_arguments(qkv, window, shift, frequencies, bias)
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


def check_arguments(
    qkv: Tensor, window: int, shift: tuple[int, int], frequencies: Tensor | None, bias: Tensor | None
) -> None:
    """Refuse tensors that do not belong together; see `window_attention` for what is expected."""
    if qkv.ndim != 6 or qkv.shape[3] != 3:
        raise ValueError(f"got a projection of shape {tuple(qkv.shape)}; expected (B, h, w, 3, heads, channels)")
    if window < 1 or not (torch.compiler.is_compiling() or all(0 <= step < window for step in shift)):
        raise ValueError(f"got window={window}, shift={shift}; expected a window of at least 1 and shifts below it")
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
    """Resolve "auto", and refuse a backend that there is not or that cannot take this tensor."""
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


def backend_module() -> ModuleType:
    """Load the kernels when they are first used."""
    return import_module(str(WINDOW_BACKENDS["triton"]))


@torch.library.custom_op("ropevit::window_attention", mutates_args=())
def attention_op(qkv: Tensor, frequencies: Tensor | None, bias: Tensor | None, window: int, shift: list[int]) -> Tensor:
    """Attend, fused."""
    return backend_module().forward(qkv.contiguous(), frequencies, bias, window, shift)


@attention_op.register_fake
def fake_attention(
    qkv: Tensor, frequencies: Tensor | None, bias: Tensor | None, window: int, shift: list[int]
) -> Tensor:
    """Give the shape of `attention_op`."""
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
    of_frequencies: bool,
    of_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Give the gradients of the projection, the frequencies and the bias; the last two are empty if not asked for."""
    wanted = {"of_frequencies": of_frequencies, "of_bias": of_bias}
    found = backend_module().backward(
        gradient.contiguous(), qkv.contiguous(), frequencies, bias, window, shift, **wanted
    )
    packed, speeds, biases = (gradient.new_empty(0) if part is None else part for part in found)
    return packed, speeds, biases


@backward_op.register_fake
def fake_backward(
    gradient: Tensor,
    qkv: Tensor,
    frequencies: Tensor | None,
    bias: Tensor | None,
    window: int,
    shift: list[int],
    *,
    of_frequencies: bool,
    of_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Give the shapes of `backward_op`."""
    del window, shift
    nothing = gradient.new_empty(0)
    speeds = nothing if frequencies is None or not of_frequencies else frequencies.new_empty(frequencies.shape)
    biases = nothing.clone() if bias is None or not of_bias else bias.new_empty(bias.shape)
    return qkv.new_empty(qkv.shape), speeds, biases


backward_op.register_autograd(rotation.refuse_second)


def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Keep the projection, which its linear layer has made anyway, and nothing of the scores."""
    del output
    *tensors, ctx.window, ctx.shift = inputs
    ctx.save_for_backward(*tensors)


def differentiate(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """Attend once more, and go back."""
    _, of_frequencies, of_bias = ctx.needs_input_grad[:3]
    packed, speeds, biases = backward_op(
        gradient, *ctx.saved_tensors, ctx.window, ctx.shift, of_frequencies=of_frequencies, of_bias=of_bias
    )
    return packed, speeds if of_frequencies else None, biases if of_bias else None, None, None


attention_op.register_autograd(differentiate, setup_context=keep)
