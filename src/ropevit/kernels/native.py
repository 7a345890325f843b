"""Build the C kernel on first use, keep it in the user's cache, and call it."""

import ctypes
import functools
import logging
import os
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ropevit.kernels import building
from ropevit.kernels.assume_constant import assume_constant
from ropevit.kernels.building import BuildError
from ropevit.text import printable

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("rotate.c")
SUFFIX = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
FUNCTIONS = ("forward_float32", "backward_float32", "forward_bfloat16", "backward_bfloat16")

Int64 = ctypes.c_int64
Pointer = ctypes.c_void_p


class RotateArgs(ctypes.Structure):
    """What the C functions read; the fields are explained in rotate.c."""

    _fields_ = (
        *((name, Int64) for name in ("images", "tokens", "heads", "channels", "axes", "prefix")),
        *((name, Int64) for name in ("frequency_heads", "position_images", "threads")),
        ("positions", Pointer),
        ("frequencies", Pointer),
        ("part", Pointer * 3),
        ("stride", Int64 * 3 * 3),
        ("turned", Pointer * 2),
        ("turned_stride", Int64 * 3 * 2),
        ("packed", Pointer),
        ("angle_gradient", Pointer),
    )


@functools.cache
def compiler() -> str | None:
    """Find the C compiler: what CC names, or cc, gcc or clang."""
    names = (os.environ.get("CC"), "cc", "gcc", "clang")
    return next((path for name in names if name and (path := shutil.which(name))), None)


@assume_constant
def available(dtype: torch.dtype = torch.float32) -> bool:
    """Tell whether the C kernel can be used here for a dtype, building it if need be."""
    return build_error() is None and hasattr(library(), f"forward_{SUFFIX.get(dtype, 'other')}")


@functools.cache
def build_error() -> str | None:
    """Tell why the C kernel cannot be used here, also to the log; None where it can."""
    try:
        library()
    except BuildError as error:
        log.warning("rotation on the CPU takes the slower reference: %s", error)
        return str(error)
    return None


@functools.cache
def library() -> ctypes.CDLL:
    """Load the kernel, building it if this machine has not built it yet.

    Raises:
        BuildError: If there is no C compiler, or it fails.
    """
    command = compiler()
    if command is None:
        raise BuildError("found no C compiler (cc, gcc or clang); install one, or use backend='reference'")
    try:
        _, version = building.run_compiler([command, "--version"], building.VERSION_SECONDS)
        facts = "\n".join([SOURCE.read_text(), *building.FLAGS, version, platform.node(), instructions()])
    except OSError as error:
        raise BuildError(printable(error)) from error
    return building.load_or_build(command, SOURCE, facts, FUNCTIONS)


def instructions(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Name the instructions of the processor: a kernel built with more of them would crash on one with fewer.

    Machines that share a cache may share a name, too.
    """
    if not cpuinfo.exists():
        return f"{platform.machine()} {platform.processor()}"
    lines = cpuinfo.read_text(errors="replace").splitlines()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "isa"))}))


def call(direction: str, dtype: torch.dtype, job: RotateArgs) -> None:
    """Run one of the C functions.

    Raises:
        ValueError: If there is none for the dtype.
        MemoryError: If it has no memory to work in.
    """
    function = getattr(library(), f"{direction}_{SUFFIX.get(dtype, 'other')}", None)
    if function is None:
        raise ValueError(f"got {dtype}; the C kernel of this machine rotates {', '.join(SUFFIX.values())}")
    if function(ctypes.byref(job)):
        raise MemoryError("the C kernel found no memory to work in")


def describe(q: Tensor, positions: Tensor, frequencies: Tensor, num_prefix: int) -> RotateArgs:
    """Fill in sizes, and the positions and frequencies, which are to be contiguous and float32.

    Args:
        q: Queries (B, A, N, D).
        positions: (B or 1, N - num_prefix, ndim).
        frequencies: (ndim, A or 1, P).
        num_prefix: Tokens in front that are not turned.
    """
    job = RotateArgs(images=q.shape[0], tokens=q.shape[2], heads=q.shape[1], channels=q.shape[3], prefix=num_prefix)
    (job.axes, job.frequency_heads), job.position_images = frequencies.shape[:2], positions.shape[0]
    job.positions, job.frequencies = positions.data_ptr(), frequencies.data_ptr()
    job.threads = torch.get_num_threads()
    return job


def fill(pointers: ctypes.Array, strides: ctypes.Array, parts: Sequence[Tensor]) -> None:
    """Tell a job where tensors (B, A, N, D) lie, channels next to each other."""
    for index, part in enumerate(parts):
        pointers[index], strides[index][:] = part.data_ptr(), part.stride()[:3]
