"""The machine and the versions that made a result, to be written down with it."""

import os
import platform
from pathlib import Path

import torch

import ropevit


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
