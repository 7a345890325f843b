"""Pictures with a label for each pixel in the layout of ADE20K: images/training/*.jpg, annotations/training/*.png."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ropevit.data.ade_classes import CLASSES, read_classes
from ropevit.data.faults import Fault, refuse
from ropevit.data.images import UNREADABLE, reason, to_rgb
from ropevit.data.listing import image_names

#: Label of pixels that are nothing; no loss and no score counts them.
IGNORED = 255
#: split -> name of its folders
FOLDERS = {"train": "training", "val": "validation"}


@dataclass(frozen=True, kw_only=True)
class AdeSource:
    """A split of a data set of labelled pixels; it may be sent to other processes."""

    name: str
    """Such as `ade/train`."""
    root: Path
    folder: str
    """Name of the split's folders."""
    files: tuple[str, ...]
    """Names of the pictures."""
    classes: tuple[str, ...]
    """Names of the classes; label PNGs count them from 1."""

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> tuple[Image.Image, UInt8[np.ndarray, "H W"]]:
        """Read a picture as RGB, not turned, and its labels: classes from 0, IGNORED where there is none.

        Raises:
            ValueError: If the labels do not belong to the picture, with file and reason.
            OSError: If the picture cannot be read; also others of `images.UNREADABLE`.
        """
        with Image.open(self.describe(index)) as image:
            picture = to_rgb(image)
        found = read_labels(self.label_file(index), picture.size, len(self.classes))
        if isinstance(found, Fault):
            raise refuse(found)
        return picture, found

    def describe(self, index: int) -> str:
        """Say which picture it is."""
        return str(self.root / "images" / self.folder / self.files[index])

    def label_file(self, index: int) -> Path:
        """Say where its labels are."""
        return (self.root / "annotations" / self.folder / self.files[index]).with_suffix(".png")


def open_ade(root: Path | str, split: Literal["train", "val"]) -> AdeSource:
    """Open a split.

    Args:
        root: Folder with `images` and `annotations`, each with `training` and `validation`. The names of the classes
            are in `classes.txt` (one a line, the first of label 1), or in `objectInfo150.txt` as published; without
            either there are 150, and they are numbered.
        split: Which.

    Raises:
        ValueError: If there are no pictures, one or its labels lack the other, or the names cannot be read.
    """
    source = list_ade(root, split)
    for fault in lonely(source):
        raise refuse(fault)
    return source


def list_ade(root: Path | str, split: str) -> AdeSource:
    """List the pictures of a split, whatever is wrong with them."""
    root, folder = Path(root).expanduser(), FOLDERS[split]
    names = image_names(root / "images" / folder) if (root / "images" / folder).is_dir() else []
    if not names:
        raise ValueError(f"found no pictures in {root / 'images' / folder}; expected those of ADE20K, as it unpacks")
    return AdeSource(name=f"ade/{split}", root=root, folder=folder, files=tuple(names), classes=read_classes(root))


def lonely(source: AdeSource) -> Iterator[Fault]:
    """Find pictures without labels, and labels without a picture."""
    folder = source.root / "annotations" / source.folder
    labels = set(image_names(folder)) if folder.is_dir() else set()
    wanted = {str(Path(name).with_suffix(".png")) for name in source.files}
    for name in sorted(wanted - labels):
        yield Fault("missing file", str(folder / name), "the labels of a picture are not there")
    for name in sorted(labels - wanted):
        yield Fault("missing file", str(folder / name), "labels without a picture")


def read_labels(path: Path, size: tuple[int, int], classes: int = CLASSES) -> UInt8[np.ndarray, "H W"] | Fault:
    """Read the labels of a picture, or say what is wrong with them.

    Args:
        path: Label PNG, one byte a pixel: 0 nothing, then the classes from 1.
        size: Width and height of the picture.
        classes: Number of classes.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("L", "P"):
                return Fault(
                    "wrong mode", str(path), f"labels of mode {image.mode}, expected one byte a pixel (L or P)"
                )
            if image.size != size:
                found, wanted = (f"{width} x {height}" for width, height in (image.size, size))
                return Fault("wrong size", str(path), f"labels of {found} pixels for a picture of {wanted}")
            stored = np.array(image)
    except UNREADABLE as error:
        return Fault("annotations", str(path), f"labels that cannot be read: {reason(error)}")
    if stored.max() > classes:
        return Fault("unknown label", str(path), f"the label {stored.max()}, expected 0 to {classes}")
    return np.where(stored == 0, IGNORED, stored - 1).astype(np.uint8)
