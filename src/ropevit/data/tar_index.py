"""Index of the samples in a tar shard, for random access; cached."""

import hashlib
import logging
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from ropevit.cache import cache_folder
from ropevit.data.formats import OPTIONAL, SUFFIXES
from ropevit.data.listing import Names
from ropevit.files import parse_json, write_atomically
from ropevit.text import join_names

log = logging.getLogger(__name__)

IMAGES = ("jpg", "jpeg", "png", "webp")
#: Larger labels are refused.
_MOST_CLASSES = 100_000
#: Maximum size of a label file in bytes.
LONGEST_LABEL = 1 << 24
#: Version of the cached index.
VERSION = 2
BLOCK = 512


@dataclass(frozen=True)
class TarIndex:
    """Samples of a shard, in the order of the tar."""

    keys: Names
    """Path of each sample in the tar up to the first dot of its name, with the image's suffix."""
    offsets: Int[np.ndarray, "n"]
    """Offsets of the images in bytes."""
    sizes: Int[np.ndarray, "n"]
    """Sizes of the images in bytes."""
    labels: Int[np.ndarray, "n"]
    """Class index of each sample."""
    left_out: Names
    """Skipped images, which belong to no sample: their names have another dot before the suffix."""

    def __post_init__(self) -> None:
        arrays = self.offsets, self.sizes, self.labels
        lengths = {len(self.keys), *map(len, arrays)}
        names = all(names.ends[-1:].sum() == len(names.text) for names in (self.keys, self.left_out))
        if len(lengths) != 1 or not names or min(array.min() for array in arrays) < 0:
            raise ValueError("its arrays have inconsistent lengths")


def tar_index(path: Path) -> TarIndex:
    """Index the samples of a shard, using the cached index if the file has not changed.

    A sample is KEY.jpg (.jpeg, .png, .webp) with KEY.cls, which holds the number of its class, or KEY.json with a
    "label"; other members are ignored. This is the layout of WebDataset.

    Images with more than one dot in their names are listed in `left_out`, unless another image has their key.

    Raises:
        ValueError: If the tar is damaged or compressed, an image has no label, or a label no image.
    """
    status = path.stat()
    facts = f"{VERSION}/{path.resolve()}/{status.st_size}/{status.st_mtime_ns}"
    cached = cache_folder() / "shards" / f"{hashlib.sha256(facts.encode()).hexdigest()[:32]}.npz"
    try:
        found = _load_index(cached)
        if (found.offsets + found.sizes).max() <= status.st_size:
            return found
        log.warning("indexing %s again: the cached index does not fit the file", path)
    except FileNotFoundError:
        pass
    except Exception as error:  # zipfile and numpy raise any type of error on a damaged file
        log.warning("indexing %s again: the cached index is unreadable (%s)", path, error)
    index = scan_tar(path)
    try:
        write_atomically(cached, lambda file: np.savez(file, **_to_arrays(index)))
    except ValueError as error:
        log.warning("cannot cache the index of a shard: %s", error)
    return index


def _to_arrays(index: TarIndex) -> dict[str, Any]:
    """Return the arrays of an index, to be saved."""
    arrays = {name: getattr(index, name) for name in ("offsets", "sizes", "labels")}
    names = {"keys": index.keys, "left_out": index.left_out}
    return arrays | {f"{name}_{part}": getattr(names[name], part) for name in names for part in ("ends", "text")}


def _load_index(path: Path) -> TarIndex:
    """Load a cached index; raises any type of error if it is damaged."""
    with path.open("rb") as file, np.load(file) as found:
        names = {name: Names(found[f"{name}_ends"], found[f"{name}_text"]) for name in ("keys", "left_out")}
        return TarIndex(**names, **{name: found[name] for name in ("offsets", "sizes", "labels")})


@dataclass
class Members:
    """Members of a shard found so far, by key."""

    images: dict[str, tuple[int, int, str]] = field(default_factory=dict)
    """Key -> offset, size and suffix of the image."""
    labels: dict[str, int] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)
    """Name of an image with another dot before its suffix -> its key."""


