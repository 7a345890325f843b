"""WebDataset tar shards, in folders or named by patterns, with random access to samples."""

import logging
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int
from PIL import Image

from ropevit.data.decoding import open_rgb
from ropevit.data.imagenet import imagenet_classes
from ropevit.data.listing import TEST_FOLDERS
from ropevit.data.remote import fetch, is_remote
from ropevit.data.tar_index import TarIndex, tar_index
from ropevit.text import join_names

log = logging.getLogger(__name__)

#: Split -> words in the names of its shards; the first word with shards is used.
WORDS = {"train": ("train", "training"), "val": TEST_FOLDERS}
#: Maximum number of shards of a pattern.
_MAX_SHARDS = 100_000
#: Shards that are downloaded or indexed at the same time.
DOWNLOADS_AT_ONCE = 8


class ShardSource:
    """Labeled samples of several tar shards, concatenated.

    Classes are named by their index; 1000 classes are assumed to be those of ImageNet.

    Args:
        paths: Local paths of the shards.
        indices: The index of each.
        name: Name of the set and split.
        every_class: Require images of every class, as a training set has.

    Raises:
        ValueError: If a class lacks images and `every_class` is set.
    """

    def __init__(self, paths: list[Path], indices: list[TarIndex], name: str, every_class: bool = False):
        self.paths, self.indices, self.name = paths, indices, name
        self.blocks = tuple(len(index.keys) for index in indices)
        self.starts = np.cumsum((0, *self.blocks))
        numbers = np.unique(np.concatenate([index.labels for index in indices]))
        count = int(numbers[-1]) + 1
        if every_class and len(numbers) < count:
            lacking = next(label for label, found in enumerate(numbers.tolist()) if label != found)
            worst = max(range(len(indices)), key=lambda shard: indices[shard].labels.max())
            where = self.describe(int(self.starts[worst] + indices[worst].labels.argmax()))
            raise ValueError(
                f"labels of {name} go up to {count - 1} ({where}), but class {lacking} has no image; "
                "expected images of every class"
            )
        self.classes = imagenet_classes() if count == 1000 else tuple(map(str, range(count)))

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def labels(self) -> Int[np.ndarray, "N"]:
        """Class of each sample."""
        return np.concatenate([index.labels for index in self.indices])

    def find(self, index: int) -> tuple[Path, TarIndex, int]:
        """Return the shard of a sample, its index, and the position in it."""
        shard = int(np.searchsorted(self.starts, index, side="right")) - 1
        return self.paths[shard], self.indices[shard], index - int(self.starts[shard])

    def raw(self, index: int) -> tuple[bytes, int]:
        """Return the bytes of an image file, and its label."""
        path, found, at = self.find(index)
        size = int(found.sizes[at])
        with path.open("rb") as file:
            file.seek(int(found.offsets[at]))
            content = file.read(size)
        if len(content) < size:
            raise OSError(f"{path} is shorter than when it was indexed")
        return content, int(found.labels[at])

    def read(self, index: int) -> tuple[Image.Image, int]:
        """Return an image as RGB, and its label."""
        content, label = self.raw(index)
        return open_rgb(BytesIO(content)), label

    def describe(self, index: int) -> str:
        """Return the shard and the name of a sample, for messages."""
        path, found, at = self.find(index)
        return f"{path}:{found.keys[at]}"


def open_shards(
    shards: list[str], name: str, every_class: bool = False, progress: Callable[[int, int], None] | None = None
) -> ShardSource:
    """Open shards: download remote ones, and index the samples of all.

    Args:
        shards: Paths or addresses of the shards.
        name: Name of the set and split.
        every_class: See `ShardSource`.
        progress: Called with the number of ready and of all shards.

    Raises:
        ValueError: If a shard cannot be downloaded, is damaged or holds no labeled images.
    """
    paths, indices = [], []
    pool = ThreadPoolExecutor(DOWNLOADS_AT_ONCE)
    try:
        for path, index in pool.map(open_shard, shards):
            paths.append(path)
            indices.append(index)
            if progress:
                progress(len(paths), len(shards))
    finally:
        pool.shutdown(cancel_futures=True)  # after an error, pending shards are not started
    if skipped := [member for index in indices for member in index.left_out]:
        log.warning(
            "skipped %d images of %s, whose names have more than one dot (a key ends at the first): %s",
            len(skipped), name, join_names(skipped, 3),
        )  # fmt: skip
    return ShardSource(paths, indices, name, every_class)


