"""Many small pictures in one frame: one line a layer, one cell a head."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ropevit.drawing import RC
from ropevit.extras import require

#: Most cells beside each other; the heads of a layer that has more take several lines.
MOST_COLUMNS = 12
#: From one cell's centre to the next; a cell reaches from -1 to 1.
PITCH = 2.25
#: Inches: all cells of a line, at most a cell, the room for the names of layers, at least the whole figure.
WIDTH, LARGEST, LEFT, LEAST = 9.3, 2.6, 1.25, 6.4
#: Inches of a line of small text, and letters of it in an inch.
LINE, LETTERS = 0.17, 17.0


class Row(NamedTuple):
    """A layer, or several that are alike."""

    label: str
    """What stands at its left."""
    cells: tuple[str, ...]
    """What stands above each of its cells."""


@dataclass(frozen=True)
class Mosaic:
    """The frame, still empty."""

    figure: Any
    axes: Any
    """One plot that all cells share; a cell is 2 wide and 2 high."""
    centres: list[list[tuple[float, float]]]
    """For each row, where its cells are: x to the right, y upwards."""


def mosaic(rows: Sequence[Row], title: str, caption: str) -> Mosaic:
    """Lay out an empty frame with the names of layers and cells, a title above and a caption below."""
    most = max(len(row.cells) for row in rows)
    columns = -(-most // -(-most // MOST_COLUMNS))
    inches = min(WIDTH / (columns * PITCH), LARGEST / PITCH)  # of one unit
    lines = [-(-len(row.cells) // columns) for row in rows]
    width = max(LEFT + columns * PITCH * inches + 0.1, LEAST)
    below = textwrap.wrap(caption, int((width - 0.3) * LETTERS))
    bottom, top = 0.2 + LINE * len(below), 0.75
    height = sum(lines) * PITCH * inches + bottom + top
    with require("matplotlib", "figures").rc_context(RC):
        figure = require("matplotlib.figure", "figures").Figure(figsize=(width, height))
        high = sum(lines) * PITCH
        axes = figure.add_axes(
            (LEFT / width, bottom / height, columns * PITCH * inches / width, high * inches / height)
        )
        axes.set(xlim=(0, columns * PITCH), ylim=(-high, 0))
        axes.set_axis_off()
        figure.text(0.15 / width, 1 - 0.3 / height, title, fontsize=12, va="center")
        figure.text(0.15 / width, 0.1 / height, "\n".join(below), fontsize=8, color="#555555", va="bottom")
    centres = [centres_of(row, sum(lines[:index]), columns) for index, row in enumerate(rows)]
    for row, places in zip(rows, centres, strict=True):
        name(axes, row, places)
    return Mosaic(figure, axes, centres)


def centres_of(row: Row, first: int, columns: int) -> list[tuple[float, float]]:
    """Place the cells of a row from a line on."""
    places = [divmod(cell, columns) for cell in range(len(row.cells))]
    return [((column + 0.5) * PITCH, -(first + line + 0.5) * PITCH) for line, column in places]


def name(axes: Any, row: Row, places: Sequence[tuple[float, float]]) -> None:
    """Write the name of a row beside it, and of its cells above them."""
    axes.text(-0.1, places[0][1], textwrap.fill(row.label, 16), fontsize=8, ha="right", va="center")
    for text, (x, y) in zip(row.cells, places, strict=True):
        axes.text(x - 1, y + 1.015, text, fontsize=6.5, color="#777777", ha="left", va="bottom")
