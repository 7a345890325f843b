"""Figure of frequency maps: direction and magnitude of the frequency of each pair of each head."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from torch import nn

from ropevit.analysis.figure_model import FigureModel, FigureOptions, FigureResult, Rows
from ropevit.analysis.grouping import LayerHeads, group_layers, plot_rows
from ropevit.analysis.layers import rotated_layers
from ropevit.analysis.plot_grid import PlotGrid, plot_grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Frequency maps"
OPTIONS: tuple[str, ...] = ()
TEXT = (
    "Each pair of channels of a head is rotated by f · d for an offset of d patches. A dot is the frequency f of one "
    "pair: its direction is that of the rotation, its distance from the center the magnitude, on a logarithmic scale. "
    "RoPE-Axial has dots on the two axes only; RoPE-Mixed learns them anywhere. Light dots are -f, which has the same "
    "cosines. The outer line is the aliasing limit, |f_x| = pi or |f_y| = pi: on whole patches, a pair beyond it "
    "(orange) equals a slower one. A dot shows what a pair can encode, not that the model uses it."
)

#: Magnitude in radians per patch at the center of a cell; smaller ones are drawn there too.
SLOWEST = 0.01
#: Magnitudes of the reference rings, in radians per patch.
_RINGS = (0.1, 1.0)
#: Magnitude in radians per patch at the edge of a cell; larger ones are drawn there too.
FASTEST = 2 * math.pi
#: Area of a dot in a cell of two inches, in square points.
_DOT_SIZE = 9
DOT, MIRROR, ALIASED = "#0072B2", "#A9CCE3", "#D55E00"


@dataclass(frozen=True)
class FrequencyMap:
    """Frequencies of all layers with RoPE."""

    layers: tuple[LayerHeads, ...]
    """Radians per patch, (2, A, P) of each layer: row 0 for x, row 1 for y."""


def frequency_map(model: nn.Module) -> FrequencyMap:
    """Return the frequencies of every head at the trained grid, where RoPE scaling has no effect.

    Args:
        model: A model of this package, or a module that contains one.

    Returns:
        The layers with RoPE, in order.

    Raises:
        ValueError: If no layer has RoPE.
    """
    layers = rotated_layers(model)
    return FrequencyMap(tuple(LayerHeads(layer.name, layer.frequencies.double().numpy()) for layer in layers))


def is_aliased(frequencies: Float[np.ndarray, "2 *A"]) -> np.ndarray:
    """Return which frequencies alias on whole patches: those with |f_x| or |f_y| above pi.

    Source: the sampling theorem at one sample per patch along each axis.
    """
    return np.abs(frequencies).max(0) > math.pi


def to_cell(frequencies: Float[np.ndarray, "2 *A"]) -> Float[np.ndarray, "2 *A"]:
    """Map frequencies to a cell from -1 to 1: same direction, magnitude on a logarithmic scale."""
    magnitude = np.hypot(*frequencies)
    safe = np.clip(magnitude, SLOWEST, FASTEST)
    return frequencies / np.maximum(magnitude, 1e-30) * np.log(safe / SLOWEST) / math.log(FASTEST / SLOWEST)


def draw(data: FrequencyMap, label: str = "") -> "Figure":
    """Draw a cell for each head; identical layers and heads share one.

    Args:
        data: Result of `frequency_map`.
        label: Name of the model, for the title.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    shown = group_layers(data.layers)
    caption = (
        "f of each pair of channels; center: 0.01 rad/patch or less, rings: 0.1 and 1, outer line: aliasing limit "
        "(pi along x or y), orange: beyond it. Light: -f, which has the same cosines. Right is x (columns), "
        "down is y (rows)."
    )
    frame = plot_grid(plot_rows(shown), TITLE, label, caption)
    _draw_outlines(frame)
    for layer, centers in zip(shown, frame.centers, strict=True):
        for head, center in enumerate(centers):
            _draw_head(frame, layer.values[:, head], center)
    return frame.figure


def _draw_head(frame: PlotGrid, frequencies: Float[np.ndarray, "2 P"], center: tuple[float, float]) -> None:
    """Draw the dots of one head, y downwards as in images."""
    x, y = to_cell(frequencies)
    color = np.where(is_aliased(frequencies), ALIASED, DOT)
    size = max(_DOT_SIZE * frame.inches, _DOT_SIZE / 3)
    frame.axes.scatter(center[0] - x, center[1] + y, s=size / 2, color=MIRROR, linewidths=0, rasterized=True)
    frame.axes.scatter(center[0] + x, center[1] - y, s=size, color=color, linewidths=0, rasterized=True)


def _draw_outlines(frame: PlotGrid) -> None:
    """Draw axes, rings and the aliasing limit into every cell."""
    around = np.linspace(0, 2 * math.pi, 73)
    circle = np.stack([np.cos(around), np.sin(around)])
    limit = to_cell(math.pi * circle / np.abs(circle).max(0))
    rings = [to_cell(magnitude * circle) for magnitude in _RINGS]
    gap = np.full((2, 1), np.nan)
    thin = np.concatenate(
        [*(part for ring in rings for part in (ring, gap)), np.array([[-1, 1, np.nan, 0, 0], [0, 0, np.nan, -1, 1]])], 1
    )
    for centers in frame.centers:
        for center in centers:
            middle = np.array(center)[:, None]
            frame.axes.plot(*(middle + thin), color="#DDDDDD", linewidth=0.5, zorder=0)
            frame.axes.plot(*(middle + limit), color="#888888", linewidth=0.8, zorder=0)


def rows(data: FrequencyMap) -> Rows:
    """Return a table row for each pair of each head of each layer."""
    table: Rows = []
    for layer in data.layers:
        aliased = is_aliased(layer.values)
        for head, pair in np.ndindex(layer.values.shape[1:]):
            fx, fy = map(float, layer.values[:, head, pair])
            table.append(
                {
                    "layer": layer.name,
                    "head": head,
                    "pair": pair,
                    "fx": fx,
                    "fy": fy,
                    "speed": math.hypot(fx, fy),
                    "direction_degrees": math.degrees(math.atan2(fy, fx)),
                    "aliased": int(aliased[head, pair]),
                }
            )
    return table


def make(figure_model: FigureModel, options: FigureOptions) -> FigureResult:
    """Compute and draw the figure."""
    del options
    data = frequency_map(figure_model.model)
    return FigureResult(draw(data, figure_model.label), rows(data))
