"""Plain data beside weights, as training scripts keep it: what stands for it in a pickle, so that no code runs.

NumPy's own functions trust a pickle (a type says by itself how its memory is laid out), so none of them is called: a
scalar or an array is put together here, of numbers and texts alone, and only if it has the bytes that it should have.
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

#: Letters and bytes of the types that arrays may have: truth values, numbers, texts.
_PLAIN_TYPE = re.compile(r"b1|[iu][1248]|f[248]|c(8|16)|[SU]\d{1,6}")

#: Types that a pickle may name (as the factory of a defaultdict, say), but not call.
_NAMED_TYPES = ("bool", "int", "float", "str", "list", "dict", "tuple")


class UnsupportedPickleError(ValueError):
    """A pickle holds an array or a scalar that is not plain, or whose parts do not fit each other."""


class PlainType:
    """Stands for `numpy.dtype`."""

    def __init__(self, code: Any, *_: object):
        if not isinstance(code, str) or not _PLAIN_TYPE.fullmatch(code):
            raise UnsupportedPickleError(f"an array or scalar of type {code!r}; expected numbers or texts")
        self.code, self.order = code, "="

    def __setstate__(self, state: Any) -> None:
        """Take the byte order; everything else follows from the code."""
        if state[1] not in ("<", ">", "|", "="):
            raise UnsupportedPickleError(f"an array with the byte order {state[1]!r}")
        self.order = state[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy's type."""
        order: Any = self.order
        return np.dtype(self.code).newbyteorder(order)


class PlainArray(np.ndarray):
    """Stands for `numpy.ndarray`."""

    def __setstate__(self, state: Any) -> None:
        """Take shape, type and bytes, if they fit each other."""
        _, shape, kind, fortran, content = state
        if not isinstance(kind, PlainType) or not isinstance(content, bytes):
            raise UnsupportedPickleError("an array without a plain type")
        if min(shape, default=0) < 0 or math.prod(shape) * kind.dtype.itemsize != len(content):
            raise UnsupportedPickleError(f"an array of shape {shape} in {len(content)} bytes")
        parts: Any = (1, tuple(shape), kind.dtype, bool(fortran), content)
        super().__setstate__(parts)


def _make_array(*_: object) -> PlainArray:
    """Stand for NumPy's `_reconstruct`: an empty array, which gets its values next."""
    return PlainArray((0,))


def _make_scalar(kind: Any, content: Any) -> Any:
    """Stand for NumPy's `scalar`."""
    if not isinstance(kind, PlainType) or not isinstance(content, bytes):
        raise UnsupportedPickleError("a scalar without a plain type")
    if len(content) != kind.dtype.itemsize:
        raise UnsupportedPickleError(f"a number of type {kind.code!r} in {len(content)} bytes")
    return np.frombuffer(content, kind.dtype)[0]


def _make_bytes() -> bytes:
    """Stand for `bytes`, which is called for empty ones alone."""
    return b""


def _make_dict(*_: object) -> dict[Any, Any]:
    """Stand for `collections.defaultdict`, which comes back as a dict: its factory is not kept."""
    return {}


def _plain_types() -> list[Any]:
    """List what stands for which name in a pickle."""
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
        *((stand_in, f"numpy.{core}.{name}") for core in ("core", "_core") for name, stand_in in numpy),
        *((kind, f"{module}.{name}") for module in ("pathlib", "pathlib._local") for name, kind in [*paths, *pure]),
    ]


def _name_of(allowed: Any) -> str:
    """Give the name by which a pickle asks for what torch was told to allow."""
    return allowed[1] if isinstance(allowed, tuple) else f"{allowed.__module__}.{allowed.__qualname__}"


_LOCK = threading.Lock()


@contextmanager
def plain_data() -> Iterator[None]:
    """Let `torch.load(weights_only=True)` read plain data, and what the caller has allowed for the whole process."""
    ours = _plain_types()
    names = {_name_of(kind) for kind in ours}
    with _LOCK:  # the list is one for the whole process
        before = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals([*(kind for kind in before if _name_of(kind) not in names), *ours])
        try:
            yield
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(before)
