"""Small generated data sets of colored shapes in the formats of COCO and ADE20K, for trials and tests."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from ropevit.data.ade import FOLDERS
from ropevit.data.ade_classes import CLASSES, PUBLISHED_FILE, published_table
from ropevit.data.annotation_formats import ANNOTATION_FORMATS

#: Name -> color, category id in COCO (whose ids have gaps) and label in ADE20K of each shape.
SHAPES = {
    "disc": ((220, 60, 50), 1, 13),
    "square": ((60, 190, 80), 3, 21),
    "triangle": ((70, 90, 230), 90, 150),
}
#: Default number of images in each split, and the maximum.
COUNTS, MAX_COUNT = {"train": 12, "val": 6}, 1000
#: Label of the background in ADE20K; a border around it is unlabeled.
GROUND = 1


class Shape(NamedTuple):
    """A shape in an image."""

    name: str
    left: int
    top: int
    side: int

    @property
    def corners(self) -> list[tuple[int, int]]:
        """Corners of the polygon, in pixels; a disc is drawn by its box."""
        left, top, right, bottom = self.box
        if self.name == "triangle":
            return [((left + right) // 2, top), (right, bottom), (left, bottom)]
        return [(left, top), (right, top), (right, bottom), (left, bottom)]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom, in pixels."""
        return self.left, self.top, self.left + self.side, self.top + self.side


def make_tiny(name: str, root: Path, train: int = COUNTS["train"], val: int = COUNTS["val"]) -> None:
    """Write a deterministic data set of colored shapes.

    As in the real sets, some images (every sixth) are empty, one holds a crowd, and sizes differ.

    Args:
        name: A name of `ropevit.data.annotation_formats.ANNOTATION_FORMATS`.
        root: Folder to write; must be new or empty.
        train: Number of training images.
        val: Number of validation images.

    Raises:
        ValueError: If the format is unknown, a count is out of range, or the folder is not empty.
    """
    if not (1 <= train <= MAX_COUNT and 1 <= val <= MAX_COUNT):
        raise ValueError(f"got {train} and {val} images; expected 1 to {MAX_COUNT} of each split")
    if name not in ANNOTATION_FORMATS:
        raise ValueError(f"got format {name!r}; choose one of {', '.join(ANNOTATION_FORMATS)}")
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ValueError(f"{root} exists and is not empty; choose another folder")
    write = ANNOTATION_FORMATS[name].get("write_tiny")
    for first, split, count in ((0, "train", train), (MAX_COUNT, "val", val)):
        write(root, split, [draw_scene(first + index) for index in range(count)])


class Scene(NamedTuple):
    """An image and its shapes."""

    image: Image.Image
    shapes: list[Shape]


def draw_scene(number: int) -> Scene:
    """Draw one image; every sixth is empty.

    Args:
        number: Seed of the image.
    """
    noise = np.random.default_rng(number)
    height, width = (int(side) for side in noise.integers(64, 97, 2))
    pixels = noise.integers(90, 140, (height, width, 1)) + noise.integers(-8, 9, (height, width, 3))
    image = Image.fromarray(pixels.astype(np.uint8))
    draw, shapes = ImageDraw.Draw(image), []
    for half in range(0 if number % 6 == 5 else 2):  # one on the left, one on the right: they do not overlap
        side = int(noise.integers(16, 30))
        left = half * (width // 2) + int(noise.integers(0, width // 2 - side))
        top = int(noise.integers(0, height - side))
        shapes.append(Shape(list(SHAPES)[int(noise.integers(len(SHAPES)))], left, top, side))
        _paint_shape(draw, shapes[-1], SHAPES[shapes[-1].name][0])
    return Scene(image, shapes)


def _paint_shape(draw: ImageDraw.ImageDraw, shape: Shape, color: Any) -> None:
    """Draw a shape."""
    if shape.name == "disc":
        draw.ellipse(shape.box, fill=color)
    else:
        draw.polygon(shape.corners, fill=color)


def write_coco(root: Path, split: str, scenes: list[Scene]) -> None:
    """Write the images and boxes of a split in the format of COCO."""
    folder, annotations = root / f"{split}2017", []
    folder.mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    images = [
        {"id": 10 * index + 7, "file_name": f"{10 * index + 7:012}.jpg", "width": width, "height": height}
        for index, (width, height) in enumerate(scene.image.size for scene in scenes)
    ]
    for entry, scene in zip(images, scenes, strict=True):
        scene.image.save(folder / entry["file_name"], quality=95)
        annotations += [_to_annotation(entry["id"], shape) for shape in scene.shapes]
    annotations.append(_crowd_annotation(images[0]))
    for number, annotation in enumerate(annotations, 1):
        annotation["id"] = number
    categories = [{"id": category, "name": name} for name, (_, category, _) in SHAPES.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content, indent=1))


def _to_annotation(image_id: int, shape: Shape) -> dict[str, Any]:
    """Return the COCO annotation of a shape; a disc's polygon is its box."""
    return {
        "image_id": image_id,
        "category_id": SHAPES[shape.name][1],
        "bbox": [shape.left, shape.top, shape.side, shape.side],
        "area": shape.side**2,
        "iscrowd": 0,
        "segmentation": [[value for corner in shape.corners for value in corner]],
    }


def _crowd_annotation(image: dict[str, Any]) -> dict[str, Any]:
    """Return the COCO annotation of a crowd in the first four columns of an image."""
    height, width = image["height"], image["width"]
    return {
        "image_id": image["id"],
        "category_id": SHAPES["disc"][1],
        "bbox": [0, 0, 4, height],
        "area": 4 * height,
        "iscrowd": 1,
        "segmentation": {"size": [height, width], "counts": [0, 4 * height, (width - 4) * height]},
    }


def write_ade(root: Path, split: str, scenes: list[Scene]) -> None:
    """Write the images and label PNGs of a split in the format of ADE20K."""
    images, labels = (root / kind / FOLDERS[split] for kind in ("images", "annotations"))
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    for index, scene in enumerate(scenes, 1):
        name = f"ADE_{split}_{index:08}"
        scene.image.save(images / f"{name}.jpg", quality=95)
        truth = Image.new("L", scene.image.size, 0)
        draw = ImageDraw.Draw(truth)
        draw.rectangle((2, 2, truth.width - 3, truth.height - 3), fill=GROUND)
        for shape in scene.shapes:
            _paint_shape(draw, shape, SHAPES[shape.name][2])
        truth.save(labels / f"{name}.png")
    _write_classes(root)


def _write_classes(root: Path) -> None:
    """Write the published table of classes for the existing splits; classes without pixels are numbered."""
    train, val = (_count_labels(root / "annotations" / folder) for folder in FOLDERS.values())
    pixels = train.sum(0) + val.sum(0)
    names = {GROUND: "ground"} | {label: name for name, (_, _, label) in SHAPES.items()}
    rows = []
    for label in range(1, CLASSES + 1):
        images = [int((counts[:, label] > 0).sum()) for counts in (train, val)]
        ratio, name = float(pixels[label] / pixels.sum()), names.get(label, f"class {label}")
        rows.append((ratio, *images, name))
    (root / PUBLISHED_FILE).write_text(published_table(rows), encoding="utf-8")


def _count_labels(folder: Path) -> np.ndarray:
    """Count the pixels of each label (column) in each PNG (row) of a folder."""
    files = sorted(folder.glob("*.png"))
    counts = [np.bincount(np.asarray(Image.open(file)).ravel(), minlength=CLASSES + 1) for file in files]
    return np.array(counts or np.zeros((0, CLASSES + 1)))
