"""Semantic segmentation data in the format of ADE20K: images/training/*.jpg, annotations/training/*.png."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ropevit.data.ade_classes import CLASSES, first_label, read_classes
from ropevit.data.annotation_faults import Fault, refuse
from ropevit.data.decoding import UNREADABLE, matching_orientation, open_image, orientation, reason, to_rgb, transpose
from ropevit.data.listing import ImageListing, image_names, list_images, undecodable, warn_undecodable

#: Label of pixels without a class; losses and scores ignore them.
IGNORED = 255
#: Split -> name of its folders.
FOLDERS = {"train": "training", "val": "validation"}
_LAYOUT = "images/training, images/validation and the same in annotations, as ADE20K unpacks"


@dataclass(frozen=True, kw_only=True)
class AdeSource:
    """A split of a segmentation data set; picklable for DataLoader workers."""

    name: str
    """Name of the set and split, such as `ade/train`."""
    root: Path
    folder: str
    """Name of the split's folders."""
    files: tuple[str, ...]
    """File names of the images."""
    classes: tuple[str, ...]
    """Names of the classes; label PNGs number them from `first_label`."""
    first_label: int = 1
    """Value of the first class in the label PNGs: 1, where 0 is ignored, or 0."""

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> tuple[Image.Image, UInt8[np.ndarray, "H W"]]:
        """Read an image as RGB, and its labels: classes from 0, IGNORED for pixels without a class.

        The EXIF orientation is applied, unless only the image as stored has the labels' size.

        Raises:
            ValueError: If the labels do not fit the image (names file and reason), or the image cannot be decoded.
            OSError: If the image cannot be opened.
        """
        with open_image(Path(self.describe(index))) as image:
            stored, image = orientation(image), to_rgb(image)
        found = self.read_labels(index, image.size, stored)
        if isinstance(found, Fault):
            raise refuse(found)
        return transpose(image, matching_orientation(image.size, stored, found.shape[::-1]) or 1), found

    def read_labels(self, index: int, size: tuple[int, int], stored: int = 1) -> UInt8[np.ndarray, "H W"] | Fault:
        """Read the labels of an image, or return the fault in them.

        Args:
            index: Index of the image.
            size: Width and height as stored.
            stored: EXIF orientation of the stored image.
        """
        return read_labels(self.label_file(index), size, len(self.classes), self.first_label, stored)

    def count_label(self, index: int, label: int) -> int:
        """Count the pixels with a value in the label PNG, before classes are renumbered."""
        with open_image(self.label_file(index)) as image:
            return image.histogram()[label]

    def describe(self, index: int) -> str:
        """Return the path of an image."""
        return str(self.root / "images" / self.folder / self.files[index])

    def label_file(self, index: int) -> Path:
        """Return the path of the label PNG of an image."""
        return (self.root / "annotations" / self.folder / self.files[index]).with_suffix(".png")


def open_ade(root: Path | str, split: Literal["train", "val"]) -> AdeSource:
    """Open a split of a segmentation data set.

    Args:
        root: Folder with `images` and `annotations`, each with `training` and `validation`. The names of the classes
            are read from `classes.txt` (one per line, the first for label 1; or for label 0, as `0: NAME`), or from
            `objectInfo150.txt` as published; without either, 150 numbered classes are assumed.
        split: Split to open.

    Raises:
        ValueError: If there are no images, an image has no labels or labels no image, or the names cannot be read.
    """
    source = list_ade(root, split)
    for fault in unpaired_files(source):
        raise refuse(fault)
    return source


def list_ade(root: Path | str, split: str) -> AdeSource:
    """List the images of a split without checking them."""
    root, folder = Path(root).expanduser(), FOLDERS[split]
    if not root.is_dir():
        raise ValueError(f"found no folder {root}; expected one with {_LAYOUT}")
    image_folder = root / "images" / folder
    names, others = list_images(image_folder) if image_folder.is_dir() else ImageListing([], Counter())
    if not names:
        lacking = undecodable(others)
        wanted = f"no installed decoder reads {lacking}" if lacking else f"expected {_LAYOUT}"
        raise ValueError(f"found no images in {image_folder}; {wanted}")
    warn_undecodable(image_folder, others)
    classes = read_classes(root)
    return AdeSource(
        name=f"ade/{split}",
        root=root,
        folder=folder,
        files=tuple(names),
        classes=classes,
        first_label=first_label(root),
    )


def unpaired_files(source: AdeSource) -> Iterator[Fault]:
    """Find images without labels, and labels without an image."""
    folder = source.root / "annotations" / source.folder
    labels = set(image_names(folder)) if folder.is_dir() else set()
    wanted = {str(Path(name).with_suffix(".png")) for name in source.files}
    for name in sorted(wanted - labels):
        yield Fault("missing file", str(folder / name), "label file of an image not found")
    for name in sorted(labels - wanted):
        yield Fault("missing file", str(folder / name), "labels without an image")


def shared_labels(source: AdeSource) -> Iterator[Fault]:
    """Find images that share a label file, such as x.jpg and x.png."""
    owners: dict[Path, str] = {}
    for index in range(len(source)):
        file = source.label_file(index)
        first = owners.setdefault(file, source.describe(index))
        if first != source.describe(index):
            yield Fault("shared labels", source.describe(index), f"shares the labels {file} with {first}")


def read_labels(
    path: Path, size: tuple[int, int], classes: int = CLASSES, first: int = 1, stored: int = 1
) -> UInt8[np.ndarray, "H W"] | Fault:
    """Read the labels of an image, or return the fault in them.

    Args:
        path: Label PNG, one byte per pixel: classes from `first`; 255 is ignored, and 0 unless it is a class.
        size: Width and height of the image as stored.
        classes: Number of classes.
        first: Label of the first class, 0 or 1.
        stored: EXIF orientation of the stored image; the labels may be for the upright one.
    """
    try:
        with open_image(path) as image:
            mode, labels = image.mode, np.array(transpose(image, orientation(image)))
    except UNREADABLE as error:
        return Fault("annotations", str(path), f"unreadable labels: {reason(error)}")
    if mode not in ("L", "P"):
        return Fault("wrong mode", str(path), f"labels of mode {mode}, expected one byte per pixel (L or P)")
    height, width = labels.shape
    if matching_orientation(size, stored, (width, height)) is None:
        wanted = f"{size[0]} x {size[1]}"
        return Fault("wrong size", str(path), f"labels of {width} x {height} pixels for an image of {wanted}")
    last = first + classes - 1
    unknown = labels[(labels > last) & (labels != IGNORED)]
    if unknown.size:
        ignored = "0 and 255 are ignored" if first else "255 is ignored"
        expected = f"expected {first} to {last} for the {classes} classes; {ignored}"
        return Fault("unknown label", str(path), f"the label {unknown.max()}, {expected}")
    no_class = (labels < first) | (labels > last)
    return np.where(no_class, IGNORED, labels - np.uint8(first)).astype(np.uint8)
