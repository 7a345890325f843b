"""Validation split of class folders without one: a fifth of each class, always the same."""

import hashlib
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path

import torch

from ropevit.data.rng import make_generator

#: Fraction of each class that is held out.
VAL_FRACTION = 0.2


def held_out(contents: Sequence[Hashable], label: int) -> list[bool]:
    """Choose the images of a class to hold out; duplicates stay in the same split.

    The choice depends only on the number of images and on which are duplicates.

    Args:
        contents: Content of each image, in the order of the files; equal for duplicates.
        label: Index of the class.

    Returns:
        Whether each image is held out: at least one; all of them only if all are duplicates.
    """
    wanted = max(1, round(VAL_FRACTION * len(contents)))
    ranks = torch.randperm(len(contents), generator=make_generator("folder", "split", label)).tolist()
    copies: dict[Hashable, list[int]] = {}
    for _, index in sorted(zip(ranks, range(len(contents)), strict=True)):
        copies.setdefault(contents[index], []).append(index)
    chosen: set[int] = set()
    for indices in copies.values():
        if len(chosen) + len(indices) <= wanted:
            chosen.update(indices)
    chosen = chosen or set(min(copies.values(), key=len))
    return [index in chosen for index in range(len(contents))]


def _file_contents(files: Sequence[Path]) -> list[Hashable]:
    """Return a value per file that is equal for duplicates; only files of equal size are read."""
    sizes = [file.stat().st_size for file in files]
    shared = Counter(sizes)
    return [
        (size, hashlib.sha256(file.read_bytes()).digest() if shared[size] > 1 else file)
        for size, file in zip(sizes, files, strict=True)
    ]


def split_files(root: Path, files: dict[str, list[str]], test: bool) -> dict[str, list[str]]:
    """Return the files of each class in one of the splits.

    Args:
        root: Folder of the classes' folders.
        files: Files of each class, relative to its folder.
        test: Whether to return the held-out files.

    Raises:
        ValueError: If a class has fewer than two different images.
    """
    result = {}
    for label, (name, names) in enumerate(files.items()):
        held = held_out(_file_contents([root / name / file for file in names]), label)
        if all(held):
            raise ValueError(few_images([name], root))
        result[name] = [file for file, out in zip(names, held, strict=True) if out == test]
    return result


def few_images(names: Sequence[str], root: Path) -> str:
    """Return the message for classes that cannot be split."""
    found = f"found fewer than 2 different images of {', '.join(names)} in {root}"
    return f"{found}; one is needed for training and one for validation"
