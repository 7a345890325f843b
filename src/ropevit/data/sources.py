"""Image classification data sets: the embedded images, class folders and WebDataset shards."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int
from PIL import Image

from ropevit.data.annotation_formats import annotation_format
from ropevit.data.decoding import open_rgb
from ropevit.data.emoji import load_emoji_images
from ropevit.data.fashion import load_fashion
from ropevit.data.folder import Progress, check_folder
from ropevit.data.holdout import VAL_FRACTION, split_files
from ropevit.data.imagenet import imagenet_synsets
from ropevit.data.labeled import LabeledImages
from ropevit.data.listing import TEST_FOLDERS, Names, class_files, subfolders
from ropevit.data.shards import find_shards, names_shards, open_shards
from ropevit.text import join_names

log = logging.getLogger(__name__)

Split = Literal["train", "val"]


@runtime_checkable
class ImageSource(Protocol):
    """A split of a data set, indexed by number; picklable for DataLoader workers."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the labels."""
        ...

    @property
    def name(self) -> str:
        """Name of the set and split, such as `fashion/train`."""
        ...

    @property
    def blocks(self) -> tuple[int, ...]:
        """Lengths of the shards, for `TrainOrder`; empty where random access is cheap."""
        ...

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[Image.Image, int]:
        """Return an image as RGB, and its label; raises one of `decoding.UNREADABLE` if it cannot be decoded."""
        ...

    def describe(self, index: int) -> str:
        """Return the name of the file, for messages."""
        ...


@runtime_checkable
class FileSource(ImageSource, Protocol):
    """A split whose images are files."""

    @property
    def labels(self) -> Int[np.ndarray, "N"]:
        """Class index of each image."""
        ...

    def raw(self, index: int) -> tuple[bytes, int]:
        """Return the bytes of a file, and its label."""
        ...


