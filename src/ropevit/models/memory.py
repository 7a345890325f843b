"""Estimates peak memory and MACs of a model from shapes alone, without computing or allocating anything."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from ropevit.arithmetic import ceil_div
from ropevit.kernels.window_attention import attention_op
from ropevit.kernels.windows import clear_masks

#: Builds a model.
Build = Callable[[], nn.Module]

#: Runs a model on synthetic inputs and returns a scalar loss.
Loss = Callable[[nn.Module], Tensor]

#: Runs a model on synthetic inputs.
Forward = Callable[[nn.Module], object]


class LiveStorages(TorchDispatchMode):
    """Tracks the live bytes of storages allocated within the context, and their peak.

    Real tensors and those of FakeTensorMode count alike. Workspaces of operations, such as convolutions, and overhead
    of the allocator are not included.

    >>> with LiveStorages() as live:
    ...     model(images).sum().backward()
    >>> live.peak
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self.sizes = weakref.WeakKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.hold(*(leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)))
        return out

    def hold(self, *tensors: Tensor) -> None:
        """Also count tensors that were allocated before, such as a model's weights."""
        for storage in (tensor.untyped_storage() for tensor in tensors):
            if storage not in self.sizes:
                self.sizes[storage] = storage.nbytes()
                self.bytes += storage.nbytes()
                weakref.finalize(storage, self.release, storage.nbytes()).atexit = False
        self.peak = max(self.peak, self.bytes)

    def release(self, size: int) -> None:
        """Subtract a storage that was freed."""
        self.bytes -= size


class SameShapes(TorchDispatchMode):
    """Answers True where a model reads a boolean from a fake tensor, such as whether all values are finite."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].dtype == torch.bool:
            return True
        return func(*args, **(kwargs or {}))


@contextmanager
def _shapes_only() -> Iterator[None]:
    """Make tensors created within the context fake: shapes without values or memory; none stays in the mask cache."""
    clear_masks()
    try:
        with FakeTensorMode(), SameShapes():
            yield
    finally:
        clear_masks()


def step_memory(build: Build, loss: Loss, precision: torch.dtype = torch.float32) -> int:
    """Return the peak bytes of a forward and backward pass: weights, gradients, activations.

    The optimizer state is not included. Attention is the CPU's, which like a GPU's stores no scores; overhead of the
    allocator is not included.

    Args:
        build: Builds the model, in training mode.
        loss: Loss function; it may read shapes, but no values.
        precision: float32, or bfloat16 for mixed precision.

    Raises:
        torch._subclasses.fake_tensor.DataDependentOutputException: If the loss reads values.
    """
    mixed = nullcontext() if precision == torch.float32 else torch.autocast("cpu", precision)
    model = _build_meta(build).train()
    with _shapes_only(), LiveStorages() as live:
        _allocate_empty(model)
        with mixed:
            value = loss(model)
        value.backward()
    return live.peak


def count_weights(build: Build, trainable: bool = False) -> int:
    """Count the parameters of a model, or those alone that a training changes, without allocating it."""
    found = _build_meta(build).parameters()
    return sum(parameter.numel() for parameter in found if parameter.requires_grad or not trainable)


def forward_macs(build: Build, forward: Forward) -> int:
    """Count the MACs of the matrix products and convolutions of a forward pass in eval mode.

    Args:
        build: Builds the model.
        forward: Runs it.
    """
    formulas = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
        attention_op.overloadpacket: _window_attention_flops,
    }
    model = _build_meta(build).eval()
    with _shapes_only(), torch.no_grad():
        _allocate_empty(model)
        with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
            forward(model)
    return counter.get_total_flops() // 2


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Return the FLOPs of attention from the shapes of queries, keys and values."""
    return sdpa_flop_count(query, key, value)


def _window_attention_flops(qkv: Any, frequencies: Any, bias: Any, window: int, *_: Any, **__: Any) -> int:
    """Return the FLOPs of attention in windows, padding included, from the shape of the projection of a map."""
    del frequencies, bias
    images, h, w, _, heads, channels = qkv
    windows = images * ceil_div(h, window) * ceil_div(w, window)
    return windows * heads * 4 * window**4 * channels


def _build_meta(build: Build) -> nn.Module:
    """Build a model on the meta device, without weights."""
    with torch.device("meta"):
        return build()


def _allocate_empty(model: nn.Module) -> nn.Module:
    """Replace meta weights and buffers of a model by uninitialized ones on the CPU; shared ones stay shared."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, old in held.items():
                if old is None:
                    continue
                if id(old) not in made:
                    new = torch.empty(old.shape, dtype=old.dtype)
                    made[id(old)] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
                held[name] = made[id(old)]  # pyright: ignore[reportArgumentType]
    return model
