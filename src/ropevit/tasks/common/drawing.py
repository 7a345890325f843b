"""Draw predictions on images (boxes, class colors, legend), and manage the output folder of `ropevit predict`."""

import colorsys
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int
from PIL import Image, ImageDraw, ImageFont

from ropevit.data.listing import ImageFile
from ropevit.files import write_atomically
from ropevit.locks import is_empty, lock_folder
from ropevit.text import join_names, printable

Color = tuple[int, int, int]
#: Left, top, right and bottom in pixels.
Corners = tuple[float, float, float, float]

#: Steps from class to class of hue (fraction of the color circle) and of lightness (fraction of its range): a
#: low-discrepancy sequence, in which no two classes share a color.
#: Source: Roberts 2018, "The Unreasonable Effectiveness of Quasirandom Sequences" (one and two dimensions).
HUE_STEP, LIGHTNESS_STEP = 0.6180339887498949, 0.7548776662466927
_LIGHTNESS = (0.3, 0.75)
_SATURATION = 0.85

#: Side in pixels (the square root of the area) up to which smaller images are enlarged, so that text is readable.
_READABLE = 400
#: Opacity of the class colors over the image.
OPACITY = 0.55
PAPER, INK = (255, 255, 255), (38, 38, 38)


class Annotation(NamedTuple):
    """A labeled box."""

    box: Corners
    """Left, top, right and bottom in pixels of the image."""
    label: int
    """Class index, which determines the color."""
    text: str
    """Text of the tag."""


def class_color(label: int) -> Color:
    """Return the color of a class, always the same: red, green and blue from 0 to 255."""
    low, high = _LIGHTNESS
    lightness = low + (high - low) * ((0.5 + label * LIGHTNESS_STEP) % 1)
    return _as_bytes(colorsys.hls_to_rgb(label * HUE_STEP % 1, lightness, _SATURATION))


def text_color_on(color: Color) -> Color:
    """Choose black or white for text on a color, whichever contrasts more.

    Source: relative luminance and contrast of WCAG 2.1.
    """
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (x / 255 for x in color)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (255, 255, 255) if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else (0, 0, 0)


def _as_bytes(color: Sequence[float]) -> Color:
    """Convert red, green and blue from 0 to 1 to bytes."""
    red, green, blue = (round(255 * share) for share in color)
    return red, green, blue


def enlargement(size: tuple[int, int]) -> int:
    """Return the integer factor by which an image is enlarged before drawing; 1 for a large one.

    Args:
        size: Width and height in pixels.
    """
    return max(1, math.ceil(_READABLE / math.sqrt(size[0] * size[1])))


def line_width(size: tuple[int, int]) -> int:
    """Return the width of lines in pixels for an image of this width and height."""
    return max(2, round(math.sqrt(size[0] * size[1]) / 240))


def load_font(size: tuple[int, int]) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font for an image of this width and height."""
    return ImageFont.load_default(max(12, round(math.sqrt(size[0] * size[1]) / 36)))


def paint_boxes(image: Image.Image, marks: Sequence[Annotation]) -> Image.Image:
    """Draw boxes with their tags.

    Args:
        image: An RGB image; it is not changed.
        marks: Boxes, the most important first; these are drawn on top.

    Returns:
        The drawing, enlarged by an integer factor (see `enlargement`) if the image is small.
    """
    times = enlargement(image.size)
    marks = [mark._replace(text=printable(mark.text)) for mark in marks]  # tags have one line
    canvas = image.resize((image.width * times, image.height * times), Image.Resampling.BICUBIC)
    draw, width = ImageDraw.Draw(canvas), line_width(canvas.size)
    boxes = [enlarged(mark.box, times, canvas.size) for mark in marks]
    for mark, box in reversed(list(zip(marks, boxes, strict=True))):
        draw.rectangle(box, outline=PAPER, width=width + max(1, width // 3))  # stands out from any background
        draw.rectangle(box, outline=class_color(mark.label), width=width)
    tags: list[Corners] = []
    for mark, box in zip(marks, boxes, strict=True):
        tags.append(place_tag(box, _tag_size(draw, mark.text, canvas.size), canvas.size, tags))
    for mark, tag in reversed(list(zip(marks, tags, strict=True))):
        _write_tag(draw, mark, tag, canvas.size)
    return canvas


def enlarged(box: Corners, times: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the outermost pixels of a box in the enlarged image; box edges lie between pixels, lines on them.

    Args:
        box: In pixels of the image.
        times: Factor of enlargement.
        size: Width and height of the enlarged image.
    """
    left, top = (min(max(0, round(x * times)), side - 1) for x, side in zip(box[:2], size, strict=True))
    right, bottom = (min(round(x * times), side) - 1 for x, side in zip(box[2:], size, strict=True))
    return left, top, max(left, right), max(top, bottom)


