"""Fingerprint of a data set: number of images, and digests of names, labels and files, without decoding."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ropevit.data.ade import AdeSource
from ropevit.data.coco import CocoSource
from ropevit.data.shards import ShardSource
from ropevit.data.sources import FolderSource, MemorySource

#: Maximum number of files whose sizes are read, and whose ends are read; in larger sets they are spaced evenly, as
#: a million files would take minutes.
MAX_SIZES, MAX_READ = 10_000, 1_000
#: Bytes hashed at the end of a file: beginnings are often equal.
_END = 4_096

#: Field of `ContentParts` -> message if it differs; the first difference is reported.
_CHANGES = {"names": "the images have other names", "labels": "labels changed", "files": "files changed"}


class ContentParts(NamedTuple):
    """Content of a source to hash, as arrays of numbers and bytes."""

    names: Iterable[Any]
    labels: Iterable[Any]
    files: Iterable[Any]


def identify(source: Any) -> dict[str, Any]:
    """Return the number of images of a source and digests of them, independent of the location of the files.

    Args:
        source: Images of a classifier, a detector or a segmenter.

    Raises:
        TypeError: If the type of the source is not known here.
    """
    return {"images": len(source)} | {name: digest(parts) for name, parts in _content_parts(source)._asdict().items()}


def _content_parts(source: Any) -> ContentParts:
    """Collect the content of a source to hash."""
    match source:
        case MemorySource(data=data):
            return ContentParts(map(str.encode, data.classes), [data.labels.numpy()], [data.images.numpy()])
        case FolderSource():
            return ContentParts([source.names.ends, source.names.text], [source.labels], file_parts(source))
        case ShardSource(indices=indices):
            names = [part for index in indices for part in (index.keys.ends, index.keys.text)]
            ends = [_read_end_in_shard(source, index) for index in evenly_spaced(len(source), MAX_READ)]
            return ContentParts(names, [source.labels], [*(index.sizes for index in indices), *ends])
        case CocoSource():
            facts = [repr(source.images).encode(), repr(source.category_ids).encode()]
            return ContentParts(facts, [source.box_starts, source.boxes, source.labels], file_parts(source))
        case AdeSource():
            return ContentParts(
                map(str.encode, source.files), file_parts(source, source.label_file), file_parts(source)
            )
    raise TypeError(f"cannot fingerprint a {type(source).__name__}; add a case for it in data/identity.py")


def file_parts(source: Any, path: Callable[[int], Any] | None = None) -> list[bytes]:
    """Return sizes and last bytes of the image files, or of the files that `path` returns for their indices."""
    locate = source.describe if path is None else path
    sizes = np.array(
        [_file_size(Path(locate(index))) for index in evenly_spaced(len(source), MAX_SIZES)], dtype=np.int64
    )
    return [sizes.tobytes(), *(_read_end(Path(locate(index))) for index in evenly_spaced(len(source), MAX_READ))]


def evenly_spaced(count: int, most: int) -> list[int]:
    """Choose at most `most` evenly spaced numbers below `count`."""
    return np.linspace(0, count - 1, min(count, most)).astype(int).tolist()


def _file_size(path: Path) -> int:
    """Return the size of a file in bytes; -1 if it is not accessible, which reading it will report."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _read_end(path: Path) -> bytes:
    """Return the last bytes of a file; none if it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _END))
            return file.read(_END)
    except OSError:
        return b""


def _read_end_in_shard(source: ShardSource, number: int) -> bytes:
    """Return the last bytes of an image in a shard."""
    path, index, at = source.find(number)
    length = int(index.sizes[at])
    with path.open("rb") as file:
        file.seek(int(index.offsets[at]) + max(0, length - _END))
        return file.read(min(_END, length))


def digest(parts: Iterable[Any]) -> str:
    """Hash arrays and bytes to 16 hexadecimal digits."""
    found = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else np.ascontiguousarray(part).tobytes()
        found.update(len(data).to_bytes(8, "little") + data)
    return found.hexdigest()[:16]


def describe_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Describe how a data set changed, in words; empty if it did not.

    Args:
        before: Earlier result of `identify`.
        now: Current result of `identify`.
    """
    then, count = before.get("images"), now["images"]
    if isinstance(then, int) and then != count:
        change, verb = abs(count - then), "added to" if count > then else "removed from"
        return f"{change} image{' was' if change == 1 else 's were'} {verb} {then}"
    return next((message for name, message in _CHANGES.items() if before.get(name) != now[name]), "")
