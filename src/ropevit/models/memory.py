"""What a training step holds in memory at most, counted from shapes: nothing is computed and no memory is taken."""

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

from ropevit.kernels.windows import cached_mask

#: Builds a model.
Build = Callable[[], nn.Module]

#: Gives a model inputs of its own making, and a number to make small of what it says.
Loss = Callable[[nn.Module], Tensor]

#: Gives a model inputs of its own making.
Forward = Callable[[nn.Module], object]


class LiveStorages(TorchDispatchMode):
    """Counts the bytes of the storages that are alive, made by what runs within, and the most at any time.

    It counts real tensors and those of FakeTensorMode alike. What an operation holds while it runs (a convolution's
    workspace) is not seen, nor what an allocator rounds up or keeps.

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
        """Count tensors that were made before, too, such as a model's weights."""
        for storage in (tensor.untyped_storage() for tensor in tensors):
            if storage not in self.sizes:
                self.sizes[storage] = storage.nbytes()
                self.bytes += storage.nbytes()
                weakref.finalize(storage, self.release, storage.nbytes()).atexit = False
        self.peak = max(self.peak, self.bytes)

    def release(self, size: int) -> None:
        """Take a storage off the count."""
        self.bytes -= size


class SameShapes(TorchDispatchMode):
    """Answers yes where a model asks whether something is true of tensors without values: that all is finite."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].dtype == torch.bool:
            return True
        return func(*args, **(kwargs or {}))


@contextmanager
def shapes_only() -> Iterator[None]:
    """Let tensors made within have shapes, and neither values nor memory; none of them is left in a cache."""
    cached_mask.cache_clear()
    try:
        with FakeTensorMode(), SameShapes():
            yield
    finally:
        cached_mask.cache_clear()


def step_memory(build: Build, loss: Loss, precision: torch.dtype = torch.float32) -> int:
    """Count the most bytes that a forward and a backward pass hold: weights, gradients, activations.

    The optimizer's moments are not among them. Attention is that of a CPU, which like a GPU's keeps no scores; what
    an allocator adds is not seen.

    Args:
        build: Builds the model, in training mode.
        loss: What is made small; it may look at shapes, and not at values.
        precision: float32, or bfloat16 for mixed precision.

    Raises:
        torch._subclasses.fake_tensor.DataDependentOutputException: If the loss looks at values.
    """
    mixed = nullcontext() if precision == torch.float32 else torch.autocast("cpu", precision)
    model = build_meta(build).train()
    with shapes_only(), LiveStorages() as live:
        allocate_empty(model)
        with mixed:
            value = loss(model)
        value.backward()
    return live.peak


def count_weights(build: Build) -> int:
    """Count the parameters of a model without making it."""
    return sum(parameter.numel() for parameter in build_meta(build).parameters())


def forward_macs(build: Build, forward: Forward) -> int:
    """Count the multiply-adds of the matrix products and convolutions of a forward pass in eval mode.

    Args:
        build: Builds the model.
        forward: Runs it.
    """
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    model = build_meta(build).eval()
    with shapes_only(), torch.no_grad():
        allocate_empty(model)
        with FlopCounterMode(display=False, custom_mapping={attention: attention_flops}) as counter:
            forward(model)
    return counter.get_total_flops() // 2


def attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Count the operations of attention from the shapes of queries, keys and values."""
    return sdpa_flop_count(query, key, value)


def build_meta(build: Build) -> nn.Module:
    """Build a model without weights."""
    with torch.device("meta"):
        return build()


def allocate_empty(model: nn.Module) -> nn.Module:
    """Give a model on the meta device weights and buffers on the CPU, not drawn; each that is shared stays shared."""
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
