"""Precision of a study: float32 or bfloat16 autocast."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

PRECISIONS = ("auto", "float32", "bfloat16")


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """Turn `auto` into bfloat16 where the device multiplies bfloat16 matrices in hardware, else float32.

    Raises:
        ValueError: If the precision is unknown.
    """
    if name not in PRECISIONS:
        raise ValueError(f"got precision {name!r}; choose one of {', '.join(PRECISIONS)}")
    if name == "auto":
        fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else device.type == "cpu" and _has_matrix_units()
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def _has_matrix_units() -> bool:
    """Return whether the processor has bfloat16 matrix units (AMX); detected on Linux only."""
    info = Path("/proc/cpuinfo")
    return info.exists() and "amx_bf16" in info.read_text()


@contextlib.contextmanager
def autocast(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Autocast context: parameters stay float32, matrix products use `dtype`.

    On a CPU in bfloat16, attention is unfused: PyTorch's fused kernel there is slower than float32 at these sizes.
    """
    with contextlib.ExitStack() as stack:
        if dtype != torch.float32:
            stack.enter_context(torch.autocast(device.type, dtype))
            if device.type == "cpu":
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield
