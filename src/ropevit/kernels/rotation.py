"""Rotation of a qkv projection by a backend for its device: one custom operation for each direction.

`torch.compile` sees two opaque operations, so there is no graph break and no copy: the projection is rotated in place,
and the backward pass writes the gradients of q, k and v into the gradient of the projection, in the pass over memory
that autograd needs to concatenate them anyway.
"""

import os
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import forward_ad

from ropevit.kernels import native
from ropevit.kernels.assume_constant import assume_constant
from ropevit.kernels.operations import define_operation
from ropevit.rope.rotation import apply_rotary, check_finite, check_shapes, rotary_cos_sin

#: name -> object with `rotate_` and `backward`, or the name of a module that has them and is imported on first use. The
#: reference is plain PyTorch, differentiable any number of times. Open to other packages: see docs/extending.md.
BACKENDS: dict[str, Any] = {
    "reference": None,
    "cpu": "ropevit.kernels.cpu",
    "triton": "ropevit.kernels.triton_rotation",
}

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def register_backend(name: str, backend: Any) -> None:
    """Add a backend of your own, for `backend=NAME`, `set_backend` and `ropevit bench`; "auto" never takes it.

    Args:
        name: A word.
        backend: An object or module with the functions `rotate_` and `backward`, or the name of such a module.

    Raises:
        ValueError: If the name is taken or not a word, or a function is missing.
    """
    if name in (*BACKENDS, "auto") or not name.isidentifier():
        raise ValueError(f"got the backend {name!r}; expected a word other than auto, {', '.join(BACKENDS)}")
    missing = [part for part in ("rotate_", "backward") if not (isinstance(backend, str) or hasattr(backend, part))]
    if missing:
        raise ValueError(f"got a backend {name!r} without {' and '.join(missing)}; see docs/extending.md")
    BACKENDS[name] = backend


def rotate_qkv(
    qkv: Float[Tensor, "B N 3 A D"],
    positions: Float[Tensor, "*b n ndim"],
    frequencies: Float[Tensor, "ndim *a P"],
    num_prefix_tokens: int = 0,
    *,
    inplace: bool = False,
    backend: str = "auto",
) -> tuple[Float[Tensor, "B A N D"], Float[Tensor, "B A N D"], Float[Tensor, "B A N D"]]:
    """Rotate the queries and keys of a qkv projection and split it; `rope.rotate` is the same for separate tensors.

    >>> q, k, v = rotate_qkv(linear(x).unflatten(-1, (3, heads, -1)), positions, frequencies, 1, inplace=True)

    Args:
        qkv: Projection of N = num_prefix_tokens + n tokens to queries, keys and values.
        positions: Float positions of the patch tokens, in patches: (n, ndim) for all images, or (B, n, ndim).
        frequencies: Radians per patch: (ndim, P) for all heads, or (ndim, A, P), P = D/2.
        num_prefix_tokens: Class and register tokens in front, which are not rotated.
        inplace: Overwrite `qkv`, which must not be used otherwise: suits the output of a linear layer.
        backend: A name of BACKENDS, or "auto": C on a CPU; the reference for float64 (also of positions or
            frequencies), other devices, `torch.export`, `torch.func`, and if the C kernel cannot be built. "triton" has
            to be named: it has been interpreted and compiled, but not yet run on a GPU. The reference computes angles
            of float64 positions and frequencies in float64; the kernels round them to float32.

    Returns:
        Rotated queries, rotated keys, and values, (B, A, N, D), all views of one tensor.

    Raises:
        ValueError: If shapes, dtypes or devices do not match, or the backend does not exist or support this tensor.

    Source: Heo et al. 2024 (arXiv:2403.13298), section 3; gradients in docs/kernels.md.
    """
    if qkv.ndim != 5 or qkv.shape[2] != 3:
        raise ValueError(f"got a projection of shape {tuple(qkv.shape)}; expected (B, tokens, 3, heads, channels)")
    check_shapes(qkv, positions, frequencies, num_prefix_tokens, [qkv.shape[axis] for axis in (0, 3, 1, 4)])
    check_finite(positions)
    name = resolve_backend(qkv, backend, exact=torch.float64 in (positions.dtype, frequencies.dtype))
    if name == "reference":
        q, k, v = split_parts(qkv)
        cos_sin = rotary_cos_sin(positions, frequencies, num_prefix_tokens)
        return apply_rotary(q, cos_sin), apply_rotary(k, cos_sin), v
    if inplace and qkv.is_leaf and qkv.requires_grad:
        raise ValueError(
            "got a leaf that requires grad with inplace=True; pass inplace=False, or the output of a layer"
        )
    fresh = qkv.contiguous() if inplace or not qkv.is_contiguous() else qkv.clone()
    recorded = torch.compiler.is_compiling() or needs_gradient(qkv, positions, frequencies)
    function = RotateFunction.apply if recorded else _rotate_and_split
    return function(fresh, positions, frequencies, num_prefix_tokens, name)


