"""Images of predictions (boxes, class colours, legend) and the folder that they are written to."""

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

Colour = tuple[int, int, int]
#: Left, top, right and bottom in pixels.
Corners = tuple[float, float, float, float]

#: Hues are this part of the circle apart, lightnesses that part of their range: no two classes ever come to match.
#: Source: Roberts 2018, "The Unreasonable Effectiveness of Quasirandom Sequences" (one and two dimensions).
HUE_STEP, LIGHTNESS_STEP = 0.6180339887498949, 0.7548776662466927
_LIGHTNESS = (0.3, 0.75)
_SATURATION = 0.85

#: The side that smaller images are enlarged to, so that text can be read: the root of their pixels.
_READABLE = 400
#: Share of an overlay that is the colour of its class; the rest is the image.
OPACITY = 0.55
PAPER, INK = (255, 255, 255), (38, 38, 38)


class Annotation(NamedTuple):
    """A box around something."""

    box: Corners
    """Where, in pixels of the image."""
    label: int
    """Its class, which decides the colour."""
    text: str
    """What is written at it."""


def class_colour(label: int) -> Colour:
    """Give a class its colour: red, green and blue from 0 to 255, always the same."""
    low, high = _LIGHTNESS
    lightness = low + (high - low) * ((0.5 + label * LIGHTNESS_STEP) % 1)
    return _as_bytes(colorsys.hls_to_rgb(label * HUE_STEP % 1, lightness, _SATURATION))


def text_colour_on(colour: Colour) -> Colour:
    """Choose black or white for text on a colour, whichever contrasts more.

    Source: relative luminance and contrast of WCAG 2.1.
    """
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (x / 255 for x in colour)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (255, 255, 255) if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else (0, 0, 0)


def _as_bytes(colour: Sequence[float]) -> Colour:
    """Turn shares of red, green and blue into bytes."""
    red, green, blue = (round(255 * share) for share in colour)
    return red, green, blue


def enlargement(size: tuple[int, int]) -> int:
    """Say how many times an image is enlarged to be painted on; 1 leaves it as it is.

    Args:
        size: Two sides in pixels.
    """
    return max(1, math.ceil(_READABLE / math.sqrt(size[0] * size[1])))


def line_width(size: tuple[int, int]) -> int:
    """Choose the width of lines in pixels for an image of such sides."""
    return max(2, round(math.sqrt(size[0] * size[1]) / 240))


def load_font(size: tuple[int, int]) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Choose letters for an image of such sides."""
    return ImageFont.load_default(max(12, round(math.sqrt(size[0] * size[1]) / 36)))


def paint_boxes(image: Image.Image, marks: Sequence[Annotation]) -> Image.Image:
    """Draw boxes and what is written at them.

    Args:
        image: An RGB image; it is not changed.
        marks: The most important first, which end on top.

    Returns:
        The image, enlarged a whole number of times (see `enlargement`) if it is small.
    """
    times = enlargement(image.size)
    marks = [mark._replace(text=printable(mark.text)) for mark in marks]  # letters on one line
    canvas = image.resize((image.width * times, image.height * times), Image.Resampling.BICUBIC)
    draw, width = ImageDraw.Draw(canvas), line_width(canvas.size)
    boxes = [enlarged(mark.box, times, canvas.size) for mark in marks]
    for mark, box in reversed(list(zip(marks, boxes, strict=True))):
        draw.rectangle(box, outline=PAPER, width=width + max(1, width // 3))  # stands out from any background
        draw.rectangle(box, outline=class_colour(mark.label), width=width)
    tags: list[Corners] = []
    for mark, box in zip(marks, boxes, strict=True):
        tags.append(place_tag(box, _tag_size(draw, mark.text, canvas.size), canvas.size, tags))
    for mark, tag in reversed(list(zip(marks, tags, strict=True))):
        _write_tag(draw, mark, tag, canvas.size)
    return canvas


def enlarged(box: Corners, times: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Find the outermost pixels of a box in the enlarged image; the box ends between pixels, its line lies on them.

    Args:
        box: In pixels of the image.
        times: How many times it was enlarged.
        size: Width and height of the enlarged image.
    """
    left, top = (min(max(0, round(x * times)), side - 1) for x, side in zip(box[:2], size, strict=True))
    right, bottom = (min(round(x * times), side) - 1 for x, side in zip(box[2:], size, strict=True))
    return left, top, max(left, right), max(top, bottom)


def _tag_size(draw: ImageDraw.ImageDraw, text: str, size: tuple[int, int]) -> tuple[int, int]:
    """Measure the width and height of a text with its background."""
    font = load_font(size)
    return math.ceil(draw.textlength(text, font)) + 2 * (line_width(size) + 1), _line_height(font)