@dataclass(frozen=True)
class MemorySource:
    """Images in memory."""

    data: LabeledImages
    """The images; grayscale ones are returned as RGB."""
    blocks: tuple[int, ...] = ()
    """Always empty."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.data.classes

    @property
    def name(self) -> str:
        """Name of the set and split."""
        return self.data.name

    def __len__(self) -> int:
        return len(self.data)

    def read(self, index: int) -> tuple[Image.Image, int]:
        """Return an image as RGB, and its label."""
        pixels = self.data.images[index].movedim(0, -1).expand(-1, -1, 3)
        return Image.fromarray(pixels.numpy().copy()), int(self.data.labels[index])

    def describe(self, index: int) -> str:
        """Return the name of the image, for messages."""
        return f"{self.name}[{index}]"


class FolderSource:
    """Class folders with image files at any depth.

    Classes are the names of the folders in alphabetical order; for the WordNet ids of ImageNet that is the order of the
    logits of published models.

    Args:
        root: Folder of the classes' folders.
        name: Name of the set and split.
        files: Files of each class, relative to its folder; None lists the folders.

    Raises:
        ValueError: If there are fewer than two classes, or one has no images.
    """

    blocks: tuple[int, ...] = ()

    def __init__(self, root: Path, name: str, files: dict[str, list[str]] | None = None):
        files = class_files(root) if files is None else files
        self.root, self.name, self.classes = root, name, tuple(files)
        self.labels = np.repeat(np.arange(len(files)), [len(names) for names in files.values()])
        self.names = Names.of(str(Path(folder, name)) for folder, names in files.items() for name in names)

    def __len__(self) -> int:
        return len(self.labels)

    def raw(self, index: int) -> tuple[bytes, int]:
        """Return the bytes of a file, and its label."""
        return (self.root / self.names[index]).read_bytes(), int(self.labels[index])

    def read(self, index: int) -> tuple[Image.Image, int]:
        """Return an image as RGB, and its label."""
        content, label = self.raw(index)
        return open_rgb(BytesIO(content)), label

    def describe(self, index: int) -> str:
        """Return the path of a file."""
        return str(self.root / self.names[index])


def _open_fashion(split: Split) -> MemorySource:
    """Open a split of the embedded images."""
    return MemorySource(load_fashion("train" if split == "train" else "test"))


def _open_emoji(split: Split) -> MemorySource:
    """Open a split of the embedded drawings."""
    return MemorySource(load_emoji_images("train" if split == "train" else "test"))


#: Data sets by a name instead of a path -> function that opens a split.
NAMED_SOURCES: dict[str, Callable[[Split], ImageSource]] = {"fashion": _open_fashion, "emoji": _open_emoji}


def register_source(name: str, open_split: Callable[[Split], ImageSource]) -> None:
    """Add a data set that `--data NAME` then means, such as one of another package.

    Raises:
        ValueError: If the name is taken or not a word.
    """
    if name in NAMED_SOURCES or not name.isidentifier():
        raise ValueError(f"got the data set {name!r}; expected a word other than {', '.join(NAMED_SOURCES)}")
    NAMED_SOURCES[name] = open_split


def open_source(data: str, split: Split, progress: Progress | None = None) -> ImageSource:
    """Open a split of a data set.

    Args:
        data: One of
            a name in `NAMED_SOURCES`, such as `fashion` or `emoji`: the embedded images (28 x 28, and 160 x 160 in
            color; `val` are the test images of a study);
            a folder with `train` and `val` (or test), each with a folder of images for each class;
            a folder with `train` only, or with class folders only: 20 % of each class, the same as in a study, are
            `val` (all images, where class folders alone are those of ImageNet);
            a folder with tar shards, in `train` and `val` or named after them;
            a pattern of shards, such as `https://host/images-train-{0000..1023}.tar`, or several joined by `::`, each
            named after its split; remote ones are downloaded into the user's cache.
        split: `train` or `val`.
        progress: Called with the number of prepared and of all shards.

    Returns:
        The split; images are read on access.

    Raises:
        ValueError: If there is no such split, or the format is not one of these.
    """
    if split not in ("train", "val"):
        raise ValueError(f"got split {split!r}; choose train or val")
    if data in NAMED_SOURCES:
        return NAMED_SOURCES[data](split)
    path = Path(data).expanduser()
    if names_shards(data):
        shards = find_shards(data, split)
        name = join_names([Path(shard).name for shard in shards], 1)
        return open_shards(shards, f"{name}/{split}", every_class=split == "train", progress=progress)
    return _open_folder(path, split, progress)


def _open_folder(path: Path, split: Split, progress: Progress | None = None) -> ImageSource:
    """Open a split of a data set in a folder; see `open_source`.

    Raises:
        ValueError: If there is no such split, or the format is not one of these.
    """
    check_folder(path)
    name, data = f"{path.resolve().name}/{split}", str(path)
    train = _split_folder(path, "train")
    if (
        train
        and not _split_folder(path, "val")
        and not find_shards(data, "val")
        and not _is_imagenet(class_files(train))
    ):
        return _open_held_out(train, class_files(train), name, split)
    if root := _split_folder(path, split):
        return FolderSource(root, name)
    if shards := find_shards(data, split):
        return open_shards(shards, name, every_class=split == "train", progress=progress)
    if found := annotation_format(data):
        raise ValueError(
            f"{path} is a data set in the format of {found.label}, for detectors and segmenters; a classifier needs "
            f"{split}/CLASS/*.jpg or shards"
        )
    folders = {folder.name for folder in subfolders(path)}
    if folders and not folders & {"train", *TEST_FOLDERS}:
        return _open_classes(path, name, split)
    raise ValueError(
        f"found no {split} images in {path}; expected {split}/CLASS/*.jpg, {split}/*.tar or *{split}*.tar in it"
    )


def _open_classes(path: Path, name: str, split: Split) -> FolderSource:
    """Open a split of a folder that contains class folders only.

    Raises:
        ValueError: If it is for evaluation only, or a class cannot be split.
    """
    files = class_files(path)
    if _is_imagenet(files):
        if split == "val":
            return FolderSource(path, name, files)
        raise ValueError(
            f"found no train images in {path}, whose classes are ImageNet's: such a folder is used for evaluation as a "
            "whole; to train on it, move its images into train/CLASS and val/CLASS"
        )
    return _open_held_out(path, files, name, split)


def _is_imagenet(files: Mapping[str, Sequence[str]]) -> bool:
    """Return whether class folders are named as those of ImageNet-1k, by WordNet ids or by index."""
    return files.keys() <= set(imagenet_synsets()) or list(files) == sorted(map(str, range(1000)))


def _open_held_out(root: Path, files: dict[str, list[str]], name: str, split: Split) -> FolderSource:
    """Split class folders into training and validation images, always in the same way.

    Raises:
        ValueError: If a class has fewer than two different images.
    """
    _warn_held_out(root)
    share, kind = (VAL_FRACTION, ", held out") if split == "val" else (1 - VAL_FRACTION, "")
    chosen = split_files(root, files, test=split == "val")
    return FolderSource(root, f"{name} ({share:.0%} of each class{kind})", chosen)


@cache
def _warn_held_out(root: Path) -> None:
    """Log once how a folder without validation images is split."""
    log.warning(
        "%s has no validation images beside it: %.0f%% of each class, always the same, are held out for validation; "
        "to evaluate on all images, put the classes into a folder val",
        root,
        100 * VAL_FRACTION,
    )


def _split_folder(path: Path, split: Split) -> Path | None:
    """Return the folder with the class folders of a split, if it exists."""
    names = ("train",) if split == "train" else TEST_FOLDERS
    return next((path / name for name in names if subfolders(path / name)), None)
