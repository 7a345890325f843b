"""Detection data in the format of COCO: train2017/*.jpg, annotations/instances_train2017.json; val2017 alike."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float32, Int64
from PIL import Image

from ropevit.data.annotation_faults import DROPPED, REFUSED, Fault, refuse
from ropevit.data.decoding import matching_orientation, open_image, orientation, to_rgb, transpose
from ropevit.data.masks import mask_fault
from ropevit.files import parse_json

#: Required fields of the entries of each table, with their types.
TABLES = {
    "images": {"id": int, "file_name": str, "height": int, "width": int},
    "categories": {"id": int, "name": str},
    "annotations": {"id": int, "image_id": int, "category_id": int, "bbox": list},
}


#: Larger numbers are refused as coordinates or sizes.
_MAX_COORDINATE = 1e9
#: Larger ids are not exact in float64, which the evaluator uses.
_MAX_ID = 2**53


@dataclass(frozen=True)
class CocoFile:
    """A parsed annotation file, with its tables by id."""

    path: Path
    images: dict[int, dict[str, Any]]
    categories: dict[int, str]
    annotations: list[dict[str, Any]]


class Boxes(NamedTuple):
    """Boxes and labels of an image."""

    boxes: Float32[np.ndarray, "n 4"]
    """Left, top, right and bottom in pixels, inside the image."""
    labels: Int64[np.ndarray, "n"]
    """Class indices from 0, in the order of the category ids."""
    image_id: int
    """The image's id in the file."""


@dataclass(frozen=True, kw_only=True)
class CocoSource:
    """A split of a detection data set; picklable for DataLoader workers."""

    name: str
    """Name of the set and split, such as `coco/train`."""
    classes: tuple[str, ...]
    """Names, in the order of the labels."""
    category_ids: tuple[int, ...]
    """Category id of each label, for writing detections."""
    annotations: Path
    """Annotation file, for the evaluator."""
    dropped: tuple[Fault, ...]
    """Faults of the boxes that were dropped."""
    folder: Path
    images: tuple[tuple[int, str, int, int], ...]
    """Id, file name, height and width of each image."""
    box_starts: Int64[np.ndarray, "_"]
    """Index of each image's first box, and the total number of boxes at the end."""
    boxes: Float32[np.ndarray, "n 4"]
    labels: Int64[np.ndarray, "n"]

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> tuple[Image.Image, Boxes]:
        """Read an image as RGB, and its boxes.

        The EXIF orientation is applied, unless the image was annotated in the size as stored.

        Raises:
            ValueError: If the image has another size than its annotation, or cannot be decoded.
            OSError: If the image cannot be opened.
        """
        image_id, name, height, width = self.images[index]
        with open_image(self.folder / name) as image:
            stored, image = orientation(image), to_rgb(image)
        fitting = matching_orientation(image.size, stored, (width, height))
        if fitting is None:
            where = size_mismatch(image_id, image.size, (width, height))
            raise refuse(Fault("wrong size", str(self.folder / name), where))
        own = slice(self.box_starts[index], self.box_starts[index + 1])
        return transpose(image, fitting), Boxes(self.boxes[own], self.labels[own], image_id)

    def describe(self, index: int) -> str:
        """Return the path of an image."""
        return str(self.folder / self.images[index][1])


def size_mismatch(image_id: int, found: tuple[int, int], expected: tuple[int, int]) -> str:
    """Format the message about an image of another size than annotated."""
    return f"image {image_id} has {found[0]} x {found[1]} pixels, its annotation says {expected[0]} x {expected[1]}"


def coco_paths(root: Path | str, split: str) -> tuple[Path, Path]:
    """Return the annotation file and the image folder of a split."""
    root = Path(root).expanduser()
    return root / "annotations" / f"instances_{split}2017.json", root / f"{split}2017"


def open_coco(root: Path | str, split: Literal["train", "val"], *, keep_empty: bool = False) -> CocoSource:
    """Open a split of a detection data set: crowds are removed, boxes are clipped to their image.

    Boxes without an area, before or after clipping, are removed and listed in `dropped`.

    Args:
        root: Folder with `annotations` and `train2017` or `val2017`.
        split: Split to open.
        keep_empty: Also keep images without boxes, as evaluation needs them.

    Raises:
        ValueError: If there is no such split, or it has a fault of `REFUSED` (names file, id and reason).
    """
    path, folder = coco_paths(root, split)
    return coco_source(read_coco(path), folder, split, keep_empty=keep_empty)