def _tag_size(draw: ImageDraw.ImageDraw, text: str, size: tuple[int, int]) -> tuple[int, int]:
    """Return the width and height of a tag in pixels: a text with its background."""
    font = load_font(size)
    return math.ceil(draw.textlength(text, font)) + 2 * (line_width(size) + 1), _line_height(font)


def _line_height(font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    """Return the height of a line of text with its margin, the same for all texts."""
    _, top, _, bottom = font.getbbox("Ág|")
    return math.ceil(1.3 * (bottom - top))


def place_tag(box: Corners, tag: tuple[int, int], size: tuple[int, int], others: Sequence[Corners]) -> Corners:
    """Place a tag at its box: above, inside at the top, below, or inside at the bottom, where no other tag is.

    Args:
        box: In pixels of the canvas.
        tag: Width and height of the tag.
        size: Width and height of the canvas.
        others: Tags placed before. If all four candidates overlap one of them, the first candidate is used.
    """
    left, top, _, bottom = box
    x = max(0, min(left, size[0] - tag[0]))
    candidates = [(x, y, x + tag[0], y + tag[1]) for y in (top - tag[1], top, bottom + 1, bottom + 1 - tag[1])]
    inside = [candidate for candidate in candidates if candidate[1] >= 0 and candidate[3] <= size[1]] or [
        (x, 0, x + tag[0], tag[1])
    ]
    free = [candidate for candidate in inside if not any(overlap(candidate, other) for other in others)]
    return (free or inside)[0]


def overlap(one: Corners, other: Corners) -> bool:
    """Return whether two boxes overlap."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _write_tag(draw: ImageDraw.ImageDraw, mark: Annotation, tag: Corners, size: tuple[int, int]) -> None:
    """Draw a tag: the text on its background."""
    left, top, right, bottom = tag
    color = class_color(mark.label)
    draw.rectangle((left, top, right - 1, bottom - 1), fill=color)
    draw.text((left + line_width(size) + 1, (top + bottom) / 2), mark.text, text_color_on(color), load_font(size), "lm")


def paint_labels(image: Image.Image, labels: Int[np.ndarray, "H W"]) -> Image.Image:
    """Overlay an image with the colors of its classes, with white lines between them.

    Args:
        image: An RGB image; it is not changed.
        labels: Class of each pixel, from 0.

    Returns:
        The drawing, enlarged by an integer factor (see `enlargement`) if the image is small.
    """
    times = enlargement(image.size)
    canvas = image.resize((image.width * times, image.height * times), Image.Resampling.BICUBIC)
    large = labels.repeat(times, 0).repeat(times, 1)
    colors = np.array([class_color(label) for label in range(int(labels.max()) + 1)], dtype=np.uint8)
    mixed = Image.blend(canvas, Image.fromarray(colors[large]), OPACITY)
    mixed.paste(PAPER, mask=Image.fromarray(_borders(large, max(1, line_width(canvas.size) // 2))))
    return mixed


def _borders(labels: Int[np.ndarray, "H W"], width: int) -> Bool[np.ndarray, "H W"]:
    """Return a mask of the pixels whose class differs from that of the pixel `width` to the left or above."""
    found = np.zeros(labels.shape, dtype=bool)
    found[width:] |= labels[width:] != labels[:-width]
    found[:, width:] |= labels[:, width:] != labels[:, :-width]
    return found


def add_legend(image: Image.Image, entries: Sequence[tuple[int, str]]) -> Image.Image:
    """Append a legend below an image, with as many entries per row as fit; without entries, return the image itself.

    Args:
        image: An RGB image; it is not changed.
        entries: Class index and text of each entry.
    """
    if not entries:
        return image
    entries = [(label, printable(text)) for label, text in entries]
    font, draw = load_font(image.size), ImageDraw.Draw(image)
    side, height = _line_height(font) * 2 // 3, _line_height(font) * 4 // 3
    widths = [math.ceil(side * 2.5 + draw.textlength(text, font)) for _, text in entries]
    room = max(image.width - side, *widths)
    positions, x, row = [], 0, 0
    for width in widths:
        x, row = (0, row + 1) if x + width > room else (x, row)
        positions.append((x + side, row * height + side // 2))
        x += width
    canvas = Image.new("RGB", (room + side, image.height + (row + 1) * height + side), PAPER)
    canvas.paste(image)
    draw = ImageDraw.Draw(canvas)
    for (label, text), (x, y) in zip(entries, positions, strict=True):
        middle = image.height + y + height / 2
        draw.rectangle((x, middle - side / 2, x + side - 1, middle + side / 2 - 1), fill=class_color(label))
        draw.text((x + 1.4 * side, middle), text, INK, font, "lm")
    return canvas


class Summary(NamedTuple):
    """Predictions on an image as text: a line and a table."""

    line: str
    """Summary in one line."""
    headings: tuple[str, ...]
    """Headings of the table."""
    rows: list[tuple[str, ...]]
    """Rows of the table; the first cell is a name, the others are numbers."""


@runtime_checkable
class Predictor(Protocol):
    """Interface of a model that predicts on images one by one and writes the predictions to a folder."""

    def take(self, number: int, file: ImageFile, name: str, image: Image.Image) -> Summary:
        """Predict on an image, write the result, and return a summary.

        Args:
            number: Number of the file in the list, from 1.
            file: The file.
            name: Name of the PNG to write.
            image: As `read_image` returns it.
        """
        ...

    def close(self) -> str:
        """Write the files about all images, such as a JSON file of detections, and return their names."""
        ...


def check_out(out: Path) -> None:
    """Raise ValueError unless a folder is empty or does not exist.

    Raises:
        ValueError: If it is a file, or a folder that is not empty.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"got the file {out} for a directory; choose another --out")
    if not is_empty(out):
        raise ValueError(f"{out} is not empty; choose another --out")


