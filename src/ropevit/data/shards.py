"""Tar shards as WebDataset writes them: found in folders, or named by patterns; any sample can be read by itself."""

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

#: Words in the names of shards that tell what they are for; the first that is found is taken.
WORDS = {"train": ("train", "training"), "val": TEST_FOLDERS}
MOST_SHARDS = 100_000
#: Shards that are fetched or looked through at the same time.
DOWNLOADS_AT_ONCE = 8


class ShardSource:
    """Samples in tar shards, one after the other.

    Classes are the numbers that samples are labelled with; where there are 1000, they are taken for those of ImageNet.

    Args:
        paths: Shards on this machine.
        indices: The index of each.
        name: Name of the set and split.
        every: Refuse labels that leave gaps: a training set has images of every class.

    Raises:
        ValueError: If there are such labels.
    """

    def __init__(self, paths: list[Path], indices: list[TarIndex], name: str, every: bool = False):
        self.paths, self.indices, self.name = paths, indices, name
        self.blocks = tuple(len(index.keys) for index in indices)
        self.starts = np.cumsum((0, *self.blocks))
        numbers = np.unique(np.concatenate([index.labels for index in indices]))
        count = int(numbers[-1]) + 1
        if every and len(numbers) < count:
            lacking = next(label for label, found in enumerate(numbers.tolist()) if label != found)
            worst = max(range(len(indices)), key=lambda shard: indices[shard].labels.max())
            where = self.describe(int(self.starts[worst] + indices[worst].labels.argmax()))
            raise ValueError(
                f"labels of {name} go up to {count - 1} ({where}), but none is {lacking}; "
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
        """Tell which shard a sample is in, and where."""
        shard = int(np.searchsorted(self.starts, index, side="right")) - 1
        return self.paths[shard], self.indices[shard], index - int(self.starts[shard])

    def raw(self, index: int) -> tuple[bytes, int]:
        """Read an image's file as it is, and its label."""
        path, found, at = self.find(index)
        size = int(found.sizes[at])
        with path.open("rb") as file:
            file.seek(int(found.offsets[at]))
            content = file.read(size)
        if len(content) < size:
            raise OSError(f"{path} has become shorter")
        return content, int(found.labels[at])

    def read(self, index: int) -> tuple[Image.Image, int]:
        """Read an image as RGB, and its label."""
        content, label = self.raw(index)
        return open_rgb(BytesIO(content)), label

    def describe(self, index: int) -> str:
        """Give the shard and the sample's name in it."""
        path, found, at = self.find(index)
        return f"{path}:{found.keys[at]}"


def open_shards(
    shards: list[str], name: str, every: bool = False, progress: Callable[[int, int], None] | None = None
) -> ShardSource:
    """Fetch the shards that are not here, and find the samples in all.

    Args:
        shards: Paths and addresses.
        name: Name of the set and split.
        every: See `ShardSource`.
        progress: Called with the number of shards that are ready and that of all.

    Raises:
        ValueError: If a shard cannot be fetched, is damaged or holds no labelled images.
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
        pool.shutdown(cancel_futures=True)  # after an error, what has not begun is not begun
    if left_out := [member for index in indices for member in index.left_out]:
        log.warning(
            "left out %d images of %s, whose names have more than one dot (a key ends at the first): %s",
            len(left_out), name, join_names(left_out, 3),
        )  # fmt: skip
    return ShardSource(paths, indices, name, every)


def open_shard(shard: str) -> tuple[Path, TarIndex]:
    """Bring a shard here, and index it.

    Raises:
        ValueError: As `open_shards`.
    """
    path = local_path(shard)
    try:
        return path, tar_index(path)
    except ValueError as error:
        if not is_remote(shard):
            raise
        path.unlink()  # a damaged copy would stay for ever
        raise ValueError(f"{error} (from {shard}; its copy is removed)") from None


def local_path(shard: str) -> Path:
    """Find a shard on this machine.

    Raises:
        ValueError: If it is not there and cannot be fetched.
    """
    if is_remote(shard):
        return fetch(shard)
    path = Path(shard).expanduser()
    if not path.is_file():
        raise ValueError(f"no shard at {shard}; check the path")
    return path


def names_shards(data: str) -> bool:
    """Tell patterns of shards from folders."""
    return data.endswith(".tar") or "://" in data or ".tar::" in data


def find_shards(data: str, split: Literal["train", "val"]) -> list[str]:
    """List the shards of a split, by pattern or in a folder; none where the folder has no such ones.

    Raises:
        ValueError: If a pattern is none, or names no shards of the split.
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
    """Sort shards by what they are for, by pattern or in a folder; those that do not say are left out.

    Raises:
        ValueError: If a pattern is none.
    """
    if names_shards(data):
        shards = [shard for pattern in data.split("::") for shard in expand(pattern)]
    else:
        path = Path(data).expanduser()
        inside = [file for name in ("train", *TEST_FOLDERS) for file in (path / name).glob("*.tar")]
        shards = [str(file) for file in sorted([*path.glob("*.tar"), *inside])]
    found: dict[str, list[str]] = {}
    for shard in shards:
        if word := split_of(shard):
            found.setdefault(word, []).append(shard)
    return found


def split_of(shard: str) -> str | None:
    """Find the word that tells what a shard is for, in its name, or else in that of its folder."""
    known = {word for words in WORDS.values() for word in words}
    for part in reversed(re.split(r"[/\\]", shard)[-2:]):
        if found := [word for word in re.findall("[a-z]+", part.lower()) if word in known]:
            return found[-1]
    return None


def expand(pattern: str) -> list[str]:
    """Write a pattern such as train-{0000..1023}.tar out.

    Raises:
        ValueError: If there is something else between braces, or far too many shards.
    """
    parts = re.split(r"\{(\d+)\.\.(\d+)\}", pattern)
    if any(brace in part for part in parts[::3] for brace in "{}"):
        raise ValueError(
            f"got the pattern {pattern}; expected ranges of numbers between braces, such as {{0000..1023}}"
        )
    ranges = [(first, range(int(first), int(last) + 1)) for first, last in zip(parts[1::3], parts[2::3], strict=True)]
    count = np.prod([float(len(numbers)) for _, numbers in ranges])
    if not 0 < count <= MOST_SHARDS:
        raise ValueError(f"got the pattern {pattern} of {count:.0f} shards; expected 1 to {MOST_SHARDS}")
    options = [[f"{number:0{len(first)}d}" for number in numbers] for first, numbers in ranges]
    return [
        "".join(text for pair in zip(parts[::3], (*chosen, ""), strict=True) for text in pair)
        for chosen in product(*options)
    ]
