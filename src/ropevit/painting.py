"""Paint on images: boxes with tags, class colors, legends, and grids of small images with captions."""

import colorsys
import io
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Integer
from PIL import Image, ImageDraw, ImageFont

from ropevit.text import printable

Color = tuple[int, int, int]
#: Left, top, right and bottom in pixels.
Corners = tuple[float, float, float, float]

#: Colors of the first classes, which the color-blind distinguish, too.
#: Source: Okabe and Ito 2008, "Color Universal Design", without black.
SAFE_COLORS: tuple[Color, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)

#: Of the other classes: steps from class to class of hue (fraction of the color circle) and of lightness (fraction of
#: its range): a low-discrepancy sequence, in which no two classes share a color.
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
    if label < len(SAFE_COLORS):
        return SAFE_COLORS[label]
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
    canvas = image.resize((image.width * times, image.height * times), Image.Resampling.BICUBIC)
    _draw_marks(canvas, [mark._replace(box=enlarged(mark.box, times, canvas.size)) for mark in marks])
    return canvas


def _draw_marks(canvas: Image.Image, marks: Sequence[Annotation]) -> None:
    """Draw boxes, given by their outermost pixels, with their tags on an image."""
    draw, width = ImageDraw.Draw(canvas), line_width(canvas.size)
    marks = [mark._replace(text=printable(mark.text)) for mark in marks]  # tags have one line
    for mark in reversed(marks):
        draw.rectangle(mark.box, outline=PAPER, width=width + max(1, width // 3))  # stands out from any background
        draw.rectangle(mark.box, outline=class_color(mark.label), width=width)
    tags: list[Corners] = []
    for mark in marks:
        tags.append(place_tag(mark.box, _tag_size(draw, mark.text, canvas.size), canvas.size, tags))
    for mark, tag in reversed(list(zip(marks, tags, strict=True))):
        _write_tag(draw, mark, tag, canvas.size)


def enlarged(box: Corners, times: float, size: tuple[int, int]) -> tuple[int, int, int, int]:
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


def paint_labels(image: Image.Image, labels: Integer[np.ndarray, "H W"], ignored: int | None = None) -> Image.Image:
    """Overlay an image with the colors of its classes, with white lines between them.

    Args:
        image: An RGB image; it is not changed.
        labels: Class of each pixel, from 0.
        ignored: Label of pixels without a class, which keep the colors of the image.

    Returns:
        The drawing, enlarged by an integer factor (see `enlargement`) if the image is small.
    """
    times = enlargement(image.size)
    canvas = image.resize((image.width * times, image.height * times), Image.Resampling.BICUBIC)
    large = labels.repeat(times, 0).repeat(times, 1)
    colors = np.array([class_color(label) for label in range(int(labels.max()) + 1)], dtype=np.uint8)
    mixed = Image.blend(canvas, Image.fromarray(colors[large]), OPACITY)
    if ignored is not None:
        mixed.paste(canvas, mask=Image.fromarray(large == ignored))
    mixed.paste(PAPER, mask=Image.fromarray(_borders(large, max(1, line_width(canvas.size) // 2))))
    return mixed


def _borders(labels: Integer[np.ndarray, "H W"], width: int) -> Bool[np.ndarray, "H W"]:
    """Return a mask of the pixels whose class differs from that of the pixel `width` to the left or above."""
    found = np.zeros(labels.shape, dtype=bool)
    found[width:] |= labels[width:] != labels[:-width]
    found[:, width:] |= labels[:, width:] != labels[:, :-width]
    return found


def add_legend(
    image: Image.Image, entries: Sequence[tuple[int, str]], like: tuple[int, int] | None = None
) -> Image.Image:
    """Append a legend below an image, with as many entries per row as fit; without entries, return the image itself.

    Args:
        image: An RGB image; it is not changed.
        entries: Class index and text of each entry.
        like: Width and height of an image of which the text has the size; None takes this image.
    """
    if not entries:
        return image
    entries = [(label, printable(text)) for label, text in entries]
    font, draw = load_font(like or image.size), ImageDraw.Draw(image)
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


class Tile(NamedTuple):
    """An image of a grid."""

    image: Image.Image
    """An RGB image."""
    caption: str = ""
    """Lines of text below it."""


def paint_annotations(image: Image.Image, marks: Sequence[Annotation], side: int) -> Image.Image:
    """Resize an image so that its longer side has `side` pixels, and draw boxes with their tags at that size."""
    canvas = resize_to_side(image, side)
    scale = canvas.width / image.width
    _draw_marks(canvas, [mark._replace(box=enlarged(mark.box, scale, canvas.size)) for mark in marks])
    return canvas


def paint_classes(image: Image.Image, labels: Integer[np.ndarray, "H W"], ignored: int, side: int) -> Image.Image:
    """Resize an image so that its longer side has `side` pixels, and overlay it with the colors of its classes.

    Args:
        image: An RGB image.
        labels: Class of each pixel, from 0.
        ignored: Label of pixels without a class, which keep the colors of the image.
        side: Longer side of the drawing in pixels.
    """
    canvas = resize_to_side(image, side)
    resized = Image.fromarray(labels).resize(canvas.size, Image.Resampling.NEAREST)
    return resize_to_side(paint_labels(canvas, np.array(resized), ignored), side)


def classes_in(labels: Integer[np.ndarray, "H W"], ignored: int) -> list[int]:
    """Return the classes that occur in an image."""
    return [int(label) for label in np.unique(labels) if label != ignored]


def resize_to_side(image: Image.Image, side: int) -> Image.Image:
    """Resize an image so that its longer side has `side` pixels; small ones are enlarged, too."""
    scale = side / max(image.size)
    width, height = (max(1, round(length * scale)) for length in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def image_grid(tiles: Sequence[Tile], columns: int, side: int) -> Image.Image:
    """Paint images in rows, each with its caption below it; lines that are too long are cut.

    Args:
        tiles: The images, at most `side` pixels high and wide.
        columns: Number of images in a row.
        side: Width of a column in pixels.
    """
    font = ImageFont.load_default(max(12, side // 20))
    line, gap = _line_height(font), max(4, side // 32)
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    lines = [max(len(tile.caption.split("\n")) if tile.caption else 0 for tile in row) for row in rows]
    heights = [max(tile.image.height for tile in row) + count * line for row, count in zip(rows, lines, strict=True)]
    size = columns * (side + gap) + gap, sum(heights) + gap * (len(rows) + 1)
    canvas = Image.new("RGB", size, PAPER)
    draw, top = ImageDraw.Draw(canvas), gap
    for row, height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            left = gap + column * (side + gap)
            canvas.paste(tile.image, (left, top))
            for number, text in enumerate(tile.caption.split("\n")):
                shown = cut_text(draw, text, font, side)
                draw.text((left, top + tile.image.height + (number + 0.5) * line), shown, INK, font, "lm")
        top += height + gap
    return canvas


def cut_text(draw: ImageDraw.ImageDraw, text: str, font: Any, width: int) -> str:
    """Return a text without control characters, cut to a width in pixels; three dots stand for what is left out."""
    text = printable(text)
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(f"{text}...", font) > width:
        text = text[:-1]
    return f"{text}..."


def png_bytes(image: Image.Image) -> bytes:
    """Return an image as the content of a PNG file, compressed quickly."""
    content = io.BytesIO()
    image.save(content, format="PNG", compress_level=1)
    return content.getvalue()
