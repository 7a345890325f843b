"""Which images a source holds: their number and digests of names, labels and files, told without decoding any."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ropevit.data.ade import AdeSource
from ropevit.data.coco import CocoSource
from ropevit.data.shards import ShardSource
from ropevit.data.sources import FolderSource, MemorySource

#: Files whose sizes are asked for, and whose ends are read; of larger sets these are spread evenly, as looking at a
#: million files takes minutes.
MOST_SIZES, MOST_READ = 10_000, 1_000
#: Bytes at the end of a file that are read: beginnings are often alike.
END = 4_096

#: What differs -> how it is said; the first that differs is.
CHANGES = {"names": "the images have other names", "labels": "labels changed", "files": "files changed"}


class ContentHashes(NamedTuple):
    """What tells the images of a source from others, as arrays of numbers and bytes."""

    names: Iterable[Any]
    labels: Iterable[Any]
    files: Iterable[Any]


def identify(source: Any) -> dict[str, Any]:
    """Give the number of images of a source and digests of them, which do not depend on where the files lie.

    Args:
        source: Images of a classifier, a detector or a segmenter.

    Raises:
        TypeError: If it is of a kind that is not known here.
    """
    return {"images": len(source)} | {name: digest(parts) for name, parts in hash_content(source)._asdict().items()}


def hash_content(source: Any) -> ContentHashes:
    """Collect what tells the images of a source from others."""
    match source:
        case MemorySource(data=data):
            return ContentHashes(map(str.encode, data.classes), [data.labels.numpy()], [data.images.numpy()])
        case FolderSource():
            return ContentHashes([source.names.ends, source.names.text], [source.labels], hash_files(source))
        case ShardSource(indices=indices):
            names = [part for index in indices for part in (index.keys.ends, index.keys.text)]
            ends = [hash_in_shard(source, index) for index in evenly_spaced(len(source), MOST_READ)]
            return ContentHashes(names, [source.labels], [*(index.sizes for index in indices), *ends])
        case CocoSource():
            facts = [repr(source.images).encode(), repr(source.category_ids).encode()]
            return ContentHashes(facts, [source.first, source.boxes, source.labels], hash_files(source))
        case AdeSource():
            return ContentHashes(
                map(str.encode, source.files), hash_files(source, source.label_file), hash_files(source)
            )
    raise TypeError(f"cannot tell which images a {type(source).__name__} holds; give it a case here")


def hash_files(source: Any, path: Callable[[int], Any] | None = None) -> list[bytes]:
    """Give sizes and ends of the files of images, or of what `path` gives for their numbers."""
    locate = source.describe if path is None else path
    sizes = np.array(
        [file_size(Path(locate(index))) for index in evenly_spaced(len(source), MOST_SIZES)], dtype=np.int64
    )
    return [sizes.tobytes(), *(hash_of_end(Path(locate(index))) for index in evenly_spaced(len(source), MOST_READ))]


def evenly_spaced(count: int, most: int) -> list[int]:
    """Choose numbers below `count`, evenly, no more than `most`."""
    return np.linspace(0, count - 1, min(count, most)).astype(int).tolist()


def file_size(path: Path) -> int:
    """Measure a file in bytes; -1 if it cannot be, which reading it will say."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def hash_of_end(path: Path) -> bytes:
    """Read the end of a file; nothing if it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - END))
            return file.read(END)
    except OSError:
        return b""


def hash_in_shard(source: ShardSource, number: int) -> bytes:
    """Read the end of an image in a shard."""
    path, index, at = source.find(number)
    length = int(index.sizes[at])
    with path.open("rb") as file:
        file.seek(int(index.offsets[at]) + max(0, length - END))
        return file.read(min(END, length))


def digest(parts: Iterable[Any]) -> str:
    """Tell arrays from any others."""
    found = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else np.ascontiguousarray(part).tobytes()
        found.update(len(data).to_bytes(8, "little") + data)
    return found.hexdigest()[:16]


def describe_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say in words how images differ from those that were there before; nothing if they do not.

    Args:
        before: What `identify` gave then.
        now: What it gives now.
    """
    then, count = before.get("images"), now["images"]
    if isinstance(then, int) and then != count:
        change, verb = abs(count - then), "added to" if count > then else "removed from"
        return f"{change} image{' was' if change == 1 else 's were'} {verb} {then}"
    return next((said for name, said in CHANGES.items() if before.get(name) != now[name]), "")