@contextmanager
def new_folder(out: Path) -> Iterator[None]:
    """Context that creates and locks an output folder; a folder that is empty at the end is removed.

    Raises:
        ValueError: If it is not empty, another process writes to it, or it cannot be created.
    """
    with lock_folder(out):
        check_out(out)
        yield


def png_names(files: Sequence[ImageFile], others: Sequence[str] = ()) -> list[str]:
    """Return a PNG name for each image: street.jpg becomes street.png, or street.jpg.png if there is a street.webp.

    Args:
        files: The images.
        others: Other files and folders of the output folder, in lower case.

    Raises:
        ValueError: If two images have the same name, such as those of two folders, or a drawing would be written into
            one of the others.
    """
    short = [str(PurePosixPath(file.name).with_suffix(".png")) for file in files]
    counts = Counter(name.lower() for name in short)  # some systems take A.png and a.png for the same file
    pairs = zip(files, short, strict=True)
    names = [name if counts[name.lower()] == 1 else f"{file.name}.png" for file, name in pairs]
    counts = Counter(name.lower() for name in names)
    same = [str(file.path) for file, name in zip(files, names, strict=True) if counts[name.lower()] > 1]
    if same:
        raise ValueError(
            f"got images of the same name ({join_names(same)}); predict them in separate calls, each with its own --out"
        )
    for file, name in zip(files, names, strict=True):
        if (folder := PurePosixPath(name).parts[0]).lower() in others:
            raise ValueError(
                f"got {file.path}, whose drawing would be written into {folder}, which holds other files; "
                "predict that folder alone, or rename it"
            )
    return names


def save_png(path: Path, image: Image.Image) -> None:
    """Write an image atomically, and create its folder.

    Raises:
        WeightsError: If it cannot be written.
    """
    write_atomically(path, lambda file: image.save(file, format="PNG"))
