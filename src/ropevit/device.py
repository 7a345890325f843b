"""Devices that `--device` names, and copies between them that do not block."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

#: Types of devices that models are computed on.
DEVICE_TYPES = ("cpu", "cuda", "mps", "xpu")
#: What `--device` takes, in words.
_CHOICES = "auto, cpu, cuda, cuda:N, mps or xpu"


def resolve_device(name: str, device_types: tuple[str, ...] = DEVICE_TYPES) -> torch.device:
    """Turn `auto` into the accelerator that PyTorch finds, or the CPU, and refuse a device that is not there.

    Nothing is allocated on it: processes of which each takes its own would all reach for the first.

    Args:
        name: auto, or what `torch.device` takes.
        device_types: Types of devices that the caller can use.

    Raises:
        ValueError: If the name means no device, or one that this machine does not have.
    """
    found = torch.accelerator.current_accelerator(check_available=True)
    if name == "auto":
        return found if found is not None and found.type in device_types else torch.device("cpu")
    device = _named_device(name, device_types)
    there = found is not None and found.type == device.type and (device.index or 0) < torch.accelerator.device_count()
    if device.type != "cpu" and not there:
        raise ValueError(f"got device {name!r}, which is not available here; take {choices(device_types)}")
    return device


def check_device_name(name: str) -> None:
    """Refuse what names no device, whether or not it is there.

    Raises:
        ValueError: Saying what does.
    """
    if name != "auto":
        _named_device(name, DEVICE_TYPES)


def _named_device(name: str, device_types: tuple[str, ...]) -> torch.device:
    """Read the name of a device of some types.

    Raises:
        ValueError: If it is none.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in device_types:
        raise ValueError(f"got device {name!r}; take {choices(device_types)}")
    return device


def choices(device_types: tuple[str, ...]) -> str:
    """Return the devices that can be chosen, for messages."""
    return _CHOICES if device_types == DEVICE_TYPES else f"auto, {' or '.join(device_types)}"


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device; from the CPU to a CUDA device without waiting for what that computes.

    A CUDA device copies on its own only from pinned memory; the allocator of pinned memory keeps it until then. Every
    other copy is waited for: a device that still reads pageable memory would find what has been written there since.
    """
    if device.type != "cuda" or values.device.type != "cpu":
        return values.to(device)
    pinned = values if values.is_pinned() else values.pin_memory()
    return pinned.to(device, non_blocking=True)


def start_copy(values: Tensor) -> Callable[[], Tensor]:
    """Start to copy a tensor to the CPU; return a function that waits for this copy alone and returns it.

    From a device other than CUDA, the copy is made at once, so the function returns what the tensor held at this call.
    """
    if values.device.type != "cuda":
        host = values.cpu()
        return lambda: host
    copied = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    copied.copy_(values, non_blocking=True)
    done = torch.cuda.Event()
    done.record(torch.cuda.current_stream(values.device))

    def wait() -> Tensor:
        done.synchronize()
        return copied

    return wait


def delay_by_one(started: Iterable[T]) -> Iterator[T]:
    """Yield each item once the next one has been made, so that the device computes while an item is evaluated."""
    items = iter(started)
    for item in items:
        for following in items:
            yield item
            item = following
        yield item
