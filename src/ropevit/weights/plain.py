"""Safe replacements for the plain data (options, NumPy scalars, paths) that training scripts pickle beside weights.

NumPy's own unpickling functions trust the file (a dtype describes its memory layout), so none of them is called.
Scalars and arrays are rebuilt here, from numbers and strings only, after checking their size in bytes.
"""

import argparse
import math
import re
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch

#: Codes of allowed dtypes: booleans, numbers and strings.
_PLAIN_TYPE = re.compile(r"b1|[iu][1248]|f[248]|c(8|16)|[SU]\d{1,6}")

#: Types that a pickle may refer to (as the factory of a defaultdict, for example), but not call.
_NAMED_TYPES = ("bool", "int", "float", "str", "list", "dict", "tuple")


class UnsupportedPickleError(ValueError):
    """A pickle contains an array or scalar of another dtype than numbers or strings, or of inconsistent size."""


class PlainType:
    """Replaces `numpy.dtype` in a pickle."""

    def __init__(self, code: Any, *_: object):
        if not isinstance(code, str) or not _PLAIN_TYPE.fullmatch(code):
            raise UnsupportedPickleError(f"an array or scalar of dtype {code!r}; expected numbers or strings")
        self.code, self.order = code, "="

    def __setstate__(self, state: Any) -> None:
        """Set the byte order; everything else follows from the code."""
        if state[1] not in ("<", ">", "|", "="):
            raise UnsupportedPickleError(f"an array with byte order {state[1]!r}; expected '<', '>', '|' or '='")
        self.order = state[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The NumPy dtype."""
        order: Any = self.order
        return np.dtype(self.code).newbyteorder(order)


class PlainArray(np.ndarray):
    """Replaces `numpy.ndarray` in a pickle."""

    def __setstate__(self, state: Any) -> None:
        """Set shape, dtype and values, after checking that they are consistent."""
        _, shape, plain, fortran, content = state
        if not isinstance(plain, PlainType) or not isinstance(content, bytes):
            raise UnsupportedPickleError("an array without a dtype of numbers or strings")
        if min(shape, default=0) < 0 or math.prod(shape) * plain.dtype.itemsize != len(content):
            raise UnsupportedPickleError(f"an array of shape {shape} in {len(content)} bytes")
        parts: Any = (1, tuple(shape), plain.dtype, bool(fortran), content)
        super().__setstate__(parts)


def _make_array(*_: object) -> PlainArray:
    """Replace NumPy's `_reconstruct`: return an empty array, whose `__setstate__` is called next."""
    return PlainArray((0,))


def _make_scalar(plain: Any, content: object) -> Any:
    """Replace NumPy's `scalar`."""
    if not isinstance(plain, PlainType) or not isinstance(content, bytes):
        raise UnsupportedPickleError("a scalar without a dtype of numbers or strings")
    if len(content) != plain.dtype.itemsize:
        raise UnsupportedPickleError(f"a number of dtype {plain.code!r} in {len(content)} bytes")
    return np.frombuffer(content, plain.dtype)[0]


def _make_bytes() -> bytes:
    """Replace `bytes`, which pickle calls only for empty ones."""
    return b""


def _make_dict(*_: object) -> dict[Any, Any]:
    """Replace `collections.defaultdict` by a dict, without its factory."""
    return {}


def _plain_types() -> list[Any]:
    """Return the allowed types, or pairs of a replacement and the name that it replaces, as torch takes them."""
    numpy = [("multiarray._reconstruct", _make_array), ("multiarray.scalar", _make_scalar)]
    paths = [("PosixPath", PurePosixPath), ("Path", PurePosixPath), ("WindowsPath", PureWindowsPath)]
    pure = [("PurePosixPath", PurePosixPath), ("PurePath", PurePosixPath), ("PureWindowsPath", PureWindowsPath)]
    return [
        argparse.Namespace,
        types.SimpleNamespace,
        frozenset,
        *((f"type {name}", f"builtins.{name}") for name in _NAMED_TYPES),
        (_make_bytes, "builtins.bytes"),
        (_make_dict, "collections.defaultdict"),
        (PlainType, "numpy.dtype"),
        (PlainArray, "numpy.ndarray"),
        *((replacement, f"numpy.{core}.{name}") for core in ("core", "_core") for name, replacement in numpy),
        *((path, f"{module}.{name}") for module in ("pathlib", "pathlib._local") for name, path in [*paths, *pure]),
    ]


def _name_of(allowed: Any) -> str:
    """Return the name in a pickle of an entry of torch's list of safe globals."""
    return allowed[1] if isinstance(allowed, tuple) else f"{allowed.__module__}.{allowed.__qualname__}"


_LOCK = threading.Lock()


@contextmanager
def plain_data() -> Iterator[None]:
    """Let `torch.load(weights_only=True)` read plain data, besides the process's own safe globals."""
    ours = _plain_types()
    names = {_name_of(kind) for kind in ours}
    with _LOCK:  # the list of safe globals belongs to the process
        before = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals([*(kind for kind in before if _name_of(kind) not in names), *ours])
        try:
            yield
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(before)