def coco_source(file: CocoFile, folder: Path, split: str, *, keep_empty: bool = False) -> CocoSource:
    """Make a split of a parsed annotation file and a folder of images; see `open_coco`."""
    for fault in missing_files(file, folder):
        raise refuse(fault)
    rows, dropped = boxes_of(file)
    kept = [image_id for image_id in rows if rows[image_id] or keep_empty]
    if not kept:
        raise ValueError(f"{file.path} has no images with boxes; a detector needs some to train on")
    flat = [row for image_id in kept for row in rows[image_id]]
    categories = sorted(file.categories)
    return CocoSource(
        name=f"coco/{split}",
        classes=tuple(file.categories[category] for category in categories),
        category_ids=tuple(categories),
        annotations=file.path,
        dropped=tuple(dropped),
        folder=folder,
        images=tuple((i, *(file.images[i][key] for key in ("file_name", "height", "width"))) for i in kept),
        box_starts=np.cumsum([0, *(len(rows[image_id]) for image_id in kept)], dtype=np.int64),
        boxes=np.array([box for box, _ in flat], dtype=np.float32).reshape(-1, 4),
        labels=np.array([categories.index(category) for _, category in flat], dtype=np.int64),
    )


def boxes_of(file: CocoFile) -> tuple[dict[int, list[tuple[list[float], int]]], list[Fault]]:
    """Return the clipped boxes and categories of each image, and the faults of dropped boxes.

    Raises:
        ValueError: If an annotation has a fault of `REFUSED`.
    """
    rows: dict[int, list[tuple[list[float], int]]] = {image_id: [] for image_id in file.images}
    dropped = []
    for annotation in file.annotations:
        faults = list(annotation_faults(annotation, file))
        for fault in faults:
            if fault.kind in REFUSED:
                raise refuse(fault)
        lost = [fault for fault in faults if fault.kind in DROPPED]
        dropped += lost
        if not lost and not annotation.get("iscrowd"):
            image = file.images[annotation["image_id"]]
            rows[image["id"]].append((clip(annotation["bbox"], image), annotation["category_id"]))
    return rows, dropped


def read_coco(path: Path) -> CocoFile:
    """Read an annotation file, and check the types of its entries.

    Raises:
        ValueError: If the file is missing or malformed (names the wrong entry).
    """
    try:
        content = parse_json(path.read_bytes(), "the content")
    except FileNotFoundError:
        raise ValueError(f"no annotations at {path}; expected annotations/instances_{{train,val}}2017.json") from None
    except OSError as error:
        raise refuse(Fault("annotations", str(path), f"cannot be read: {error.strerror}")) from None
    except ValueError as error:
        raise refuse(Fault("annotations", str(path), str(error))) from None
    tables = {name: _read_table(content, name, path) for name in TABLES}
    by_id = {}
    for name, entries in tables.items():
        by_id[name] = {entry["id"]: entry for entry in entries}
        if len(by_id[name]) < len(entries):
            seen: set[int] = set()
            twice = next(e["id"] for e in entries if e["id"] in seen or seen.add(e["id"]))
            raise refuse(Fault("annotations", str(path), f"the id {twice} is used twice among the {name}"))
    names = {category: entry["name"] for category, entry in by_id["categories"].items()}
    return CocoFile(path, by_id["images"], names, tables["annotations"])


def _read_table(content: Any, name: str, path: Path) -> list[dict[str, Any]]:
    """Return a table of an annotation file, and check the types of its entries."""
    entries = content.get(name) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise refuse(Fault("annotations", str(path), f"expected a list named {name!r}, as COCO files have"))
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise refuse(
                Fault(
                    "annotations", str(path), f"{name} number {number} is {_shorten_value(entry)}, expected an object"
                )
            )
        if wrong := next(_entry_faults(entry, name), None):
            where = _shorten_value(entry.get("id", f"number {number}"))
            raise refuse(Fault("annotations", str(path), f"{name} {where}: {wrong}"))
    return entries


