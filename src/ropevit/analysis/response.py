"""Figure of the response to relative position: the attention that a head's rotation alone prefers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from torch import nn

from ropevit.analysis.figure_model import FigureModel, FigureOptions, FigureResult, Rows
from ropevit.analysis.grouping import LayerHeads, group_layers, plot_rows
from ropevit.analysis.layers import Grid, find_body, frequencies_at, trained_grid
from ropevit.analysis.plot_grid import PlotGrid, plot_grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Response to relative position"
OPTIONS = ("sizes",)
TEXT = (
    "The response of a head to a key d = (dx, dy) patches from the query is the mean over pairs of cos(f · d): "
    "the factor that the rotation puts on the score of equal query and key, with the same weight in every pair. "
    "The frame contains the offsets seen in training; outside are those of a larger grid, where a strong response "
    "far from the center was never seen in training. One training size without jitter is assumed: images of several "
    "sizes, or jittered positions, cover more. Content, biases and absolute embeddings also contribute to attention: "
    "the response shows what the rotation prefers, not what the head attends to."
)


@dataclass(frozen=True)
class Response:
    """Responses of all heads on several grids."""

    trained: Grid
    """Rows and columns of the trained grid."""
    scaling: str | None
    """RoPE scaling of the model, if any."""
    grids: tuple[Grid, ...]
    maps: tuple[tuple[LayerHeads, ...], ...]
    """For each grid and each layer with RoPE (1, A, 2 h - 1, 2 w - 1): offsets dy from -(h - 1) to h - 1 in rows,
    dx likewise in columns."""


def offsets(grid: Grid) -> Float[np.ndarray, "2 rows columns"]:
    """Return all offsets (dx, dy) that occur on a grid, in patches; rows are dy, columns dx."""
    dy, dx = (np.arange(1 - side, side, dtype=np.float64) for side in grid)
    return np.stack(np.meshgrid(dx, dy))


def response_map(
    frequencies: Float[np.ndarray, "2 A P"], apart: Float[np.ndarray, "2 rows columns"]
) -> Float[np.ndarray, "A rows columns"]:
    """Return the mean over pairs of cos(f_x dx + f_y dy).

    Args:
        frequencies: Radians per patch; row 0 for x, row 1 for y.
        apart: Offsets (dx, dy) in patches.

    Source: the real part of RoPE's score for q = k of equal length in all pairs; Su et al. 2021 (arXiv:2104.09864),
    section 3.4.3.
    """
    x, y = (np.multiply.outer(f, d) for f, d in zip(frequencies, apart, strict=True))
    return np.cos(x + y).mean(1)


def relative_response(model: nn.Module, grids: Sequence[Grid] = ()) -> Response:
    """Compute the response of every head on the trained grid and on larger ones.

    The model's RoPE scaling is applied to frequencies; an attention factor, which scales all scores of a head, is
    ignored.

    Args:
        model: A model of this package, or a module that contains one.
        grids: Rows and columns of the other grids; default: twice the trained one.

    Raises:
        ValueError: If no layer has RoPE.
    """
    rows, columns = trained = trained_grid(model)
    chosen = tuple(dict.fromkeys([trained, *(grids or [(2 * rows, 2 * columns)])]))
    maps = []
    for grid in chosen:
        apart, layers = offsets(grid), frequencies_at(model, grid)
        maps.append(tuple(LayerHeads(name, response_map(f.double().numpy(), apart)[None]) for name, f in layers))
    return Response(trained, find_body(model).config.scaling, chosen, tuple(maps))


def draw(data: Response, label: str = "") -> "Figure":
    """Draw a cell for each head: the largest grid, with a frame around the trained range.

    With RoPE scaling, which also changes responses inside that range, each grid has a row.

    Args:
        data: Result of `relative_response`.
        label: Name of the model, for the title.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    largest = max(range(len(data.grids)), key=lambda index: np.prod(data.grids[index]))
    drawn = range(len(data.grids)) if data.scaling else [largest]
    lines = [(data.grids[index], shown) for index in drawn for shown in group_layers(data.maps[index])]
    named = [
        shown._replace(label=f"{shown.label}, {describe_grid(grid)}") if data.scaling else shown
        for grid, shown in lines
    ]
    caption = (
        f"Mean over pairs of cos(f · d) for a key d patches right of and below the query (the center), on "
        f"{'each grid' if data.scaling else describe_grid(data.grids[largest])} tokens (rows x columns); frame: "
        f"offsets of the trained grid, {describe_grid(data.trained)}. {describe_scaling(data.scaling)}"
    )
    frame = plot_grid(plot_rows(named), TITLE, label, caption)
    images = []
    for (grid, shown), centers in zip(lines, frame.centers, strict=True):
        for cell, center in zip(shown.values[0], centers, strict=True):
            images.append(frame.draw_image(cell, center, cmap="RdBu_r", vmin=-1, vmax=1))
            outline(frame, center, data.trained, grid)
    frame.add_colorbar(images[-1], "response")
    return frame.figure


def outline(frame: PlotGrid, center: tuple[float, float], trained: Grid, grid: Grid) -> None:
    """Draw a frame around the offsets of the trained grid inside a cell."""
    longest = 2 * max(grid) - 1
    y, x = ((2 * min(sides) - 1) / longest for sides in zip(trained, grid, strict=True))
    across, up = np.array([-x, x, x, -x, -x]), np.array([-y, -y, y, y, -y])
    frame.axes.plot(center[0] + across, center[1] + up, color="#222222", linewidth=0.7)


def describe_grid(grid: Grid) -> str:
    """Format a grid."""
    return f"{grid[0]} x {grid[1]}"


def describe_scaling(scaling: str | None) -> str:
    """Describe the RoPE scaling of a model."""
    return f"RoPE scaling: {scaling}." if scaling else "No RoPE scaling."


def rows(data: Response) -> Rows:
    """Return a row for each head on each grid: the response nearby, its range, and the highest outside training."""
    table: Rows = []
    for grid, layers in zip(data.grids, data.maps, strict=True):
        apart = offsets(grid)
        outside = (np.abs(apart[0]) >= data.trained[1]) | (np.abs(apart[1]) >= data.trained[0])
        for layer in layers:
            for head, response in enumerate(layer.values[0]):
                table.append({"layer": layer.name, "head": head, "rows": grid[0], "columns": grid[1]})
                table[-1] |= _summarize(response, apart, outside)
    return table


def _summarize(response: np.ndarray, apart: np.ndarray, outside: np.ndarray) -> dict[str, str | int | float]:
    """Summarize the response of one head; empty where there is no such offset."""
    near = {"right": (1, 0), "below": (0, 1), "right_below": (1, 1), "left_below": (-1, 1)}
    found: dict[str, str | int | float] = {}
    for name, (dx, dy) in near.items():
        here = response[(apart[0] == dx) & (apart[1] == dy)]
        found[name] = float(here[0]) if len(here) else ""
    found |= {"mean": float(response.mean()), "lowest": float(response.min())}
    if not outside.any():
        return found | {"highest_outside": "", "dx": "", "dy": ""}
    best = np.unravel_index(np.where(outside, response, -np.inf).argmax(), response.shape)
    return found | {"highest_outside": float(response[best]), "dx": int(apart[0][best]), "dy": int(apart[1][best])}


def make(figure_model: FigureModel, options: FigureOptions) -> FigureResult:
    """Compute and draw the figure, on the largest of the given sizes."""
    grids = figure_model.larger_grids(options.sizes)[: None if options.sizes else 1]
    data = relative_response(figure_model.model, grids)
    return FigureResult(draw(data, figure_model.label), rows(data))
