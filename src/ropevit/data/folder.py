"""Class folders loaded into memory for a study: PATH/train/<class>/* and PATH/val/<class>/*, or PATH/<class>/*."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from ropevit.data.decoding import UNREADABLE, open_rgb, reason
from ropevit.data.holdout import VAL_FRACTION, few_images, held_out
from ropevit.data.images import resize_to
from ropevit.data.labeled import LabeledImages
from ropevit.data.listing import TEST_FOLDERS, class_files, subfolders
from ropevit.data.rng import make_generator
from ropevit.text import join_names

#: Class name -> its files, in the order of the classes.
Files = dict[str, list[Path]]
Progress = Callable[[int, int], None]


class ClassFile(NamedTuple):
    """A file with its split and label."""

    split: str
    label: int
    file: Path


class Square(NamedTuple):
    """Square center crop of an image."""

    pixels: np.ndarray
    """uint8 (S, S, 3)."""
    content: bytes
    """Digest of the image's size and the crop's pixels, to find copies."""


@dataclass(frozen=True, kw_only=True)
class FolderFiles:
    """Files of each class for both splits, with notes on how they were chosen."""

    train: Files
    test: Files = field(default_factory=dict)
    """Empty where the folders have no test split."""
    notes: tuple[str, ...] = ()


def check_folder(path: Path) -> None:
    """Check that a path is a folder.

    Raises:
        ValueError: If it is not.
    """
    if not path.is_dir():
        raise ValueError(
            f"found no folder {path}; expected one with a folder of images for each class, or the name of a data set, "
            "such as `fashion` or `emoji`"
        )


def load_folder(
    path: Path | str, size: int, max_images: int | None = None, progress: Progress | None = None
) -> tuple[LabeledImages, LabeledImages]:
    """Load images of any size, shape and mode as RGB squares.

    The shorter side is resized to `size` (antialiased; to the largest shorter side where all images are smaller), then
    the center is cropped. Unreadable files are skipped and listed in `skipped`.

    Args:
        path: Folder with `train` and `val` (or `test`), each with a folder for each class; or with class folders
            only: then a fixed fifth of each class is held out for testing.
        size: Maximum side of the squares in pixels.
        max_images: Maximum number of images in all, balanced over the classes.
        progress: Called with the number of loaded and of all images.

    Returns:
        The training and the test images.

    Raises:
        ValueError: If the folder is missing, or has fewer than two classes with images for both splits.
    """
    path = Path(path).expanduser()
    files = _limit_images(_find_files(path), max_images)
    entries = [*_entries_of(files.train, "train"), *_entries_of(files.test, "test")]
    squares: list[Square | str] = []
    with ThreadPoolExecutor() as pool:
        for square in pool.map(lambda entry: _read_square(entry.file, size), entries):
            squares.append(square)
            if progress:
                progress(len(squares), len(entries))
    both = list(zip(entries, squares, strict=True))
    skipped = tuple(f"{entry.file.relative_to(path)}: {why}" for entry, why in both if isinstance(why, str))
    read = [(entry, square) for entry, square in both if not isinstance(square, str)]
    if not files.test:
        read = _hold_out(read, tuple(files.train), path)
    sides = [len(square.pixels) for _, square in read]
    facts = {"classes": tuple(files.train), "source": f"the user's images in {path.resolve().name}"}
    facts |= {"notes": (*files.notes, *_note_small(sides, size)), "skipped": skipped}
    name, side = path.resolve().name, max(sides, default=size)
    train, test = (stack_split(read, split, side, name=f"{name}/{split}", **facts) for split in ("train", "test"))
    return train, test


def _note_small(sides: Sequence[int], size: int) -> Iterator[str]:
    """Note that images are smaller than the size asked for: what is shown larger is blurred, and has no more detail."""
    small = [side for side in sides if side < size]
    if small:
        yield (
            f"{len(small):,} of {len(sides):,} images have a shorter side of less than {size} px (the smallest "
            f"{min(small)} px); where they are shown larger than they are, they are enlarged and gain no detail"
        )


def _entries_of(files: Files, split: str) -> Iterator[ClassFile]:
    """List the files of a split, class by class."""
    for label, paths in enumerate(files.values()):
        yield from (ClassFile(split, label, file) for file in paths)


def _hold_out(
    read: list[tuple[ClassFile, Square]], classes: tuple[str, ...], path: Path
) -> list[tuple[ClassFile, Square]]:
    """Hold out a fraction of each class for testing (see `held_out`); copies of an image stay in one split.

    Raises:
        ValueError: If all images of a class are equal.
    """
    result = []
    for label in sorted({entry.label for entry, _ in read}):
        items = [item for item in read if item[0].label == label]
        held = held_out([square.content for _, square in items], label)
        if len(items) > 1 and all(held):
            raise ValueError(few_images([classes[label]], path))
        for out, (entry, square) in sorted(zip(held, items, strict=True), key=lambda pair: pair[1][0].file):
            result.append((entry._replace(split="test" if out else "train"), square))
    return result


def stack_split(read: list[tuple[ClassFile, Square]], split: str, side: int, **facts: Any) -> LabeledImages:
    """Stack the squares of a split, resized to one size.

    Raises:
        ValueError: If there is no readable image of some class.
    """
    items = [(entry.label, square) for entry, square in read if entry.split == split]
    present = {label for label, _ in items}
    missing = [name for label, name in enumerate(facts["classes"]) if label not in present]
    if missing:
        why = f" ({facts['skipped'][0]})" if facts["skipped"] else ""
        raise ValueError(
            f"found no readable {split} image of {join_names(missing)}{why}; every class needs at least one"
        )
    pixels = torch.from_numpy(np.stack([_resize_square(square.pixels, side) for _, square in items]))
    labels = torch.tensor([label for label, _ in items])
    return LabeledImages(images=pixels.movedim(-1, 1).contiguous(), labels=labels, **facts)


def _find_files(path: Path) -> FolderFiles:
    """Find the files of each class, for both splits where the folders have them.

    Raises:
        ValueError: If the folder is missing, or has fewer than two classes with images for both splits.
    """
    check_folder(path)
    tests = [path / name for name in TEST_FOLDERS if subfolders(path / name)]
    if subfolders(path / "train") and tests:
        train, test = _find_classes(path / "train"), _find_classes(tests[0])
        if train.keys() != test.keys():
            odd = join_names(sorted(train.keys() ^ test.keys()))
            raise ValueError(f"found {odd} in only one of {path / 'train'} and {tests[0]}; both need the same classes")
        return FolderFiles(train=train, test=test)
    only_train = subfolders(path) == [path / "train"] and subfolders(path / "train")
    files = _find_classes(path / "train" if only_train else path)
    few = [name for name, paths in files.items() if len(paths) < 2]
    if few:
        raise ValueError(few_images(few, path))
    return FolderFiles(train=files, notes=(f"{VAL_FRACTION:.0%} of each class, always the same, was held out",))


def _find_classes(root: Path) -> Files:
    """List the image files of each class, at any depth inside its folder.

    Raises:
        ValueError: If there are not two classes, or one has no images.
    """
    return {folder: [root / folder / name for name in names] for folder, names in class_files(root).items()}


def _limit_images(files: FolderFiles, max_images: int | None) -> FolderFiles:
    """Keep at most `max_images`, in the ratio of the two splits and balanced over the classes.

    Raises:
        ValueError: If `max_images` is below two per class.
    """
    train, test = (sum(map(len, part.values())) for part in (files.train, files.test))
    if max_images is None or train + test <= max_images:
        return files
    classes = len(files.train)
    if max_images < 2 * classes:
        raise ValueError(f"got max_images={max_images} for {classes} classes; expected at least {2 * classes}")
    for_test = min(max(classes, round(max_images * test / (train + test))), max_images - classes) if test else 0
    note = f"a balanced subset of {max_images} of the {train + test} images was used"
    return FolderFiles(
        train=_balanced_subset(files.train, max_images - for_test),
        test=_balanced_subset(files.test, for_test),
        notes=(*files.notes, note),
    )


def _balanced_subset(files: Files, count: int) -> Files:
    """Choose `count` files, balanced over the classes; the choice depends only on class names and file counts."""
    ranked = []
    for name, paths in files.items():
        order = torch.randperm(len(paths), generator=make_generator("folder", "part", name)).tolist()
        ranked += [(rank, name, file) for rank, file in zip(order, paths, strict=True)]
    taken = {(name, file) for _, name, file in sorted(ranked)[:count]}
    return {name: [file for file in paths if (name, file) in taken] for name, paths in files.items()}


def _read_square(file: Path, size: int) -> Square | str:
    """Read the square center of an image as RGB, at most `size` x `size` pixels; or return why it cannot be read."""
    try:
        image = open_rgb(file, enough=size)
    except UNREADABLE as error:
        return reason(error)
    return crop_square(image, size)


def crop_square(image: Image.Image, size: int) -> Square:
    """Return the square center of an RGB image, at most `size` x `size` pixels."""
    side = min(size, *image.size)
    pixels = np.asarray(resize_to(image, side, side))
    return Square(pixels, hashlib.sha256(f"{image.size}".encode() + pixels.tobytes()).digest())


def _resize_square(square: np.ndarray, side: int) -> np.ndarray:
    """Enlarge a square to the size of the others."""
    if len(square) == side:
        return square
    return np.asarray(Image.fromarray(square).resize((side, side), Image.Resampling.BICUBIC))
