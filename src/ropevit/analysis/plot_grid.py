"""Grid of small plots: one row per layer, one cell per head."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ropevit.arithmetic import ceil_div
from ropevit.drawing import RC
from ropevit.extras import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

#: Most cells per line; layers with more heads take several lines.
_MAX_COLUMNS = 12
#: Distance between cell centers; a cell spans -1 to 1.
_CELL_SPACING = 2.25
#: Inches: width of a line of cells, largest cell, width of the layer labels, smallest figure.
GRID_WIDTH, MAX_CELL, LABEL_WIDTH, MIN_WIDTH = 9.3, 2.6, 1.25, 6.4
#: Inches: margin above the cells, and height of the labels above each line of cells.
TOP_MARGIN, LABEL_HEIGHT = 0.7, 0.08
#: Height of a line of small text in inches, and characters per inch.
LINE_HEIGHT, CHARACTERS_PER_INCH = 0.17, 17.0


class PlotRow(NamedTuple):
    """Labels of a layer, or of several identical ones."""

    label: str
    """Label at the left."""
    cells: tuple[str, ...]
    """Label above each cell."""


@dataclass(frozen=True)
class PlotGrid:
    """An empty grid of cells to draw into."""

    figure: "Figure"
    axes: "Axes"
    """Axes that all cells share; a cell is 2 wide and 2 high."""
    centers: list[list[tuple[float, float]]]
    """Cell centers of each row: x to the right, y upwards."""
    inches: float
    """Inches of one unit, half a cell."""

    def draw_image(self, pixels: np.ndarray, center: tuple[float, float], **how: Any) -> "AxesImage":
        """Draw an image into a cell, first row on top, its longer side as long as the cell's."""
        high, wide = pixels.shape[:2]
        x, y = wide / max(high, wide), high / max(high, wide)
        extent = (center[0] - x, center[0] + x, center[1] - y, center[1] + y)
        limits = self.axes.axis()
        image = self.axes.imshow(pixels, extent=extent, aspect="auto", interpolation="nearest", **how)
        self.axes.axis(limits)
        return image

    def add_colorbar(self, image: "AxesImage", label: str) -> None:
        """Add a color bar at the top right."""
        width, height = self.figure.get_size_inches()
        colorbar_axes = self.figure.add_axes(((width - 1.75) / width, 1 - 0.5 / height, 1.6 / width, 0.1 / height))
        with require("matplotlib", "figures").rc_context(RC):
            bar = self.figure.colorbar(image, cax=colorbar_axes, orientation="horizontal")
        bar.ax.tick_params(labelsize=6.5, length=2, pad=1)
        bar.outline.set_visible(False)
        bar.ax.set_title(label, fontsize=6.5, color="#777777", pad=2)


def plot_grid(rows: Sequence[PlotRow], title: str, label: str, caption: str) -> PlotGrid:
    """Lay out an empty grid with labels of layers and cells, title and label above and a caption below."""
    columns = _choose_columns([len(row.cells) for row in rows])
    inches = min(GRID_WIDTH / (columns * _CELL_SPACING), MAX_CELL / _CELL_SPACING)
    rise = _CELL_SPACING + LABEL_HEIGHT / inches
    lines = [ceil_div(len(row.cells), columns) for row in rows]
    width = max(LABEL_WIDTH + columns * _CELL_SPACING * inches + 0.1, MIN_WIDTH)
    below = textwrap.wrap(caption, int((width - 0.3) * CHARACTERS_PER_INCH))
    bottom, tall = 0.2 + LINE_HEIGHT * len(below), sum(lines) * rise * inches
    height = tall + bottom + TOP_MARGIN
    with require("matplotlib", "figures").rc_context(RC):
        figure = require("matplotlib.figure", "figures").Figure(figsize=(width, height))
        axes = figure.add_axes(
            (LABEL_WIDTH / width, bottom / height, columns * _CELL_SPACING * inches / width, tall / height)
        )
        axes.set(xlim=(0, columns * _CELL_SPACING), ylim=(-sum(lines) * rise, 0))
        axes.set_axis_off()
        figure.text(0.15 / width, 1 - 0.22 / height, title, fontsize=12, va="center")
        figure.text(0.15 / width, 1 - 0.44 / height, label, fontsize=9, va="center", color="#555555")
        figure.text(0.15 / width, 0.1 / height, "\n".join(below), fontsize=8, color="#555555", va="bottom")
    centers = [_cell_centers(row, sum(lines[:index]), columns, rise) for index, row in enumerate(rows)]
    for row, row_centers in zip(rows, centers, strict=True):
        _label_row(axes, row, row_centers, 6.5 if columns < _MAX_COLUMNS else 5.6)
    return PlotGrid(figure, axes, centers, inches)


def _choose_columns(cells: Sequence[int]) -> int:
    """Choose the number of cells per line: the largest that fills every line of rows with several lines."""
    most = max(cells)
    choices = range(min(most, _MAX_COLUMNS), 0, -1)
    whole = next(count for count in choices if all(cell <= count or cell % count == 0 for cell in cells))
    lines = ceil_div(most, _MAX_COLUMNS)
    return max(whole, ceil_div(most, lines) if whole < _MAX_COLUMNS / 2 else 0)


def _cell_centers(row: PlotRow, first: int, columns: int, rise: float) -> list[tuple[float, float]]:
    """Return the cell centers of a row that starts at a line; lines are `rise` apart."""
    cells = [divmod(cell, columns) for cell in range(len(row.cells))]
    return [
        ((column + 0.5) * _CELL_SPACING, 1 + (_CELL_SPACING - 2) / 2 - (first + line + 1) * rise)
        for line, column in cells
    ]


def _label_row(axes: "Axes", row: PlotRow, centers: Sequence[tuple[float, float]], size: float) -> None:
    """Write the label of a row beside it, and those of its cells above them."""
    axes.text(-0.1, centers[0][1], textwrap.fill(row.label, 19), fontsize=8, ha="right", va="center")
    for text, (x, y) in zip(row.cells, centers, strict=True):
        axes.text(x - 1, y + 1.015, text, fontsize=size, color="#777777", ha="left", va="bottom")
