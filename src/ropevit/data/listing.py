"""Which files there are: fast listings of folders with a million images, held in little memory."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ropevit.data.images import SUFFIXES

#: Names of the folder of test images, beside `train`.
TEST_FOLDERS = ("val", "test", "validation", "valid")


def subfolders(path: Path) -> list[Path]:
    """List the visible folders inside a folder, by name; none where it does not exist."""
    if not path.is_dir():
        return []
    return sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))


def class_files(root: Path) -> dict[str, list[str]]:
    """List the image files of each class, at any depth inside its folder, as paths relative to that.

    Raises:
        ValueError: If there are not two classes, or one has no images.
    """
    folders = subfolders(root)
    if len(folders) < 2:
        found = f"the only class {folders[0].name}" if folders else "no folders of classes"
        raise ValueError(f"found {found} in {root}; expected at least two folders, each with the images of one class")
    with ThreadPoolExecutor() as pool:
        files = dict(zip((folder.name for folder in folders), pool.map(image_names, folders), strict=True))
    empty = [name for name, paths in files.items() if not paths]
    if empty:
        kinds = ", ".join(sorted(SUFFIXES))
        raise ValueError(f"found no images of {listed(empty)} in {root}; expected files ending in {kinds}")
    return files


class ImageFile(NamedTuple):
    """An image file, and what it is called in what is written about it."""

    path: Path
    name: str
    """Its place inside the folder that was given, with slashes; of a file that was given, its own name."""


def find_images(places: Sequence[Path]) -> list[ImageFile]:
    """List the image files that are given, and those at any depth in the folders that are given, in that order.

    Raises:
        ValueError: If there is nothing at a place, or no image in a folder.
    """
    if missing := [str(place) for place in places if not place.exists()]:
        raise ValueError(f"no image file or folder at {listed(missing)}; check the path")
    files = []
    for place in places:
        names = image_names(place) if place.is_dir() else None
        if names == []:
            kinds = ", ".join(sorted(SUFFIXES))
            raise ValueError(f"found no images in {place}; expected files ending in {kinds}, at any depth")
        if names is None:
            files.append(ImageFile(place, place.name))
        else:
            files += [ImageFile(place / name, Path(name).as_posix()) for name in names]
    return files


def image_names(folder: Path) -> list[str]:
    """List the image files at any depth inside a folder, in the order of their paths.

    What systems hide beside files is left out, and folders behind links are not entered.

    Returns:
        Paths relative to the folder.
    """
    return sorted(walk(str(folder), ""), key=lambda name: name.split(os.sep))  # noqa: PTH206


def walk(folder: str, inside: str) -> Iterator[str]:
    """Go through a folder and those inside it."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from walk(entry.path, f"{inside}{entry.name}{os.sep}")
            elif is_image_name(entry.name) and entry.is_file():
                yield inside + entry.name


def is_image_name(name: str) -> bool:
    """Tell by its name whether a file is taken for an image."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122 (Path is slow)


class Names(Sequence[str]):
    """Many strings in two arrays: a fifth of the memory of a list, and quick to send to other processes.

    Args:
        ends: Where each string ends in the text, in bytes.
        text: All of them, joined.
    """

    def __init__(self, ends: np.ndarray, text: np.ndarray):
        self.ends, self.text = ends, text

    @classmethod
    def of(cls, names: Iterable[str]) -> "Names":
        """Pack strings."""
        encoded = [os.fsencode(name) for name in names]
        ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        return cls(ends, np.frombuffer(b"".join(encoded), dtype=np.uint8))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index):
        start = int(self.ends[index - 1]) if index else 0
        return os.fsdecode(self.text[start : int(self.ends[index])].tobytes())


def listed(names: Sequence[str], most: int = 5) -> str:
    """Name a few things in a sentence."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
