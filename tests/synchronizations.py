"""Counts on the CPU what would synchronize the host with a GPU.

Every tensor counts as one on the device, except what comes of a copy to the host, of a factory without `device=`, or of
such tensors alone. A synchronization is a read of a device tensor (`item`, `cpu`, `bool`, ...), an operation whose
output has as many elements as its input has true ones, and a copy to the device that is not `non_blocking`, that of a
list included.
"""

import sys
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten

#: Read a whole tensor without an operation of PyTorch; `item`, `bool` and the like have one.
_READS = {Tensor.cpu, Tensor.tolist, Tensor.numpy, Tensor.__array__}

#: Operations that read their input, or whose output's size depends on it.
_SYNCHRONIZING = {
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.bincount.default,
    aten.repeat_interleave.Tensor,
    aten.index.Tensor,
    aten.index_put_.default,
    aten.index_put.default,
}


#: Functions that wait on a CPU, where that costs nothing, but not for a GPU; `to_device` has its own tests.
_CPU_ONLY = {("rotation.py", "check_finite"), ("device.py", "to_device")}


def on_host(value):
    """Mark tensors as on the host, as those of a loader; return them."""
    return tree_map(_mark, value)


def _mark(value):
    if isinstance(value, Tensor):
        value.on_host = True
    elif hasattr(value, "__dataclass_fields__"):
        tree_map(_mark, list(vars(value).values()))
    return value


def _is_host(value):
    return getattr(value, "on_host", False)


def _tensors(value):
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


class CountSynchronizations(TorchFunctionMode):
    """Context that collects synchronizations; `found` has the name and the line of each."""

    def __init__(self):
        super().__init__()
        self.found, self.others = [], ExitStack()

    def __enter__(self):
        real = torch.from_numpy  # no mode sees it
        self.others.enter_context(patch.object(torch, "from_numpy", lambda array: on_host(real(array))))
        self.others.enter_context(_CountOperations(self))
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.others.close()

    def names(self):
        """Return the name of each synchronization without its line."""
        return [each.split()[0] for each in self.found]

    def note(self, func):
        """Record a synchronization."""
        frame = sys._getframe()
        while frame and not {"ropevit", "transformers", "timm"} & set(Path(frame.f_code.co_filename).parts):
            frame = frame.f_back
        file = Path(frame.f_code.co_filename).name if frame else "a test"
        if not frame or (file, frame.f_code.co_name) not in _CPU_ONLY:
            self.found.append(f"{getattr(func, '__name__', func)} at {file}:{frame.f_lineno if frame else 0}")

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in _READS or (func is Tensor.to and _target(args, kwargs) == "cpu"):
            if not _is_host(args[0]):
                self.note(func)
            result = func(*args, **kwargs)
            return _mark(aten.alias(result)) if isinstance(result, Tensor) else result
        if func is Tensor.to and _target(args, kwargs) is not None:
            return self._to_device(func, args, kwargs)
        if _copies_to_device(func, args, kwargs):
            self.note(func)
        tensors = _tensors([args, kwargs])
        host = all(map(_is_host, tensors)) if tensors else kwargs.get("device") is None
        before = len(self.found)
        result = func(*args, **kwargs)
        if host and tensors:
            del self.found[before:]
        if host and not func.__name__.startswith("__get__"):
            on_host(result) if isinstance(result, Tensor | tuple | list) else None
        elif host and isinstance(result, Tensor):
            _mark(result)
        return result

    def _to_device(self, func, args, kwargs):
        """Copy to the device: the result is another tensor, as it would be on a GPU."""
        if _is_host(args[0]) and not (kwargs.get("non_blocking") or args[3:4] == (True,)):
            self.note(func)
        return aten.alias(func(*args, **kwargs))


class _CountOperations(TorchDispatchMode):
    """Records synchronizing operations, wherever they are called from."""

    def __init__(self, counted):
        super().__init__()
        self.counted = counted

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in _SYNCHRONIZING and not _is_host(args[0]) and not _gathers(func, args):
            self.counted.note(func)
        return func(*args, **(kwargs or {}))


def _gathers(func, args):
    """Return whether an indexing operation has no mask; one that writes a single value needs no indices either."""
    if func is aten.index.Tensor:
        return not any(index is not None and index.dtype is torch.bool for index in args[1])
    if func in (aten.index_put_.default, aten.index_put.default):
        masked = any(index is not None and index.dtype is torch.bool for index in args[1])
        return not masked or args[2].numel() == 1
    return False


def _target(args, kwargs):
    """Return where `to` copies: "cpu" as a word is the host, a `torch.device` the device, None nowhere."""
    given = [*args[1:], *kwargs.values()]
    return next((value for value in given if isinstance(value, str | torch.device)), None)


def _copies_to_device(func, args, kwargs):
    """Return whether a call copies a list to the device, or a tensor from one side to the other."""
    if func in (torch.tensor, torch.as_tensor):
        return kwargs.get("device") is not None and not isinstance(args[0], Tensor)
    if func is Tensor.new_tensor:
        return not _is_host(args[0])
    if func is Tensor.copy_:
        return _is_host(args[0]) != _is_host(args[1]) and not (kwargs.get("non_blocking") and _is_host(args[1]))
    if func in (Tensor.__getitem__, Tensor.__setitem__) and not _is_host(args[0]):
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        return any(
            isinstance(part, list) or (isinstance(part, Tensor) and part.ndim and _is_host(part)) for part in index
        )
    return False
