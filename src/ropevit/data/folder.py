"""A user's own images: PATH/train/<class>/* and PATH/val/<class>/* (or test), or PATH/<class>/* alone."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps

from ropevit.data.labelled import LabelledImages
from ropevit.data.streams import stream

SUFFIXES = frozenset([".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"])
#: Names of the folder of test images, beside `train`.
TEST_FOLDERS = ("val", "test", "validation", "valid")
#: Share of each class that is kept for testing where the folders do not say.
TEST_SHARE = 0.2

#: Files of each class, in the order of the classes.
Files = dict[str, list[Path]]
Progress = Callable[[int, int], None]


class Entry(NamedTuple):
    """A file and what it is for."""

    split: str
    label: int
    file: Path


@dataclass(frozen=True, kw_only=True)
class FolderSplits:
    """Files for training and for testing, class by class, and what was done to choose them."""

    train: Files
    test: Files
    notes: tuple[str, ...]


def load_folder(
    path: Path | str, size: int, max_images: int | None = None, progress: Progress | None = None
) -> tuple[LabelledImages, LabelledImages]:
    """Load images of any size, shape and mode as squares of RGB.

    The shorter side is resized to `size` (antialiased; to the largest shorter side where all images are smaller), then
    the middle is cut out. Files that cannot be read are left out and listed in `skipped`.

    Args:
        path: Folder with `train` and `val` (or `test`), each with a folder for each class; or with the folders of the
            classes alone: then a fifth of each class, always the same one, is kept for testing.
        size: Largest side at which the images are used, in pixels.
        max_images: Use no more than so many images in all, as many of each class as possible.
        progress: Called with the number of images read and the number to read.

    Returns:
        The training and the test images.

    Raises:
        ValueError: If the folder is missing, or does not hold at least two classes with images for both splits.
    """
    path = Path(path).expanduser()
    splits = limit(find_splits(path), max_images)
    entries = [*entries_of(splits.train, "train"), *entries_of(splits.test, "test")]
    squares: list[np.ndarray | str] = []
    with ThreadPoolExecutor() as pool:
        for square in pool.map(lambda entry: read_square(entry.file, size), entries):
            squares.append(square)
            if progress:
                progress(len(squares), len(entries))
    both = list(zip(entries, squares, strict=True))
    skipped = tuple(f"{entry.file.relative_to(path)}: {why}" for entry, why in both if isinstance(why, str))
    read = [(entry, square) for entry, square in both if not isinstance(square, str)]
    side = max((len(square) for _, square in read), default=size)
    train, test = (
        collect([(entry.label, square) for entry, square in read if entry.split == split], split, side, splits, skipped)
        for split in ("train", "test")
    )
    name = path.resolve().name
    named = {"source": f"the user's images in {name}", "notes": splits.notes, "skipped": skipped}
    return replace(train, name=f"{name}/train", **named), replace(test, name=f"{name}/test", **named)


def entries_of(files: Files, split: str) -> Iterator[Entry]:
    """List the files of a split, class by class."""
    for label, paths in enumerate(files.values()):
        yield from (Entry(split, label, file) for file in paths)


def collect(
    items: list[tuple[int, np.ndarray]], split: str, side: int, splits: FolderSplits, skipped: tuple[str, ...]
) -> LabelledImages:
    """Stack squares of pixels, brought to one size, after checking that no class was lost.

    Raises:
        ValueError: If none of the files of some class could be read.
    """
    missing = [name for label, name in enumerate(splits.train) if label not in {label for label, _ in items}]
    if missing:
        raise ValueError(f"could read no {split} image of {listed(missing)}; first problem: {', '.join(skipped[:1])}")
    pixels = torch.from_numpy(np.stack([enlarge(square, side) for _, square in items]))
    return LabelledImages(
        images=pixels.movedim(-1, 1).contiguous(),
        labels=torch.tensor([label for label, _ in items]),
        classes=tuple(splits.train),
        name=split,
        source="",
    )


def find_splits(path: Path) -> FolderSplits:
    """Find the files of each class for training and testing.

    Raises:
        ValueError: As `load_folder`.
    """
    if not path.is_dir():
        raise ValueError(f"found no folder {path}; give one with a folder of images for each class, or `fashion`")
    tests = [path / name for name in TEST_FOLDERS if subfolders(path / name)]
    if subfolders(path / "train") and tests:
        train, test = find_classes(path / "train"), find_classes(tests[0])
        if train.keys() != test.keys():
            odd = listed(sorted(train.keys() ^ test.keys()))
            raise ValueError(f"found {odd} in only one of {path / 'train'} and {tests[0]}; both need the same classes")
        return FolderSplits(train=train, test=test, notes=())
    root = path / "train" if subfolders(path / "train") and subfolders(path) == [path / "train"] else path
    files = find_classes(root)
    few = [name for name, paths in files.items() if len(paths) < 2]
    if few:
        raise ValueError(
            f"found fewer than 2 images of {listed(few)} in {root}; one is needed to train and one to test"
        )
    shuffled = {name: shuffle(paths, "split", name) for name, paths in files.items()}
    held = {name: max(1, round(TEST_SHARE * len(paths))) for name, paths in shuffled.items()}
    return FolderSplits(
        train={name: sorted(paths[held[name] :]) for name, paths in shuffled.items()},
        test={name: sorted(paths[: held[name]]) for name, paths in shuffled.items()},
        notes=(f"{TEST_SHARE:.0%} of each class, drawn once and for all, were kept for testing",),
    )


def subfolders(path: Path) -> list[Path]:
    """List the visible folders inside a folder, by name; none where it does not exist."""
    if not path.is_dir():
        return []
    return sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))


def find_classes(root: Path) -> Files:
    """List the image files of each class, at any depth inside its folder.

    Raises:
        ValueError: If there are not two classes, or one has no images.
    """
    folders = subfolders(root)
    if len(folders) < 2:
        found = f"the only class {folders[0].name}" if folders else "no folders of classes"
        raise ValueError(f"found {found} in {root}; expected at least two folders, each with the images of one class")
    files = {
        folder.name: sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and visible(file))
        for folder in folders
    }
    empty = [name for name, paths in files.items() if not paths]
    if empty:
        kinds = ", ".join(sorted(SUFFIXES))
        raise ValueError(f"found no images of {listed(empty)} in {root}; expected files ending in {kinds}")
    return files


def visible(file: Path) -> bool:
    """Tell files from folders and from what systems hide beside files."""
    return file.is_file() and not file.name.startswith(".")


def limit(splits: FolderSplits, max_images: int | None) -> FolderSplits:
    """Keep at most `max_images`, split between training and testing as all of them are, classes balanced.

    Raises:
        ValueError: If fewer images are allowed than two for each class.
    """
    train, test = (sum(map(len, files.values())) for files in (splits.train, splits.test))
    if max_images is None or train + test <= max_images:
        return splits
    classes = len(splits.train)
    if max_images < 2 * classes:
        raise ValueError(f"got max_images={max_images} for {classes} classes; expected at least {2 * classes}")
    for_test = min(max(classes, round(max_images * test / (train + test))), max_images - classes)
    note = f"a balanced part of {max_images} of the {train + test} images was used"
    return FolderSplits(
        train=balanced(splits.train, max_images - for_test),
        test=balanced(splits.test, for_test),
        notes=(*splits.notes, note),
    )


def balanced(files: Files, count: int) -> Files:
    """Take `count` files, as many of each class as possible; which ones depends on their names alone."""
    ranked = [
        (rank, name, file) for name, paths in files.items() for rank, file in enumerate(shuffle(paths, "part", name))
    ]
    taken = {(name, file) for _, name, file in sorted(ranked)[:count]}
    return {name: [file for file in paths if (name, file) in taken] for name, paths in files.items()}


def shuffle(paths: list[Path], purpose: str, name: str) -> list[Path]:
    """Order files at random, the same way each time."""
    order = torch.randperm(len(paths), generator=stream("folder", purpose, name))
    return [paths[index] for index in order.tolist()]


def read_square(file: Path, size: int) -> np.ndarray | str:
    """Read the middle of an image as RGB, at most `size` pixels a side; or say in a line why it cannot be read."""
    try:
        with Image.open(file) as image:
            image.draft("RGB", (size, size))  # JPEG: decode no more pixels than needed
            upright = ImageOps.exif_transpose(image)
            return np.asarray(middle(to_rgb(upright), min(size, *upright.size)))
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        return " ".join(str(error).split()) or type(error).__name__


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB; what is transparent becomes white, 16-bit grey keeps its upper 8 bits."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image) // 256).clip(0, 255).astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def middle(image: Image.Image, side: int) -> Image.Image:
    """Resize the shorter side to `side` and cut out the middle (antialiased)."""
    return ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC)


def enlarge(square: np.ndarray, side: int) -> np.ndarray:
    """Bring a smaller square of pixels to the size of the others."""
    if len(square) == side:
        return square
    return np.asarray(Image.fromarray(square).resize((side, side), Image.Resampling.BICUBIC))


def listed(names: list[str], most: int = 5) -> str:
    """Name a few things in a sentence."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
