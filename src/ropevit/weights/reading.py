"""Reads checkpoint files without running code in them."""

import os
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from ropevit.models.registry import PUBLISHED
from ropevit.weights.archive import archive_damage
from ropevit.weights.digest import KEY, content_digest
from ropevit.weights.errors import WeightsError, first_line
from ropevit.weights.hub import ANY_FILES, fetch, hub_id
from ropevit.weights.plain import UnsupportedPickleError, plain_data
from ropevit.weights.sharded import find_index, read_sharded

Source = str | os.PathLike[str] | Mapping[str, Any]

#: Source of a state dict in messages, since it has no name.
GIVEN = "the given state dict"

#: A string with such a suffix is a path, even if there is no such file.
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
#: Owner and name of a repository on the hub.
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class Checkpoint:
    """The raw content of a checkpoint, before it is parsed."""

    source: str
    """Name in messages: a path, a hub id, or "the given state dict"."""
    entries: Mapping[str, Any]
    """Tensors by name, or nested dicts that hold them."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Header of a safetensors file."""


def read_checkpoint(source: Source, revision: str | None = None) -> Checkpoint:
    """Read a checkpoint into CPU memory, after verifying its checksums, if its format has any.

    A string is a path if the path exists or has the suffix of a checkpoint (.safetensors .pth .pt .bin .ckpt).
    Otherwise, a published model name or `owner/name` is looked up on the hub, and anything else is a path. A folder
    means the only checkpoint in it, as `save_pretrained` saves it. With an index, it is a sharded checkpoint, as
    transformers saves it, and so is the index.

    Args:
        source: Path, hub id, published model name, or a state dict.
        revision: Branch, tag or commit on the hub.

    Raises:
        WeightsError: If it cannot be found or read, or contains objects that only running its code could rebuild.
    """
    if isinstance(source, Mapping):
        return Checkpoint(GIVEN, source)
    if not isinstance(source, str | os.PathLike):
        raise WeightsError(f"got {type(source).__name__}; expected a path, a hub id or a state dict")
    repo = named_repository(source)
    if repo is None and revision is not None:
        raise WeightsError(f"got revision={revision!r} for the file {os.fspath(source)}; only hub ids have revisions")
    path = fetch(repo, revision) if repo else only_file(Path(source).expanduser())
    index = find_index(path)
    entries, metadata = read_file(path) if index is None else (read_sharded(index, read_file), {})
    if not isinstance(entries, Mapping):
        raise WeightsError(f"{path} holds {type(entries).__name__}; expected a dict of tensors: save a state dict")
    return Checkpoint(repo or str(path), entries, metadata)


def named_repository(source: str | os.PathLike[str]) -> str | None:
    """Return the hub id that a source denotes; None if it is a path."""
    if not isinstance(source, str) or source.endswith(SUFFIXES) or Path(source).expanduser().exists():
        return None
    if source in PUBLISHED:
        return hub_id(source)
    return source if HUB_ID.fullmatch(source) else None


def only_file(path: Path) -> Path:
    """Return the only checkpoint in a folder, if it is named as on the hub; other paths are returned as they are."""
    held = [file for file in path.iterdir() if file.suffix in SUFFIXES] if path.is_dir() else []
    return held[0] if len(held) == 1 and held[0].name in ANY_FILES else path


def check_exists(path: Path) -> None:
    """Raise WeightsError for a path that does not exist.

    Raises:
        WeightsError: With the path.
    """
    if not path.exists():
        raise WeightsError(f"no file {str(path)!r}; check the path, or give a hub id such as 'owner/name'")


def read_file(path: Path) -> tuple[Any, dict[str, str]]:
    """Read a file in the format that its first bytes show, or as safetensors if it has that suffix."""
    check_exists(path)
    if path.is_dir():
        raise WeightsError(f"{path} is a directory; give a checkpoint file in it (or an index of several)")
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise WeightsError(f"cannot open {path}: {error.strerror}; check its permissions") from error
    if not head:
        raise WeightsError(f"{path} is empty; download or save it again")
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{path} is a git-lfs pointer, not the weights; run `git lfs pull`, or download the file")
    if head[8:9] == b"{" or path.suffix == ".safetensors":
        return _read_safetensors(path)
    if head.startswith(b"PK\x03\x04"):
        return _read_pickle(path, zipped=True), {}
    if head.startswith(b"\x80"):
        return _read_pickle(path, zipped=False), {}
    start = head[:24].decode("ascii", "replace").split("\n")[0]
    raise WeightsError(f"{path} is not a checkpoint (it starts with {start!r}); expected safetensors or a PyTorch file")


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read tensors and header of a safetensors file, and verify the digest that ropevit files have."""
    try:
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except Exception as error:  # a damaged header can raise anything
        raise WeightsError(
            f"{path} is a damaged or truncated safetensors file ({first_line(error)}); download or save it again"
        ) from error
    if KEY in header and header[KEY] != content_digest(tensors, header):
        raise WeightsError(
            f"{path} does not match the digest in its header: it was damaged, or changed after it was saved; download "
            "or save it again"
        )
    return tensors, header


def _read_pickle(path: Path, zipped: bool) -> Any:
    """Read a file of `torch.save` with `weights_only=True`, so that no code in it can run.

    The checksums of a zip archive are verified first. Plain data besides tensors (options of a training script, NumPy
    scalars and arrays, paths) is allowed; see `ropevit.weights.plain`.
    """
    if zipped and (problem := archive_damage(path)):
        raise WeightsError(f"{path} is damaged or truncated ({problem}); download or save it again")
    return load_pickle(path)


def load_pickle(path: Path) -> Any:
    """Read a file of `torch.save` whose checksums have been verified, or that has none."""
    try:
        with plain_data(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True)  # mmap=True would not check lengths
    except UnsupportedPickleError as error:
        raise WeightsError(f"{path} holds {error}; save it again without it") from error
    except Exception as error:  # a damaged pickle can raise anything
        named = re.search(r"GLOBAL (\S+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and named:
            raise WeightsError(
                f"{path} contains {named[1].rstrip('.')}, which weights never need and which could run code: it was "
                "not loaded, and nothing was run; ask its author for the state dict alone"
            ) from error
        raise WeightsError(f"{path} is damaged or not saved by torch.save; download or save it again") from error
