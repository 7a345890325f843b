"""Images of a data set with their labels, boxes and masks in one picture, for `ropevit data show`."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Integer
from PIL import Image, ImageDraw

from ropevit.data.ade import IGNORED, open_ade
from ropevit.data.annotation_faults import DROPPED
from ropevit.data.annotation_formats import annotation_format
from ropevit.data.coco import Boxes, CocoFile, annotation_faults, clip, coco_paths, coco_source, read_coco
from ropevit.data.decoding import UNREADABLE, reason
from ropevit.data.loading import Readable
from ropevit.data.masks import decode_mask, mask_fault
from ropevit.data.sources import FileSource, ImageSource, MemorySource, Split, open_source
from ropevit.painting import (
    OPACITY,
    Annotation,
    Tile,
    add_legend,
    class_color,
    classes_in,
    image_grid,
    paint_annotations,
    paint_classes,
    resize_to_side,
)

#: Longer side of an image in the picture, in pixels: of images with a label, and of those with boxes or masks.
PLAIN_SIDE, ANNOTATED_SIDE = 224, 480
#: Largest number of images in a picture.
MOST = 100


@dataclass(frozen=True, kw_only=True)
class ShownSplit:
    """A split of a data set, and how an image of it is drawn."""

    source: Readable
    """The images with their annotations."""
    draw: Callable[[Image.Image, Any], Image.Image]
    """Draws an image with its annotation, as `source.read` returns both."""
    side: int = ANNOTATED_SIDE
    """Longer side of the drawings in pixels."""
    groups: Integer[np.ndarray, "N"] | None = None
    """Class of each image, so that every class is shown; None where images have none or several."""
    describe: Callable[[Any], str] = lambda _: ""
    """First line of the caption, from the annotation."""
    labels: Callable[[Any], Sequence[int]] = lambda _: ()
    """Classes that the legend lists, from the annotation."""
    classes: Sequence[str] = ()
    """Names of the classes in the legend."""


class Picture(NamedTuple):
    """A picture of a data set."""

    image: Image.Image
    shown: int
    """Number of images in it."""
    skipped: tuple[str, ...]
    """Images that cannot be read, with the reason."""


def show(data: str, split: Split, count: int, seed: int = 0) -> Picture:
    """Draw images of a data set with their labels, boxes or masks.

    Images of classes: as many classes as possible are shown, sorted by class. Others: drawn at random.

    Args:
        data: A data set of classes, as of `open_source`, or a folder in a format of `ANNOTATION_FORMATS`.
        split: `train` or `val`.
        count: Number of images.
        seed: Chooses the images.

    Raises:
        ValueError: If there is no such data set, a number is out of range, annotations are damaged, or no image can be
            read.
    """
    if not 1 <= count <= MOST or seed < 0:
        raise ValueError(f"got count={count}, seed={seed}; expected 1 to {MOST} images, and a seed of 0 or more")
    found = annotation_format(data)
    part = show_classes(data, split) if found is None else found.get("show")(Path(data).expanduser(), split)
    skipped: list[str] = []
    samples = list(_read(part, count, seed, skipped))
    if not samples:
        raise ValueError(f"none of the images can be read ({skipped[0]}); see `ropevit data check {data}`")
    tiles = [
        Tile(part.draw(image, given), "\n".join(filter(None, (part.describe(given), name))))
        for name, image, given in samples
    ]
    grid = image_grid(tiles, math.ceil(math.sqrt(len(tiles))), part.side)
    legend = sorted({int(label) for *_, given in samples for label in part.labels(given)})
    entries = [(label, part.classes[label]) for label in legend]
    return Picture(add_legend(grid, entries, (2 * part.side, 2 * part.side)), len(tiles), tuple(skipped))


def _read(part: ShownSplit, count: int, seed: int, skipped: list[str]) -> Iterator[tuple[str, Image.Image, Any]]:
    """Yield file name, image and annotation of some images; names of unreadable ones are appended to `skipped`."""
    found = {}
    for index in _draw_order(len(part.source), part.groups, seed):
        try:
            found[index] = part.source.read(index)
        except UNREADABLE as error:
            skipped.append(f"{part.source.describe(index)}: {reason(error)}")
        if len(found) == count:
            break
    for index in sorted(found, key=lambda index: (0 if part.groups is None else part.groups[index], index)):
        yield Path(part.source.describe(index)).name, *found[index]


def _draw_order(length: int, groups: Integer[np.ndarray, "N"] | None, seed: int) -> Iterator[int]:
    """Yield all indices in random order; with groups, one of each group first, then a second one of each."""
    order = np.random.default_rng(seed).permutation(length)
    if groups is None:
        return map(int, order)
    taken: dict[int, int] = {}
    rounds = []
    for index in order:
        group = int(groups[index])
        rounds.append(taken.get(group, 0))
        taken[group] = rounds[-1] + 1
    return map(int, order[np.argsort(rounds, kind="stable")])


def show_classes(data: str, split: Split) -> ShownSplit:
    """Open a split of a data set of classes: images with their label as caption."""
    source = open_source(data, split)
    return ShownSplit(
        source=source,
        draw=lambda image, _: resize_to_side(image, PLAIN_SIDE),
        side=PLAIN_SIDE,
        groups=_labels_of(source),
        describe=lambda label: source.classes[label],
    )


def _labels_of(source: ImageSource) -> Integer[np.ndarray, "N"] | None:
    """Return the class of each image, if it is known without reading them."""
    if isinstance(source, MemorySource):
        return source.data.labels.numpy()
    return source.labels if isinstance(source, FileSource) else None


def show_coco(root: Path, split: Literal["train", "val"]) -> ShownSplit:
    """Open a split in the format of COCO: boxes and masks, also of crowds, which are not trained on."""
    path, folder = coco_paths(root, split)
    file = read_coco(path)
    source = coco_source(file, folder, split, keep_empty=True)
    by_image: dict[int, list[dict[str, Any]]] = {}
    for annotation in file.annotations:
        if not any(fault.kind in DROPPED for fault in annotation_faults(annotation, file)):
            by_image.setdefault(annotation["image_id"], []).append(annotation)
    labels = {category: label for label, category in enumerate(source.category_ids)}

    def draw(image: Image.Image, boxes: Boxes) -> Image.Image:
        return _draw_objects(image, by_image.get(boxes.image_id, ()), file, labels)

    return ShownSplit(source=source, draw=draw)


def _draw_objects(
    image: Image.Image, annotations: Sequence[dict[str, Any]], file: CocoFile, labels: dict[int, int]
) -> Image.Image:
    """Draw the masks and boxes of an image."""
    marks = []
    for annotation in annotations:
        category, crowd = annotation["category_id"], " (crowd)" if annotation.get("iscrowd") else ""
        left, top, right, bottom = clip(annotation["bbox"], file.images[annotation["image_id"]])
        label, name = labels[category], f"{file.categories[category]}{crowd}"
        marks.append(Annotation((left, top, right, bottom), label, name))
        image = _paint_mask(image, annotation.get("segmentation"), label)
    return paint_annotations(image, marks, ANNOTATED_SIDE)


def _paint_mask(image: Image.Image, mask: Any, label: int) -> Image.Image:
    """Tint the pixels of a mask, polygons or RLE; a damaged one is left out, as `ropevit data check` reports it."""
    if not mask or mask_fault(mask, image.height, image.width):
        return image
    if isinstance(mask, dict):
        inside = Image.fromarray(decode_mask(mask))
    else:
        inside = Image.new("1", image.size)
        for polygon in mask:
            ImageDraw.Draw(inside).polygon(polygon, fill=1)
    tinted = Image.blend(image, Image.new("RGB", image.size, class_color(label)), OPACITY)
    return Image.composite(tinted, image, inside)


def show_ade(root: Path, split: Literal["train", "val"]) -> ShownSplit:
    """Open a split in the format of ADE20K: each pixel has the color of its class, or none if it is ignored."""
    source = open_ade(root, split)
    return ShownSplit(
        source=source,
        draw=partial(paint_classes, ignored=IGNORED, side=ANNOTATED_SIDE),
        labels=partial(classes_in, ignored=IGNORED),
        classes=source.classes,
    )