def _line_height(font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    """Measure a line of text with room around it, the same for all texts."""
    _, top, _, bottom = font.getbbox("Ág|")
    return math.ceil(1.3 * (bottom - top))


def place_tag(box: Corners, tag: tuple[int, int], size: tuple[int, int], others: Sequence[Corners]) -> Corners:
    """Find room for a text at its box: above, inside at the top, below, inside at the bottom, else over others.

    Args:
        box: In pixels of the canvas.
        tag: Width and height of the text.
        size: Width and height of the canvas.
        others: Texts that have their places.
    """
    left, top, _, bottom = box
    x = max(0, min(left, size[0] - tag[0]))
    places = [(x, y, x + tag[0], y + tag[1]) for y in (top - tag[1], top, bottom + 1, bottom + 1 - tag[1])]
    inside = [place for place in places if place[1] >= 0 and place[3] <= size[1]] or [(x, 0, x + tag[0], tag[1])]
    free = [place for place in inside if not any(overlap(place, other) for other in others)]
    return (free or inside)[0]


def overlap(one: Corners, other: Corners) -> bool:
    """Tell whether two boxes share any room."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _write_tag(draw: ImageDraw.ImageDraw, mark: Annotation, tag: Corners, size: tuple[int, int]) -> None:
    """Write a text on its background."""
    left, top, right, bottom = tag
    colour = class_colour(mark.label)
    draw.rectangle((left, top, right - 1, bottom - 1), fill=colour)
    draw.text(
        (left + line_width(size) + 1, (top + bottom) / 2), mark.text, text_colour_on(colour), load_font(size), "lm"
    )


def paint_labels(image: Image.Image, labels: Int[np.ndarray, "H W"]) -> Image.Image:
    """Lay the colours of classes over an image, with white lines between them.

    Args:
        image: An RGB image; it is not changed.
        labels: Class of each pixel, from 0.

    Returns:
        The image, enlarged a whole number of times (see `enlargement`) if it is small.
    """
    times = enlargement(image.size)
    canvas = image.resize((image.width * times, image.height * times), Image.Resampling.BICUBIC)
    large = labels.repeat(times, 0).repeat(times, 1)
    colours = np.array([class_colour(label) for label in range(int(labels.max()) + 1)], dtype=np.uint8)
    mixed = Image.blend(canvas, Image.fromarray(colours[large]), OPACITY)
    mixed.paste(PAPER, mask=Image.fromarray(_borders(large, max(1, line_width(canvas.size) // 2))))
    return mixed


def _borders(labels: Int[np.ndarray, "H W"], width: int) -> Bool[np.ndarray, "H W"]:
    """Find the pixels whose class differs from that of the pixel `width` to the left or above."""
    found = np.zeros(labels.shape, dtype=bool)
    found[width:] |= labels[width:] != labels[:-width]
    found[:, width:] |= labels[:, width:] != labels[:, :-width]
    return found


def add_legend(image: Image.Image, entries: Sequence[tuple[int, str]]) -> Image.Image:
    """Put a legend below an image, as many entries a row as fit; without entries it is left as it is.

    Args:
        image: An RGB image; it is not changed.
        entries: Class and text of each.
    """
    if not entries:
        return image
    entries = [(label, printable(text)) for label, text in entries]
    font, draw = load_font(image.size), ImageDraw.Draw(image)
    side, height = _line_height(font) * 2 // 3, _line_height(font) * 4 // 3
    widths = [math.ceil(side * 2.5 + draw.textlength(text, font)) for _, text in entries]
    room = max(image.width - side, *widths)
    places, x, row = [], 0, 0
    for width in widths:
        x, row = (0, row + 1) if x + width > room else (x, row)
        places.append((x + side, row * height + side // 2))
        x += width
    canvas = Image.new("RGB", (room + side, image.height + (row + 1) * height + side), PAPER)
    canvas.paste(image)
    draw = ImageDraw.Draw(canvas)
    for (label, text), (x, y) in zip(entries, places, strict=True):
        middle = image.height + y + height / 2
        draw.rectangle((x, middle - side / 2, x + side - 1, middle + side / 2 - 1), fill=class_colour(label))
        draw.text((x + 1.4 * side, middle), text, INK, font, "lm")
    return canvas


class Summary(NamedTuple):
    """What was found in an image, in words."""

    line: str
    """All of it in short."""
    headings: tuple[str, ...]
    """Of the columns of a table."""
    rows: list[tuple[str, ...]]
    """Of the table; the first cell is a name, the others are numbers."""


@runtime_checkable
class Predictor(Protocol):
    """A model that predicts on images one by one and writes its predictions to a folder."""

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
        """Write what belongs to all images, and return the names of the files written besides the images."""
        ...


def check_out(out: Path) -> None:
    """Refuse a folder with something in it.

    Raises:
        ValueError: Saying what to do.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"got the file {out} for a folder; choose another --out")
    if not is_empty(out):
        raise ValueError(f"{out} is not empty; choose another --out")


@contextmanager
def new_folder(out: Path) -> Iterator[None]:
    """Keep a new folder for this process while it writes there; it is not left behind empty.

    Raises:
        ValueError: If something is in it, another process writes there, or the disk refuses.
    """
    with lock_folder(out):
        check_out(out)
        yield


def png_names(files: Sequence[ImageFile], others: Sequence[str] = ()) -> list[str]:
    """Name a PNG for each image: street.jpg becomes street.png, or street.jpg.png where there is a street.webp, too.

    Args:
        files: The images.
        others: Files and folders that are written beside the drawings, in lower case.

    Raises:
        ValueError: If two images have the same name, such as one from each of two folders, or a drawing would lie in
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
            f"got images of the same name ({join_names(same)}); predict them one after another, with --out"
        )
    for file, name in zip(files, names, strict=True):
        if (folder := PurePosixPath(name).parts[0]).lower() in others:
            raise ValueError(
                f"got {file.path}, whose drawing would lie in {folder}, which holds other files; "
                "predict that folder alone, or rename it"
            )
    return names


def save_png(path: Path, image: Image.Image) -> None:
    """Write an image; its folder is made.

    Raises:
        WeightsError: If the disk refuses.
    """
    write_atomically(path, lambda file: image.save(file, format="PNG"))
