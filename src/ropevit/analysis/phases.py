"""Phase coverage: which angles a pair has seen in training, and which are new on a larger grid."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import nn

from ropevit.analysis.figure_model import FigureModel, FigureOptions, FigureResult, Rows
from ropevit.analysis.grouping import HeadGroup, LayerHeads, group_layers, plot_rows
from ropevit.analysis.layers import Grid, find_body, frequencies_at, trained_grid
from ropevit.analysis.plot_grid import plot_grid
from ropevit.analysis.response import describe_grid, describe_scaling

TITLE = "Angles seen in training"
TEXT = (
    "Between patches d apart a pair turns by the angle f · d. On a grid of h x w patches, d has both signs, and the "
    "angles reach from -a to a, a = |f_x| (w - 1) + |f_y| (h - 1); where a is pi or more, the whole circle. All "
    "angles between the ends count as seen, though whole patches show only some. Each line of a cell is a pair, the "
    "one that turned furthest on top, and its length the circle: blue is what training showed, orange what a larger "
    "grid adds, grey what neither shows. A pair that is blue from end to end has nothing new to see; orange in the "
    "slow pairs is where a larger grid leaves what was learned. New angles need not do harm, and a larger grid has "
    "new offsets for all pairs. One size counts as the training's, without jitter: images of several sizes, or "
    "jittered positions, showed more."
)

#: Pixels of a side of a cell; most counts of pairs divide it.
CELL_PIXELS = 192
#: Red, green and blue, from 0 to 1, of what was seen, of what the smallest and the largest grid add, and of neither.
SEEN_COLOUR, SMALLEST_COLOUR, LARGEST_COLOUR, UNSEEN_COLOUR = (
    (0.0, 0.45, 0.7),
    (0.84, 0.37, 0.0),
    (0.97, 0.78, 0.55),
    (0.91, 0.91, 0.91),
)


@dataclass(frozen=True)
class PhaseCoverage:
    """How far the pairs of all heads turn, on the trained grid and on others."""

    trained: Grid
    """Rows and columns of the trained grid."""
    grids: tuple[Grid, ...]
    """The others, from the fewest tokens to the most."""
    scaling: str | None
    """RoPE scaling of the model, if any."""
    largest: tuple[LayerHeads, ...]
    """For each layer that rotates (1 + grids, A, P): the largest |angle| in radians, first on the trained grid."""


def largest_angle(frequencies: Float[np.ndarray, "2 *A P"], grid: Grid) -> Float[np.ndarray, "*A P"]:
    """Give the largest |f · d| between two patches of a grid: |f_x| (w - 1) + |f_y| (h - 1)."""
    rows, columns = grid
    return np.abs(frequencies[0]) * (columns - 1) + np.abs(frequencies[1]) * (rows - 1)


def coverage(largest: np.ndarray) -> np.ndarray:
    """Give the share of the circle that angles from -largest to largest cover."""
    return np.minimum(largest / math.pi, 1)


def phase_coverage(model: nn.Module, grids: Sequence[Grid] = ()) -> PhaseCoverage:
    """Measure how far every pair turns on the trained grid and on others.

    The rules of the model's config are followed where they change frequencies.

    Args:
        model: A model of this package, or one that holds a single one.
        grids: Rows and columns of the other grids; 2 and 4 times the trained one if there are none.

    Raises:
        ValueError: If no layer rotates.
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
    """Give the share of the circle that each other grid adds to the trained one's, the first along the first axis."""
    return np.maximum(shares[1:] - shares[:1], 0)


def draw(data: PhaseCoverage, label: str = "") -> Any:
    """Draw a cell for each head, with a line for each pair.

    Args:
        data: What `phase_coverage` gave.
        label: Name of the model, for the title.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    shown = group_layers(data.largest)
    caption = (
        "A line is a pair, the one that turned furthest on top; its length is the circle. Blue: angles f · d between "
        f"patches of the trained grid, {describe_grid(data.trained)}; orange, from dark to light: new on grids of "
        f"{', '.join(map(describe_grid, data.grids))} (rows x columns); grey: on none. Numbers: percent of the circle "
        "that is new on each of these grids, counted from training, mean of the pairs. "
        f"{describe_scaling(data.scaling)}"
    )
    named = [layer._replace(cells=cell_names(layer)) for layer in shown]
    frame = plot_grid(plot_rows(named), TITLE, label, caption)
    for layer, centres in zip(shown, frame.centres, strict=True):
        for head, centre in enumerate(centres):
            frame.draw_image(paint_bars(coverage(layer.values[:, head])), centre)
    return frame.figure


def cell_names(layer: HeadGroup) -> tuple[str, ...]:
    """Add to the name of each cell what each grid adds to its circle."""
    added = 100 * new_coverage(coverage(layer.values)).mean(-1)
    return tuple(f"{name}: {', '.join(f'{x:.0f}' for x in added[:, head])}" for head, name in enumerate(layer.cells))


def paint_bars(shares: Float[np.ndarray, "grids P"]) -> Float[np.ndarray, "side side 3"]:
    """Paint a line for each pair, from nothing to the whole circle, the pair that was seen best on top.

    Args:
        shares: Share of the circle that is covered, first on the trained grid.
    """
    shares = shares[:, np.argsort(-shares[0], kind="stable")]
    lines = np.arange(CELL_PIXELS) * shares.shape[1] // CELL_PIXELS
    along = (np.arange(CELL_PIXELS) + 0.5) / CELL_PIXELS
    pixels = np.full((CELL_PIXELS, CELL_PIXELS, 3), UNSEEN_COLOUR)
    new = np.linspace(SMALLEST_COLOUR, LARGEST_COLOUR, len(shares) - 1)
    for share, colour in zip(shares[::-1], [*new[::-1], SEEN_COLOUR], strict=True):
        pixels[along < share[lines, None]] = colour
    return pixels


def rows(data: PhaseCoverage) -> Rows:
    """Give a row for each pair of each head on each of the other grids."""
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


def make(subject: FigureModel, options: FigureOptions) -> FigureResult:
    """Measure and draw."""
    data = phase_coverage(subject.model, subject.larger_grids(options.sizes))
    return FigureResult(draw(data, subject.label), rows(data))