def _rotate_and_split(
    qkv: Tensor, positions: Tensor, frequencies: Tensor, num_prefix_tokens: int, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Rotate q and k in place and split the projection, without gradients."""
    rotate_op(qkv, positions, frequencies, num_prefix_tokens, backend)
    torch.autograd.graph.increment_version(qkv)
    return split_parts(qkv)


def needs_gradient(*tensors: Tensor) -> bool:
    """Return whether autograd records what is computed from these tensors, or forward derivatives are computed."""
    if forward_ad._current_level >= 0:  # pyright: ignore[reportPrivateUsage]  # `torch.no_grad` does not end them
        return True
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def split_parts(
    qkv: Float[Tensor, "B N 3 A D"],
) -> tuple[Float[Tensor, "B A N D"], Float[Tensor, "B A N D"], Float[Tensor, "B A N D"]]:
    """Return queries, keys and values of a projection, as views."""
    q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
    return q, k, v


def resolve_backend(qkv: Tensor, backend: str, *, exact: bool = False) -> str:
    """Return the name of the backend to use; "auto" chooses one.

    Args:
        qkv: The projection.
        backend: A name of BACKENDS, or "auto": see `rotate_qkv` for what it chooses.
        exact: Whether angles must be float64.

    Raises:
        ValueError: If the backend does not exist or does not support this tensor.
    """
    if backend == "auto":
        if exact or qkv.dtype not in _DTYPES or torch.compiler.is_exporting() or under_transform():
            return "reference"
        if qkv.device.type == "cpu":
            return "cpu" if native.available(qkv.dtype) else "reference"
        return "reference"  # on a GPU too, until the Triton kernels have been run on one
    if backend not in BACKENDS:
        raise ValueError(f"no backend named {backend!r}; choose auto or one of {', '.join(BACKENDS)}")
    if backend != "reference" and qkv.dtype not in _DTYPES:
        raise ValueError(f"got {qkv.dtype} for backend={backend!r}; use float32, bfloat16 or float16, or 'reference'")
    if backend == "cpu" and qkv.device.type != "cpu":
        raise ValueError(f"got a projection on {qkv.device} for backend='cpu'; move it, or use backend='auto'")
    if backend == "cpu" and not native.available(qkv.dtype):
        reason = native.build_error() or f"built for {', '.join(native.SUFFIX.values())} without {qkv.dtype}"
        raise ValueError(f"got backend='cpu', but there is no C kernel here: {reason}; use 'auto'")
    if backend == "triton" and not triton_available():
        raise ValueError("got backend='triton', but triton is not installed; install it, or use backend='auto'")
    if backend == "triton" and qkv.device.type != "cuda" and not (qkv.device.type == "cpu" and interpreted()):
        raise ValueError(f"got a projection on {qkv.device} for backend='triton'; move it to a GPU, or use 'auto'")
    return backend


def set_backend(model: nn.Module, backend: str) -> None:
    """Set the backend of all attention layers of a model; the default, "auto", chooses by device.

    For a Swin "triton" is the fused `window_attention`, as are "auto" and "cpu" on a CPU where it supports a layer.

    Raises:
        ValueError: If the backend does not exist, or the model has no attention layers of this package.
    """
    if backend != "auto" and backend not in BACKENDS:
        raise ValueError(f"no backend named {backend!r}; choose auto or one of {', '.join(BACKENDS)}")
    layers = [layer for layer in model.modules() if isinstance(getattr(layer, "backend", None), str)]
    if not layers:
        raise ValueError(f"got {type(model).__name__}, which has no attention of this package; nothing to set")
    for layer in layers:
        layer.backend = backend  # pyright: ignore[reportArgumentType]


@assume_constant
def triton_available() -> bool:
    """Return whether Triton is installed."""
    return find_spec("triton") is not None


@assume_constant
def interpreted() -> bool:
    """Return whether Triton's interpreter is on, which runs kernels on a CPU, slowly: for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def under_transform() -> bool:
    """Return whether `torch.func` or `torch.jit.trace` is active: neither records in-place custom operations."""
    if torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
        return True
    return torch._C._functorch.maybe_current_level() is not None  # pyright: ignore[reportAttributeAccessIssue]


def _load_backend(backend: str) -> Any:
    """Return what implements a backend; a module is imported on first use."""
    found = BACKENDS[backend]
    return import_module(found) if isinstance(found, str) else found


def _rotate(qkv: Tensor, positions: Tensor, frequencies: Tensor, num_prefix_tokens: int, backend: str) -> None:
    """Rotate q and k in place; whoever calls it increments the version of the projection."""
    _load_backend(backend).rotate_(qkv, positions, frequencies, num_prefix_tokens)


def _backward(
    gradients: list[Tensor],
    rotated: list[Tensor],
    positions: Tensor,
    frequencies: Tensor,
    num_prefix_tokens: int,
    backend: str,
    *,
    needs_positions_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of the projection, the frequencies and the positions; the last two may be empty."""
    gradients_found = _load_backend(backend).backward(
        gradients, rotated, positions, frequencies, num_prefix_tokens, needs_positions_grad=needs_positions_grad
    )
    grad_qkv, grad_frequencies, grad_positions = (
        positions.new_empty(0) if gradient is None else gradient for gradient in gradients_found
    )
    return grad_qkv, grad_frequencies, grad_positions


def _fake_rotate(qkv: Tensor, positions: Tensor, frequencies: Tensor, num_prefix_tokens: int, backend: str) -> None:
    """Return nothing, as `rotate_op` does."""
    del qkv, positions, frequencies, num_prefix_tokens, backend


def _fake_backward(
    gradients: list[Tensor],
    rotated: list[Tensor],
    positions: Tensor,
    frequencies: Tensor,
    num_prefix_tokens: int,
    backend: str,
    *,
    needs_positions_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return empty tensors of the shapes of `backward_op`."""
    del num_prefix_tokens, backend
    images, heads, tokens, channels = gradients[0].shape
    grad_qkv = gradients[0].new_empty(images, tokens, 3, heads, channels)
    none = positions.new_empty(0)
    grad_frequencies = frequencies.new_empty(frequencies.shape) if rotated else none  # contiguous, unlike empty_like
    grad_positions = positions.new_empty(positions.shape if rotated and needs_positions_grad else 0)
    return grad_qkv, grad_frequencies, grad_positions


def refuse_second(ctx: Any, *gradients: Tensor) -> None:
    """Raise ValueError: the fused kernels have no second derivative."""
    del ctx, gradients
    raise ValueError(
        "got a second derivative (create_graph=True) of a fused kernel, which has none; first call "
        "ropevit.kernels.set_backend(model, 'reference'), or pass backend='reference'"
    )


rotate_op = define_operation("rotate_qkv_", _rotate, _fake_rotate, mutates_args=("qkv",))
backward_op = define_operation("rotate_qkv_backward", _backward, _fake_backward, backward=refuse_second)


class RotateFunction(torch.autograd.Function):
    """The rotation in place, and its gradient.

    Saves the rotated q and k, which attention saves anyway, if frequencies or positions need a gradient; else nothing.
    """

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, positions: Tensor, frequencies: Tensor, num_prefix_tokens: int, backend: str
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rotate q and k, and split the projection."""
        rotate_op(qkv, positions, frequencies, num_prefix_tokens, backend)
        if not torch.compiler.is_compiling():
            torch.autograd.graph.increment_version(qkv)
        q, k, v = split_parts(qkv.detach())
        angles = positions.requires_grad or frequencies.requires_grad
        ctx.save_for_backward(positions, frequencies, *((q, k) if angles else ()))
        ctx.num_prefix_tokens, ctx.backend = num_prefix_tokens, backend
        return q, k, v

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None, None, None]:
        """Rotate the gradients by the negative angles and concatenate them."""
        positions, frequencies, *rotated = ctx.saved_tensors
        positions_needed, frequencies_needed = ctx.needs_input_grad[1:3]
        grad_qkv, grad_frequencies, grad_positions = backward_op(
            list(gradients),
            rotated,
            positions,
            frequencies,
            ctx.num_prefix_tokens,
            ctx.backend,
            needs_positions_grad=positions_needed,
        )
        return (
            grad_qkv,
            grad_positions if positions_needed else None,
            grad_frequencies if frequencies_needed else None,
            None,
            None,
        )
