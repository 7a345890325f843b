"""Listings of image files: fast and compact, for folders with millions of images."""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ropevit.data.formats import install_advice, readable_suffixes
from ropevit.text import join_names

log = logging.getLogger(__name__)

#: Folders created by operating systems: macOS archives, Synology thumbnails, Windows recycle bin.
_SYSTEM_FOLDERS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information"})
#: Keys in the counts of other files: files without a suffix, hidden files, and links, which are not followed.
NO_SUFFIX, HIDDEN, LINK = "without suffix", "hidden", "link"

#: Files by which a results folder is recognized.
RESULTS = ("metrics.jsonl", "eval.json", "results.json", "report.html")

#: Names of the folder of test images, beside `train`.
TEST_FOLDERS = ("val", "test", "validation", "valid")


class ImageListing(NamedTuple):
    """Files in a folder, listed recursively."""

    names: list[str]
    """Image files as relative paths, sorted."""
    others: Counter[str]
    """Number of other files by suffix, of hidden files and folders, and of links that are not followed."""


def subfolders(path: Path) -> list[Path]:
    """Return the visible subfolders of a folder, sorted by name; empty if it does not exist."""
    if not path.is_dir():
        return []
    return sorted(child for child in path.iterdir() if child.is_dir() and not _is_hidden(child.name))


def refuse_results(path: Path) -> None:
    """Refuse a folder with results of trainings, studies or evaluations, whose images are plots.

    Raises:
        ValueError: If it is such a folder, or has one directly inside.
    """
    for folder in (path, *subfolders(path)):
        if found := next((folder / name for name in RESULTS if (folder / name).is_file()), None):
            raise ValueError(f"{path} holds results, not data: found {found}; expected a folder of images")


def class_files(root: Path) -> dict[str, list[str]]:
    """Return the image files of each class folder, listed recursively, relative to it.

    Images that no installed decoder can read are skipped with a warning.

    Raises:
        ValueError: If there are not two classes, one has no images, or the folder holds results.
    """
    refuse_results(root)
    folders = subfolders(root)
    if len(folders) < 2:
        found = f"the only class {folders[0].name}" if folders else "no folders of classes"
        raise ValueError(f"found {found} in {root}; expected at least two folders, each with the images of one class")
    with ThreadPoolExecutor() as pool:
        found = dict(zip((folder.name for folder in folders), pool.map(list_images, folders), strict=True))
    others = sum((each.others for each in found.values()), Counter[str]())
    empty = [name for name, each in found.items() if not each.names]
    if empty:
        raise ValueError(f"found no images of {join_names(empty)} in {root}; {_expected_files(others)}")
    warn_undecodable(root, others)
    return {name: each.names for name, each in found.items()}


def undecodable(others: Counter[str]) -> str | None:
    """Describe the images without an installed decoder, and what to install; None if there are none.

    Args:
        others: Number of files by suffix, from `ImageListing`.
    """
    lacking = {suffix: needed for suffix in sorted(others) if (needed := install_advice(suffix))}
    return ", ".join(f"{others[suffix]} {suffix} ({needed})" for suffix, needed in lacking.items()) or None


def warn_undecodable(folder: Path, others: Counter[str]) -> None:
    """Log one warning about images that are skipped because no decoder is installed."""
    if lacking := undecodable(others):
        log.warning("skipped in %s, as no decoder is installed: %s", folder, lacking)


def _expected_files(others: Counter[str]) -> str:
    """Return the end of an error about missing images: what was found or expected."""
    if lacking := undecodable(others):
        return f"found files that no installed decoder reads: {lacking}"
    return f"expected files ending in {', '.join(sorted(readable_suffixes()))}"


class ImageFile(NamedTuple):
    """An image file, and its name in results."""

    path: Path
    name: str
    """Path relative to the given folder, with slashes; the file name if the file itself was given."""


def find_images(paths: Sequence[Path]) -> list[ImageFile]:
    """List the given image files, and those in the given folders recursively, in this order.

    Raises:
        ValueError: If a path does not exist, or a folder has no images.
    """
    if missing := [str(path) for path in paths if not path.exists()]:
        raise ValueError(f"no image file or folder at {join_names(missing)}; check the path")
    files = []
    for path in paths:
        if not path.is_dir():
            files.append(ImageFile(path, path.name))
            continue
        names, others = list_images(path)
        if not names:
            raise ValueError(f"found no images in {path}; {_expected_files(others)}, at any depth")
        warn_undecodable(path, others)
        files += [ImageFile(path / name, Path(name).as_posix()) for name in names]
    return files


def image_names(folder: Path) -> list[str]:
    """Return the image files in a folder recursively; see `list_images`."""
    return list_images(folder).names


def list_images(folder: Path) -> ImageListing:
    """List the image files in a folder recursively, and count the other files.

    Hidden files and folders are skipped, and links to folders are not followed.
    """
    others: Counter[str] = Counter()
    names = sorted(walk(str(folder), "", readable_suffixes(), others), key=lambda name: name.split(os.sep))  # noqa: PTH206
    return ImageListing(names, others)


def walk(folder: str, inside: str, suffixes: frozenset[str], others: Counter[str]) -> Iterator[str]:
    """Yield the image files of a folder recursively; count the other files in `others`."""
    with os.scandir(folder) as entries:
        for entry in entries:
            suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 (Path is slow)
            if _is_hidden(entry.name):
                others[HIDDEN] += 1
            elif entry.is_dir(follow_symlinks=False):
                yield from walk(entry.path, f"{inside}{entry.name}{os.sep}", suffixes, others)
            elif not entry.is_file():
                others[LINK] += 1
            elif suffix in suffixes:
                yield inside + entry.name
            else:
                others[suffix or NO_SUFFIX] += 1


def count_loose_files(folder: Path) -> Counter[str]:
    """Count the files beside class folders, except tar shards."""
    others = (child for child in folder.iterdir() if not child.is_dir() and child.suffix != ".tar")
    return Counter(HIDDEN if _is_hidden(child.name) else child.suffix.lower() or NO_SUFFIX for child in others)


def _is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden by convention of an operating system."""
    return name.startswith(".") or name in _SYSTEM_FOLDERS


class Names(Sequence[str]):
    """A sequence of strings in two arrays: a fifth of the memory of a list, and fast to pickle.

    Args:
        ends: End of each string in the text, in bytes.
        text: All strings, joined.
    """

    def __init__(self, ends: np.ndarray, text: np.ndarray):
        self.ends, self.text = ends, text

    @classmethod
    def of(cls, names: Iterable[str]) -> "Names":
        """Pack strings into arrays."""
        encoded = [os.fsencode(name) for name in names]
        ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        return cls(ends, np.frombuffer(b"".join(encoded), dtype=np.uint8))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index):
        start = int(self.ends[index - 1]) if index else 0
        return os.fsdecode(self.text[start : int(self.ends[index])].tobytes())