def scan_tar(path: Path) -> TarIndex:
    """Build the index: read the headers of all members, and the labels.

    Raises:
        ValueError: If the tar is damaged, or its samples are incomplete; see `tar_index`.
    """
    found = Members()
    for tar, member in _iterate_members(path):
        _add_member(path, tar, member, found)
    images, labels = found.images, found.labels
    if unpaired := sorted(images.keys() ^ labels.keys()):
        missing, kinds = (
            ("label", ".cls, .json") if unpaired[0] in images else ("image", ", ".join(f".{s}" for s in IMAGES))
        )
        raise ValueError(f"{path}: found no {missing} ({kinds}) for {join_names(unpaired, 3)}; every sample needs both")
    if not images:
        dots = f" (with more than one dot in their names: {join_names(list(found.others), 3)})" if found.others else ""
        raise ValueError(f"{path} holds no images{dots}; expected members KEY.jpg and KEY.cls")
    offsets, sizes, suffixes = zip(*images.values(), strict=True)
    keys = Names.of(f"{key}.{suffix}" for key, suffix in zip(images, suffixes, strict=True))
    return TarIndex(
        keys=keys,
        offsets=np.array(offsets),
        sizes=np.array(sizes),
        labels=np.array([labels[key] for key in images]),
        left_out=Names.of(name for name, key in found.others.items() if key not in images),
    )


def _iterate_members(path: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Iterate over the regular files of a tar.

    Raises:
        ValueError: If the tar is damaged.
    """
    with one_line_errors(path):
        tar = tarfile.open(path, "r:")  # noqa: SIM115 (closed below)
    with tar:
        while True:
            with one_line_errors(path):
                member = tar.next()
            if member is None:
                break
            if member.isfile():
                yield tar, member
        _check_end(path, tar)


@contextmanager
def one_line_errors(path: Path) -> Iterator[None]:
    """Convert the various exceptions of tarfile on a damaged tar to one.

    Raises:
        ValueError: If reading failed; names the file.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise ValueError(
            f"{path} is damaged or not an uncompressed tar ({error}); download or create it again"
        ) from None


def _add_member(path: Path, tar: tarfile.TarFile, member: tarfile.TarInfo, found: Members) -> None:
    """Add a member to `found` if it is an image or a label.

    Raises:
        ValueError: If a sample has two images, its label is invalid, or the member is sparse.
    """
    parts = re.fullmatch(r"((?:.*/)?[^./]+)\.([^/]*)", member.name)
    if not parts:
        return
    key, suffix = parts[1], parts[2]
    kind = suffix.lower()
    label = kind in ("cls", "json")
    if (label or kind in IMAGES) and (member.issparse() or (label and member.size > LONGEST_LABEL)):
        what = "a sparse file" if member.issparse() else f"a label of {member.size} bytes"
        raise ValueError(f"{path}: {member.name} is {what}, which is not supported; create the shard again without it")
    if kind in IMAGES:
        if key in found.images:
            raise ValueError(f"{path}: found two images of {key}; expected one per key (the name up to the first dot)")
        found.images[key] = member.offset_data, member.size, suffix
    elif label:
        with one_line_errors(path):
            file = tar.extractfile(member)
            content = file.read() if file else b""
        number = _parse_label(kind, content, f"{path}: {member.name}")
        if number is not None and (kind == "cls" or key not in found.labels):
            found.labels[key] = number
    elif f".{kind.rpartition('.')[2]}" in SUFFIXES | OPTIONAL.keys():
        found.others[member.name] = key


def _parse_label(kind: str, content: bytes, where: str) -> int | None:
    """Parse a label file; None for a .json without a label.

    Raises:
        ValueError: If the label is not a whole number from 0 to 99,999.
    """
    try:
        value = int(content) if kind == "cls" else parse_json(content, where)
    except ValueError:
        value = content[:20]
    if kind == "json" and not isinstance(value, bytes):
        if not isinstance(value, dict) or "label" not in value:
            return None
        value = value["label"]
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _MOST_CLASSES:
        raise ValueError(f"{where} has the label {value!r}; expected a whole number from 0, below {_MOST_CLASSES}")
    return value


def _check_end(path: Path, tar: tarfile.TarFile) -> None:
    """Check that a tar ends with an end-of-archive block: tarfile stops silently at a damaged header.

    Raises:
        ValueError: If it does not.
    """
    with path.open("rb") as file:
        file.seek(tar.offset)
        block = file.read(BLOCK)
    if block.strip(b"\0"):
        raise ValueError(f"{path} is damaged at byte {tar.offset}; download or create it again")