def _entry_faults(entry: dict[str, Any], name: str) -> Iterator[str]:
    """Yield the wrong fields of an entry; integers written as 7.0 become 7."""
    for key, expected in TABLES[name].items():
        value: Any = entry.get(key)
        if expected is int and isinstance(value, float) and value.is_integer():
            value = entry[key] = int(value)
        if not isinstance(value, expected) or isinstance(value, bool):
            yield f"{key} is {_shorten_value(value)}, expected {expected.__name__}"
        elif key in ("height", "width") and not 1 <= value <= _MAX_COORDINATE:
            yield f"{key} is {_shorten_value(value)}, expected 1 to {_MAX_COORDINATE:.0f} pixels"
        elif expected is int and abs(value) > _MAX_ID:
            yield f"{key} is {_shorten_value(value)}, expected at most 2**53"
    if name == "annotations":
        if entry.get("iscrowd", 0) not in (0, 1, None):  # also True and 1.0
            yield f"iscrowd is {_shorten_value(entry['iscrowd'])}, expected 0 or 1"
        if (area := entry.get("area")) is not None and not _is_number(area):
            yield f"area is {_shorten_value(area)}, expected a number"


def _is_number(value: Any) -> bool:
    """Return whether a value is a usable number: no bool, string, NaN or far too large one."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _MAX_COORDINATE**2


def _shorten_value(value: Any) -> str:
    """Return the repr of a value for a message, shortened."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def missing_files(file: CocoFile, folder: Path) -> Iterator[Fault]:
    """Find listed images without a file."""
    there = {child.name for child in folder.iterdir()} if folder.is_dir() else set()
    for image_id, image in file.images.items():
        name = image["file_name"]
        if name not in there and not (folder / name).is_file():
            yield Fault("missing file", str(folder / name), f"file of image {image_id} not found")


def annotation_faults(annotation: dict[str, Any], file: CocoFile) -> Iterator[Fault]:
    """Find the faults of one annotation."""

    def fault(kind: str, detail: str) -> Fault:
        return Fault(kind, str(file.path), f"annotation {annotation['id']} {detail}")

    if annotation["category_id"] not in file.categories:
        yield fault("unknown category", f"has the category {annotation['category_id']}, which is not listed")
    image = file.images.get(annotation["image_id"])
    if image is None:
        yield fault("unknown image", f"belongs to image {annotation['image_id']}, which is not listed")
        return
    kind = _box_fault(annotation["bbox"], image)
    if kind:
        where = f"of image {image['id']} ({image['width']} x {image['height']} pixels)"
        yield fault(kind, f"{where} has the box {_shorten_value(annotation['bbox'])}")
    if annotation.get("iscrowd"):
        yield fault("crowd", f"of image {image['id']} is a crowd")


def mask_faults(annotation: dict[str, Any], file: CocoFile) -> Iterator[Fault]:
    """Find faults of an annotation's mask, which box detectors do not use."""
    image = file.images.get(annotation["image_id"])
    if image and (wrong := mask_fault(annotation.get("segmentation"), image["height"], image["width"])):
        yield Fault("damaged mask", str(file.path), f"annotation {annotation['id']} of image {image['id']} {wrong}")


def _box_fault(box: list[Any], image: dict[str, Any]) -> str | None:
    """Return the kind of fault of a box (left, top, width, height), or None."""
    numbers = [value for value in box if _is_number(value) and abs(value) < _MAX_COORDINATE]
    if len(box) != 4 or len(numbers) != 4:
        return "damaged box"
    left, top, width, height = numbers
    if width <= 0 or height <= 0:
        return "empty box"
    clipped = clip(box, image)
    if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
        return "box outside"
    slack = 1e-2  # published boxes are rounded to hundredths
    over = min(left, top) < -slack or left + width > image["width"] + slack or top + height > image["height"] + slack
    return "box over the edge" if over else None


def clip(box: list[float], image: dict[str, Any]) -> list[float]:
    """Clip a box (left, top, width, height) to its image; returns left, top, right, bottom."""
    left, top, width, height = box
    sides = image["width"], image["height"]
    return [
        min(max(value, 0.0), float(sides[axis % 2]))
        for axis, value in enumerate((left, top, left + width, top + height))
    ]
