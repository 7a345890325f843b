"""Images to train and measure on, one at a time by number: the embedded set, folders of classes, tar shards."""

import logging
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int
from PIL import Image

from ropevit.data.decoding import open_rgb
from ropevit.data.fashion import load_fashion
from ropevit.data.folder import Progress, check_folder
from ropevit.data.holdout import TEST_SHARE, split_files
from ropevit.data.imagenet import imagenet_synsets
from ropevit.data.labelled import LabelledImages
from ropevit.data.listing import TEST_FOLDERS, Names, class_files, join_names, subfolders
from ropevit.data.shards import find_shards, names_shards, open_shards

log = logging.getLogger(__name__)

Split = Literal["train", "val"]


@runtime_checkable
class ImageSource(Protocol):
    """A split of a data set; it may be sent to other processes."""

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
        """Lengths of the shards, for `TrainOrder`; empty where any image is as near as any other."""
        ...

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[Image.Image, int]:
        """Read an image as RGB, and its label; raises one of `decoding.UNREADABLE` where that fails."""
        ...

    def describe(self, index: int) -> str:
        """Say which file it is."""
        ...


@runtime_checkable
class FileSource(ImageSource, Protocol):
    """A split whose images are files."""

    @property
    def labels(self) -> Int[np.ndarray, "N"]:
        """Class of each."""
        ...

    def raw(self, index: int) -> tuple[bytes, int]:
        """Read a file as it is, and its label."""
        ...


@dataclass(frozen=True)
class MemorySource:
    """Images in memory."""

    data: LabelledImages
    """The images; grey ones are given as RGB."""
    blocks: tuple[int, ...] = ()
    """None."""

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
        """Give an image as RGB, and its label."""
        pixels = self.data.images[index].movedim(0, -1).expand(-1, -1, 3)
        return Image.fromarray(pixels.numpy().copy()), int(self.data.labels[index])

    def describe(self, index: int) -> str:
        """Say which image it is."""
        return f"{self.name}[{index}]"


class FolderSource:
    """Image files in folders, one for each class, at any depth inside it.

    Classes are the names of the folders in the order of the alphabet: where these are the WordNet ids of ImageNet, that
    is the order of the logits of published models.

    Args:
        root: Folder of the classes' folders.
        name: Name of the set and split.
        files: Files of each class, relative to its folder; those that are found if left out.

    Raises:
        ValueError: If there are not two classes, or one has no images.
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
        """Read a file as it is, and its label."""
        return (self.root / self.names[index]).read_bytes(), int(self.labels[index])

    def read(self, index: int) -> tuple[Image.Image, int]:
        """Read an image as RGB, and its label."""
        content, label = self.raw(index)
        return open_rgb(BytesIO(content)), label

    def describe(self, index: int) -> str:
        """Give the path of a file."""
        return str(self.root / self.names[index])


def open_source(data: str, split: Split, progress: Progress | None = None) -> ImageSource:
    """Open a split of a data set.

    Args:
        data: One of
            `fashion`: the embedded images (28 x 28; `val` are the test images of a study);
            a folder with `train` and `val` (or test), each with a folder of images for each class;
            a folder of classes alone, split as in a study; all of it is `val` where the classes are ImageNet's;
            a folder with tar shards, in `train` and `val` or named after them;
            a pattern of shards, such as `https://host/images-train-{0000..1023}.tar`, or several joined by `::`, each
            named after its split; those of the web are fetched into the user's cache.
        split: `train` or `val`.
        progress: Called with the number of shards that are ready and that of all.

    Returns:
        The images of the split, read when they are asked for.

    Raises:
        ValueError: If there is no such split, or it is not as described.
    """
    if split not in ("train", "val"):
        raise ValueError(f"got split {split!r}; choose train or val")
    if data == "fashion":
        return MemorySource(load_fashion("train" if split == "train" else "test"))
    path = Path(data).expanduser()
    if names_shards(data):
        shards = find_shards(data, split)
        name = join_names([Path(shard).name for shard in shards], 1)
        return open_shards(shards, f"{name}/{split}", every=split == "train", progress=progress)
    check_folder(path)
    name = f"{path.resolve().name}/{split}"
    if root := split_folder(path, split):
        return FolderSource(root, name)
    if shards := find_shards(data, split):
        return open_shards(shards, name, every=split == "train", progress=progress)
    folders = {folder.name for folder in subfolders(path)}
    if folders and not folders & {"train", *TEST_FOLDERS}:
        return open_classes(path, name, split)
    raise ValueError(
        f"found no {split} images in {path}; expected {split}/CLASS/*.jpg, {split}/*.tar or *{split}*.tar in it"
    )


def open_classes(path: Path, name: str, split: Split) -> FolderSource:
    """Open a split of a folder of classes alone.

    Raises:
        ValueError: If it is to be measured on only, or a class cannot be split.
    """
    files = class_files(path)
    if files.keys() <= set(imagenet_synsets()) or list(files) == sorted(map(str, range(1000))):
        if split == "val":
            return FolderSource(path, name, files)
        raise ValueError(
            f"found no train images in {path}, whose classes are ImageNet's: such folders are measured on as a whole; "
            "to train on it, sort its images into train/CLASS and val/CLASS"
        )
    held, kept = f"{TEST_SHARE:.0%} of each class", f"{1 - TEST_SHARE:.0%} of each class"
    if split == "train":
        log.warning("%s has no train and val: %s, always the same, are held out to measure on", path, held)
        return FolderSource(path, f"{name} ({kept})", split_files(path, files, test=False))
    whole = "put its classes into a folder val to measure on all"
    log.warning("%s has no val: measured on the %s that a training holds out; %s", path, held, whole)
    return FolderSource(path, f"{name} ({held}, held out)", split_files(path, files, test=True))


def split_folder(path: Path, split: Split) -> Path | None:
    """Choose the folder of a split's classes, if there is one."""
    names = ("train",) if split == "train" else TEST_FOLDERS
    return next((path / name for name in names if subfolders(path / name)), None)
