"""Where a study runs: device, precision, and what to write down about them."""

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

import ropevit

PRECISIONS = ("auto", "float32", "bfloat16")


def resolve_device(name: str) -> torch.device:
    """Turn `auto` into the best device there is, and refuse one that is not there.

    Raises:
        ValueError: If the name means no device, or one that this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"got device {name!r}, which is not available here; take auto, cpu or cuda") from error
    return device


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """Turn `auto` into bfloat16 where the device multiplies bfloat16 matrices in hardware, else float32.

    Raises:
        ValueError: If there is no such precision.
    """
    if name not in PRECISIONS:
        raise ValueError(f"got precision {name!r}; choose one of {', '.join(PRECISIONS)}")
    if name == "auto":
        fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else device.type == "cpu" and has_matrix_units()
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def has_matrix_units() -> bool:
    """Tell whether the processor has bfloat16 matrix units (AMX); Linux alone says so."""
    info = Path("/proc/cpuinfo")
    return info.exists() and "amx_bf16" in info.read_text()


@contextlib.contextmanager
def computing(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Compute in a precision: parameters stay float32, matrix products are done in `dtype`.

    On a CPU in bfloat16, attention is written out: PyTorch's fused kernel there is slower than float32 at these sizes.
    """
    with contextlib.ExitStack() as stack:
        if dtype != torch.float32:
            stack.enter_context(torch.autocast(device.type, dtype))
            if device.type == "cpu":
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


def environment(device: torch.device, dtype: torch.dtype, workers: int, threads: int) -> dict[str, str | int]:
    """Describe the machine and the versions that made a result."""
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return {
        "ropevit": ropevit.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": f"{device.type}: {named}",
        "precision": str(dtype).removeprefix("torch."),
        "workers": workers,
        "threads": threads,
        "cores": available_cores(),
        "platform": platform.platform(),
    }


def processor() -> str:
    """Name the processor as well as the system can."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def available_cores() -> int:
    """Count the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
