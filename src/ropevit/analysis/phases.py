"""Figure of phase coverage: rotation angles of each pair seen in training, and new ones on larger grids."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from torch import nn

from ropevit.analysis.figure_model import FigureModel, FigureOptions, FigureResult, Rows
from ropevit.analysis.grouping import HeadGroup, LayerHeads, group_layers, plot_rows
from ropevit.analysis.layers import Grid, find_body, frequencies_at, trained_grid
from ropevit.analysis.plot_grid import plot_grid
from ropevit.analysis.response import describe_grid, describe_scaling

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Angles seen in training"
OPTIONS = ("sizes",)
TEXT = (
    "Between patches d apart a pair is rotated by the angle f · d. On a grid of h x w patches, d has both signs, and "
    "angles range from -a to a, a = |f_x| (w - 1) + |f_y| (h - 1); with a of pi or more, the whole circle. All angles "
    "in the range count as seen, though whole patches produce only some. Each line of a cell is a pair, ordered by the "
    "range in training, and its length is the circle: blue for angles seen in training, orange for those that a larger "
    "grid adds, gray for the rest. A fully blue pair has no new angles; orange in the slow pairs shows where a larger "
    "grid leaves the trained range. New angles need not be harmful, and a larger grid has new offsets for all pairs. "
    "One training size without jitter is assumed: images of several sizes, or jittered positions, cover more."
)

#: Side of a cell in pixels; divisible by most numbers of pairs.
CELL_PIXELS = 192
#: Red, green and blue, from 0 to 1, for seen angles, those that the smallest and the largest grid add, and unseen ones.
SEEN_COLOR, SMALLEST_COLOR, LARGEST_COLOR, UNSEEN_COLOR = (
    (0.0, 0.45, 0.7),
    (0.84, 0.37, 0.0),
    (0.97, 0.78, 0.55),
    (0.91, 0.91, 0.91),
)


@dataclass(frozen=True)
class PhaseCoverage:
    """Angle ranges of the pairs of all heads, on the trained grid and on others."""

    trained: Grid
    """Rows and columns of the trained grid."""
    grids: tuple[Grid, ...]
    """The other grids, by number of tokens."""
    scaling: str | None
    """RoPE scaling of the model, if any."""
    largest: tuple[LayerHeads, ...]
    """For each layer with RoPE (1 + grids, A, P): the largest |angle| in radians, first on the trained grid."""


def largest_angle(frequencies: Float[np.ndarray, "2 *A P"], grid: Grid) -> Float[np.ndarray, "*A P"]:
    """Return the largest |f · d| between two patches of a grid: |f_x| (w - 1) + |f_y| (h - 1)."""
    rows, columns = grid
    return np.abs(frequencies[0]) * (columns - 1) + np.abs(frequencies[1]) * (rows - 1)


def coverage(largest: np.ndarray) -> np.ndarray:
    """Return the fraction of the circle that angles from -largest to largest cover."""
    return np.minimum(largest / math.pi, 1)


def phase_coverage(model: nn.Module, grids: Sequence[Grid] = ()) -> PhaseCoverage:
    """Compute the angle range of every pair on the trained grid and on others.

    The model's RoPE scaling is applied.

    Args:
        model: A model of this package, or a module that contains one.
        grids: Rows and columns of the other grids; default: 2 and 4 times the trained one.

    Raises:
        ValueError: If no layer has RoPE.
    """
    rows, columns = trained = trained_grid(model)
    others = tuple(sorted(set(grids), key=math.prod)) or ((2 * rows, 2 * columns), (4 * rows, 4 * columns))
    angles = [
        [largest_angle(layer.frequencies.double().numpy(), grid) for layer in frequencies_at(model, grid)]
        for grid in (trained, *others)
    ]
    names = [layer.name for layer in frequencies_at(model, trained)]
    layers = tuple(
        LayerHeads(name, np.stack(found)) for name, found in zip(names, zip(*angles, strict=True), strict=True)
    )
    return PhaseCoverage(trained, others, find_body(model).config.scaling, layers)


def new_coverage(shares: np.ndarray) -> np.ndarray:
    """Return the fraction of the circle that each other grid adds to the trained one, along the first axis."""
    return np.maximum(shares[1:] - shares[:1], 0)


def draw(data: PhaseCoverage, label: str = "") -> "Figure":
    """Draw a cell for each head, with a line for each pair.

    Args:
        data: Result of `phase_coverage`.
        label: Name of the model, for the title.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    shown = group_layers(data.largest)
    caption = (
        "Each line is a pair, ordered by its range in training; its length is the circle. Blue: angles f · d between "
        f"patches of the trained grid, {describe_grid(data.trained)}; orange, from dark to light: new on grids of "
        f"{', '.join(map(describe_grid, data.grids))} (rows x columns); gray: on none. Numbers: percent of the circle "
        "that is new on each of these grids relative to training, mean over pairs. "
        f"{describe_scaling(data.scaling)}"
    )
    named = [layer._replace(cells=_cell_names(layer)) for layer in shown]
    frame = plot_grid(plot_rows(named), TITLE, label, caption)
    for layer, centers in zip(shown, frame.centers, strict=True):
        for head, center in enumerate(centers):
            frame.draw_image(paint_bars(coverage(layer.values[:, head])), center)
    return frame.figure


def _cell_names(layer: HeadGroup) -> tuple[str, ...]:
    """Append the percentage of new angles on each grid to the label of each cell."""
    added = 100 * new_coverage(coverage(layer.values)).mean(-1)
    return tuple(f"{name}: {', '.join(f'{x:.0f}' for x in added[:, head])}" for head, name in enumerate(layer.cells))


def paint_bars(shares: Float[np.ndarray, "grids P"]) -> Float[np.ndarray, "side side 3"]:
    """Paint a line for each pair, from no angle to the whole circle, ordered by coverage in training.

    Args:
        shares: Covered fraction of the circle, first on the trained grid.
    """
    shares = shares[:, np.argsort(-shares[0], kind="stable")]
    lines = np.arange(CELL_PIXELS) * shares.shape[1] // CELL_PIXELS
    along = (np.arange(CELL_PIXELS) + 0.5) / CELL_PIXELS
    pixels = np.full((CELL_PIXELS, CELL_PIXELS, 3), UNSEEN_COLOR)
    new = np.linspace(SMALLEST_COLOR, LARGEST_COLOR, len(shares) - 1)
    for share, color in zip(shares[::-1], [*new[::-1], SEEN_COLOR], strict=True):
        pixels[along < share[lines, None]] = color
    return pixels


def rows(data: PhaseCoverage) -> Rows:
    """Return a table row for each pair of each head on each of the other grids."""
    table: Rows = []
    for layer in data.largest:
        shares = coverage(layer.values)
        new = new_coverage(shares)
        for index, head, pair in np.ndindex(new.shape):
            grid = data.grids[index]
            table.append(
                {
                    "layer": layer.name,
                    "head": head,
                    "pair": pair,
                    "rows": grid[0],
                    "columns": grid[1],
                    "largest_angle_trained": float(layer.values[0, head, pair]),
                    "largest_angle": float(layer.values[index + 1, head, pair]),
                    "covered_trained": float(shares[0, head, pair]),
                    "covered": float(shares[index + 1, head, pair]),
                    "new": float(new[index, head, pair]),
                }
            )
    return table


def make(figure_model: FigureModel, options: FigureOptions) -> FigureResult:
    """Compute and draw the figure."""
    data = phase_coverage(figure_model.model, figure_model.larger_grids(options.sizes))
    return FigureResult(draw(data, figure_model.label), rows(data))
