"""Which images of a class are held out to measure on where folders do not say: a fifth, always the same."""

import hashlib
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path

import torch

from ropevit.data.rng import make_generator

#: Share of each class that is held out.
TEST_SHARE = 0.2


def held_out(contents: Sequence[Hashable], label: int) -> list[bool]:
    """Choose the images of a class that are held out; copies of an image fall on one side.

    Which ones depends on their number and on which are copies alone.

    Args:
        contents: Of each image, in the order of the files, what only its copies share.
        label: Number of the class.

    Returns:
        Whether each is held out: one at least, and all of them only where there are no two different ones.
    """
    wanted = max(1, round(TEST_SHARE * len(contents)))
    ranks = torch.randperm(len(contents), generator=make_generator("folder", "split", label)).tolist()
    copies: dict[Hashable, list[int]] = {}
    for _, place in sorted(zip(ranks, range(len(contents)), strict=True)):
        copies.setdefault(contents[place], []).append(place)
    chosen: set[int] = set()
    for places in copies.values():
        if len(chosen) + len(places) <= wanted:
            chosen.update(places)
    chosen = chosen or set(min(copies.values(), key=len))
    return [place in chosen for place in range(len(contents))]


def file_contents(files: Sequence[Path]) -> list[Hashable]:
    """Give each file what only its copies share: only those of equal length are read."""
    sizes = [file.stat().st_size for file in files]
    shared = Counter(sizes)
    return [
        (size, hashlib.sha256(file.read_bytes()).digest() if shared[size] > 1 else file)
        for size, file in zip(sizes, files, strict=True)
    ]


def split_files(root: Path, files: dict[str, list[str]], test: bool) -> dict[str, list[str]]:
    """Keep the files of each class that are held out, or the others.

    Args:
        root: Folder of the classes' folders.
        files: Files of each class, relative to its folder.
        test: Whether those that are held out are wanted.

    Raises:
        ValueError: If a class does not have two different images.
    """
    result = {}
    for label, (name, names) in enumerate(files.items()):
        held = held_out(file_contents([root / name / file for file in names]), label)
        if all(held):
            raise ValueError(few_images([name], root))
        result[name] = [file for file, out in zip(names, held, strict=True) if out == test]
    return result


def few_images(names: Sequence[str], root: Path) -> str:
    """Say that classes cannot be split."""
    return (
        f"found fewer than 2 different images of {', '.join(names)} in {root}; one is needed to train and one to test"
    )