def open_shard(shard: str) -> tuple[Path, TarIndex]:
    """Download a shard if it is remote, and index it.

    Raises:
        ValueError: If the shard cannot be downloaded, is damaged or holds no labeled images.
    """
    path = _local_path(shard)
    try:
        return path, tar_index(path)
    except ValueError as error:
        if not is_remote(shard):
            raise
        path.unlink()  # or the damaged copy would stay in the cache
        raise ValueError(f"{error} (from {shard}; its copy is removed)") from None


def _local_path(shard: str) -> Path:
    """Return the local path of a shard, downloading it if it is remote.

    Raises:
        ValueError: If it does not exist, or cannot be downloaded.
    """
    if is_remote(shard):
        return fetch(shard)
    path = Path(shard).expanduser()
    if not path.is_file():
        raise ValueError(f"no shard at {shard}; check the path")
    return path


def names_shards(data: str) -> bool:
    """Return whether `data` is a pattern of shards rather than a folder."""
    return data.endswith(".tar") or "://" in data or ".tar::" in data


def find_shards(data: str, split: Literal["train", "val"]) -> list[str]:
    """List the shards of a split, by pattern or in a folder; empty if a folder has none.

    Raises:
        ValueError: If a pattern is malformed, or names no shards of the split.
    """
    found = all_shards(data)
    for word in WORDS[split]:
        if word in found:
            return found[word]
    if names_shards(data):
        raise ValueError(
            f"found no {split} shards in {data}; expected {' or '.join(WORDS[split])} in the name of each shard or of "
            "its folder; join patterns with ::"
        )
    return []


def all_shards(data: str) -> dict[str, list[str]]:
    """Group the shards of a pattern or folder by the split word in their names; others are ignored.

    Raises:
        ValueError: If a pattern is malformed.
    """
    if names_shards(data):
        shards = [shard for pattern in data.split("::") for shard in expand(pattern)]
    else:
        path = Path(data).expanduser()
        inside = [file for name in ("train", *TEST_FOLDERS) for file in (path / name).glob("*.tar")]
        shards = [str(file) for file in sorted([*path.glob("*.tar"), *inside])]
    found: dict[str, list[str]] = {}
    for shard in shards:
        if word := _split_of(shard):
            found.setdefault(word, []).append(shard)
    return found


def _split_of(shard: str) -> str | None:
    """Return the split word in the name of a shard, or else of its folder; None if there is none."""
    known = {word for words in WORDS.values() for word in words}
    for part in reversed(re.split(r"[/\\]", shard)[-2:]):
        if found := [word for word in re.findall("[a-z]+", part.lower()) if word in known]:
            return found[-1]
    return None


def expand(pattern: str) -> list[str]:
    """Expand a pattern such as train-{0000..1023}.tar.

    Raises:
        ValueError: If braces hold anything but a range, or there are too many shards.
    """
    parts = re.split(r"\{(\d+)\.\.(\d+)\}", pattern)
    if any(brace in part for part in parts[::3] for brace in "{}"):
        raise ValueError(
            f"got the pattern {pattern}; expected ranges of numbers between braces, such as {{0000..1023}}"
        )
    ranges = [(first, range(int(first), int(last) + 1)) for first, last in zip(parts[1::3], parts[2::3], strict=True)]
    count = np.prod([float(len(numbers)) for _, numbers in ranges])
    if not 0 < count <= _MAX_SHARDS:
        raise ValueError(f"got the pattern {pattern} of {count:.0f} shards; expected 1 to {_MAX_SHARDS}")
    options = [[f"{number:0{len(first)}d}" for number in numbers] for first, numbers in ranges]
    return [
        "".join(text for pair in zip(parts[::3], (*chosen, ""), strict=True) for text in pair)
        for chosen in product(*options)
    ]
