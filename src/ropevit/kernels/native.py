"""Calls the C kernels: those of the wheel, if it has them, or a library built on first use into the user's cache."""

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

from ropevit.kernels import building, variants
from ropevit.kernels.assume_constant import assume_constant
from ropevit.kernels.building import BuildError
from ropevit.text import printable

log = logging.getLogger(__name__)

_FOLDER = Path(__file__).parent
SOURCES = tuple(_FOLDER / name for name in variants.SOURCES)
HEADERS = tuple(_FOLDER / name for name in variants.HEADERS)
SUFFIX = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
_FUNCTIONS = ("forward_float32", "backward_float32", "forward_bfloat16", "backward_bfloat16")

Int64 = ctypes.c_int64
Pointer = ctypes.c_void_p


class RotateArgs(ctypes.Structure):
    """Arguments of the C functions; rotate.c documents the fields."""

    _fields_ = (
        *((name, Int64) for name in ("images", "tokens", "heads", "channels", "axes", "prefix")),
        *((name, Int64) for name in ("frequency_heads", "position_images", "threads")),
        ("positions", Pointer),
        ("frequencies", Pointer),
        ("part", Pointer * 3),
        ("stride", Int64 * 3 * 3),
        ("rotated", Pointer * 2),
        ("rotated_stride", Int64 * 3 * 2),
        ("qkv_gradient", Pointer),
        ("angle_gradient", Pointer),
    )


@functools.cache
def compiler() -> str | None:
    """Return the path of the C compiler: that of CC, or cc, gcc or clang; None if there is none."""
    names = (os.environ.get("CC"), "cc", "gcc", "clang")
    return next((path for name in names if name and (path := shutil.which(name))), None)


@assume_constant
def available(dtype: torch.dtype = torch.float32) -> bool:
    """Return whether the C kernel can be used for a dtype; builds it if necessary."""
    return build_error() is None and hasattr(library(), f"forward_{SUFFIX.get(dtype, 'other')}")


@assume_constant
def available_windows(dtype: torch.dtype) -> bool:
    """Return whether the C kernel of window attention can be used for a dtype; an older wheel may have none."""
    return build_error() is None and hasattr(library(), f"window_forward_{SUFFIX.get(dtype, 'other')}")


@functools.cache
def build_error() -> str | None:
    """Return why the C kernel cannot be used, and log it; None if it can."""
    try:
        library()
    except BuildError as error:
        log.warning("rotation on the CPU uses the slower reference: %s", error)
        return str(error)
    return None


@functools.cache
def library() -> ctypes.CDLL:
    """Load the kernel: from the wheel, from the cache, or built now.

    Raises:
        BuildError: If it is in neither, and there is no C compiler, or it fails.
    """
    if (prebuilt := load_prebuilt()) is not None:
        return prebuilt
    command = compiler()
    if command is None:
        raise BuildError(
            "found no C compiler (cc, gcc or clang); install one or a wheel with the kernel, or use backend='reference'"
        )
    try:
        _, version = building.run_compiler([command, "--version"], building.VERSION_SECONDS)
        facts = "\n".join(
            [
                *(path.read_text() for path in (*SOURCES, *HEADERS)),
                *(*variants.FLAGS, *variants.NATIVE),
                *(version, platform.node(), instructions()),
            ]
        )
    except OSError as error:
        raise BuildError(printable(error)) from error
    return building.load_or_build(command, SOURCES, facts, _FUNCTIONS)


def load_prebuilt(folder: Path = _FOLDER) -> ctypes.CDLL | None:
    """Load the fastest kernel of the wheel that this processor can execute; None if there is none, or it does not load.

    Args:
        folder: Where the wheel has its libraries.
    """
    words = {word for line in instructions().splitlines() for word in line.partition(":")[2].split()}
    for variant in variants.usable(platform.machine(), words):
        if (path := folder / variant.file_name).exists():
            try:
                return building.load(path, (*_FUNCTIONS, "forward_float16", "backward_float16"))
            except OSError as error:  # such as an OpenMP library that is not installed
                log.info("the kernel of the wheel cannot be loaded (%s); it is built instead", printable(error))
    return None


def instructions(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Describe the processor's instruction set: a kernel crashes on a processor that lacks some of its instructions.

    Machines that share a cache may have the same host name.
    """
    if not cpuinfo.exists():
        return f"{platform.machine()} {platform.processor()}"
    lines = cpuinfo.read_text(errors="replace").splitlines()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "isa"))}))


def call(name: str, dtype: torch.dtype, arguments: ctypes.Structure) -> None:
    """Call a C function ("forward", "backward", "window_forward" or "window_backward") for a dtype.

    Raises:
        ValueError: If there is none for the dtype.
        MemoryError: If it cannot allocate memory.
    """
    function = getattr(library(), f"{name}_{SUFFIX.get(dtype, 'other')}", None)
    if function is None:
        raise ValueError(f"got {dtype}; the C kernel {name} of this machine takes {', '.join(SUFFIX.values())}")
    if function(ctypes.byref(arguments)):
        raise MemoryError("the C kernel could not allocate memory")


def make_arguments(shape: Sequence[int], positions: Tensor, frequencies: Tensor, num_prefix_tokens: int) -> RotateArgs:
    """Make the arguments of a call, without its large tensors; they do not keep tensors alive.

    Args:
        shape: That of the queries, (B, A, N, D).
        positions: (B or 1, N - num_prefix_tokens, ndim), contiguous float32.
        frequencies: (ndim, A or 1, P), contiguous float32.
        num_prefix_tokens: Tokens in front that are not rotated.
    """
    images, heads, tokens, channels = shape
    arguments = RotateArgs(images=images, tokens=tokens, heads=heads, channels=channels, prefix=num_prefix_tokens)
    (arguments.axes, arguments.frequency_heads), arguments.position_images = frequencies.shape[:2], positions.shape[0]
    arguments.positions, arguments.frequencies = positions.data_ptr(), frequencies.data_ptr()
    arguments.threads = torch.get_num_threads()
    return arguments


def set_projection(arguments: RotateArgs, qkv: Tensor) -> None:
    """Set q and k of a projection (B, N, 3, A, D) with contiguous channels, to be rotated in place."""
    image, token, part, head, _ = qkv.stride()
    for index in range(2):
        arguments.part[index] = qkv.data_ptr() + index * part * qkv.itemsize
        arguments.stride[index][:] = image, head, token


def set_tensors(pointers: ctypes.Array, strides: ctypes.Array, parts: Sequence[Tensor]) -> None:
    """Set the pointers and strides of tensors (B, A, N, D) with contiguous channels."""
    for index, part in enumerate(parts):
        pointers[index], strides[index][:] = part.data_ptr(), part.stride()[:3]
