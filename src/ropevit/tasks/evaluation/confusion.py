"""Which classes a model confuses: a table and a picture, for evaluations of classifiers and segmenters."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

from ropevit.painting import INK, PAPER, Color, cut_text, png_bytes, text_color_on
from ropevit.tasks.evaluation.results import to_csv

TABLE, PICTURE = "confusion.csv", "confusion.png"
#: Most classes in the picture; of more, those with the most frequent confusions are drawn.
MOST_CLASSES = 25
#: Column of all classes that the picture leaves out.
OTHERS = "others"

#: Color of a cell of 100 %; one of 0 % is white. Side of a cell, limit on names, and height of the text, in pixels.
_FULL: Color = (0, 114, 178)
_CELL, _NAMES, _TEXT = 44, 190, 15

#: How often each true class (first) was predicted as each class (second); pairs that never occur may be left out.
Confusions = Mapping[tuple[int, int], float]


def confusion_files(confusions: Confusions, classes: Mapping[str, str], title: str, unit: str) -> dict[str, bytes]:
    """Return the files about confused classes by name.

    Args:
        confusions: Counts by true and predicted class.
        classes: Classes of the data and their names.
        title: Title of the picture.
        unit: What is counted, such as images.
    """
    table = _table(confusions, classes, unit)
    names = list(classes.values())
    chosen = most_confused(confusions, len(names))
    shares = row_shares(confusions, chosen)
    columns = [names[label] for label in chosen] + ([OTHERS] if len(chosen) < len(names) else [])
    head = [title, f"rows: true class; columns: predicted class, in percent of the {unit} of the true class"]
    if len(chosen) < len(names):
        head.append(f"{len(chosen)} of {len(names)} classes, those of the most frequent confusions")
    there = ~np.isnan(shares[:, 0])
    rows = [names[label] for label, occurs in zip(chosen, there, strict=True) if occurs]
    picture = draw_matrix(shares[there, : len(columns)], rows, columns, head)
    return {TABLE: table.encode(), PICTURE: png_bytes(picture)}


def _table(confusions: Confusions, classes: Mapping[str, str], unit: str) -> str:
    """Return the pairs that occur as CSV: by true class, the most frequent prediction first."""
    keys, totals = list(classes), _totals(confusions)
    order = sorted(confusions, key=lambda pair: (pair[0], -confusions[pair], pair[1]))
    heading = ["true", "true_name", "predicted", "predicted_name", unit, "percent"]
    lines = [
        [keys[true], classes[keys[true]], keys[predicted], classes[keys[predicted]], f"{count:.0f}", f"{share:.2f}"]
        for true, predicted in order
        if (count := confusions[true, predicted]) and (share := 100 * count / totals[true])
    ]
    return to_csv(heading, lines)


def _totals(confusions: Confusions) -> dict[int, float]:
    """Return the count of each true class."""
    totals: dict[int, float] = {}
    for (true, _), count in confusions.items():
        totals[true] = totals.get(true, 0) + count
    return totals


def most_confused(confusions: Confusions, num_classes: int) -> list[int]:
    """Return the classes of the picture in their order: all, or those of the most frequent confusions."""
    if num_classes <= MOST_CLASSES:
        return list(range(num_classes))
    wrong = sorted((pair for pair in confusions if pair[0] != pair[1]), key=lambda pair: (-confusions[pair], pair))
    chosen = dict.fromkeys(label for pair in wrong for label in pair)
    rest = (label for label in range(num_classes) if label not in chosen)
    return sorted([*chosen, *rest][:MOST_CLASSES])


def row_shares(confusions: Confusions, chosen: Sequence[int]) -> Float[np.ndarray, "n m"]:
    """Return the percent of each chosen true class by chosen predicted class, and in the last column of all others.

    A row is NaN where the class does not occur.
    """
    totals, place = _totals(confusions), {label: number for number, label in enumerate(chosen)}
    counts = np.zeros((len(chosen), len(chosen) + 1))
    for (true, predicted), count in confusions.items():
        if true in place:
            counts[place[true], place.get(predicted, len(chosen))] += count
    sums = np.array([totals.get(label) or np.nan for label in chosen])
    return 100 * counts / sums[:, None]


def draw_matrix(
    percents: Float[np.ndarray, "n m"], rows: Sequence[str], columns: Sequence[str], head: Sequence[str]
) -> Image.Image:
    """Draw a matrix of percents: the darker, the more; each cell with its rounded number, 0 without.

    Args:
        percents: The numbers, 0 to 100.
        rows: Names of the rows.
        columns: Names of the columns.
        head: Lines above the matrix.
    """
    font = ImageFont.load_default(_TEXT)
    left, above = (min(_NAMES, _TEXT + round(max(map(font.getlength, names)))) for names in (rows, columns))
    top = round(1.6 * _TEXT * len(head)) + above + _TEXT
    size = max(left + _CELL * len(columns) + _TEXT, 640), top + _CELL * len(rows) + _TEXT
    canvas = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(canvas)
    for number, line in enumerate(head):
        draw.text((_TEXT, _TEXT + 1.6 * _TEXT * number), cut_text(draw, line, font, size[0] - 2 * _TEXT), INK, font)
    for column, name in enumerate(columns):
        canvas.paste(_upright(name, font, above), (left + _CELL * column, top - above))
    for row, name in enumerate(rows):
        y = top + _CELL * row
        draw.text((left - 6, y + _CELL / 2), cut_text(draw, name, font, left - _TEXT), INK, font, "rm")
        for column in range(len(columns)):
            _draw_cell(draw, (left + _CELL * column, y), float(percents[row, column]), font)
    return canvas


def _upright(name: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, length: int) -> Image.Image:
    """Draw the name of a column, which reads from the bottom to the top, in a strip of a length in pixels."""
    line = Image.new("RGB", (length, _CELL), PAPER)
    draw = ImageDraw.Draw(line)
    draw.text((6, _CELL / 2), cut_text(draw, name, font, length - _TEXT), INK, font, "lm")
    return line.transpose(Image.Transpose.ROTATE_90)


def _draw_cell(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    percent: float,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """Draw a cell of the matrix."""
    red, green, blue = (round(255 + percent / 100 * (full - 255)) for full in _FULL)
    box = (*corner, corner[0] + _CELL - 2, corner[1] + _CELL - 2)
    draw.rectangle(box, fill=(red, green, blue), outline=(225, 225, 225))
    if percent >= 0.5:
        middle = corner[0] + _CELL / 2 - 1, corner[1] + _CELL / 2 - 1
        draw.text(middle, f"{percent:.0f}", text_color_on((red, green, blue)), font, "mm")
