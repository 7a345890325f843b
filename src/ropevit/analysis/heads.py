"""One number per head: its plot against layers, with a panel for each resolution, and its table."""

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from ropevit.analysis.attention import AttentionStats, LayerStats, add_label, describe, show_size
from ropevit.analysis.figure_model import Rows
from ropevit.drawing import RC
from ropevit.extras import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Panels per row, and size of a panel in inches.
COLUMNS, WIDTH, HEIGHT = 3, 3.6, 3.1
#: Characters of small text per inch.
_CHARACTERS_PER_INCH = 13.5
HEAD, MEAN, UNIFORM = "#56B4E9", "#0072B2", "#777777"
#: Colors of the resolutions in the comparison.
COLORS = ("#009E73", "#0072B2", "#E69F00", "#D55E00", "#CC79A7", "#000000")
_MARKERS = "os^Dvp"

Measure = Callable[[LayerStats], Float[np.ndarray, "A"]]


class Quantity(NamedTuple):
    """A number per head that is drawn."""

    label: str
    """Axis label with unit."""
    value: Measure
    uniform: Callable[[LayerStats], float]
    """Value of uniform attention."""
    share: str
    """Axis label of the comparison of resolutions."""
    relative: Callable[[LayerStats], float]
    """Divisor in the comparison."""


def draw_heads(data: AttentionStats, quantity: Quantity, title: str, label: str) -> "Figure":
    """Draw a point for each head and a line for their mean against layers, and uniform attention dashed.

    Args:
        data: Attention statistics.
        quantity: Quantity to draw.
        title: Title above the figure.
        label: Name of the model, for the title.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    panels = len(data.sizes) + 1
    columns = math.ceil(panels / math.ceil(panels / COLUMNS))
    lines = math.ceil(panels / columns)
    size = (columns * WIDTH + 0.4, lines * HEIGHT + 1.0)
    with require("matplotlib", "figures").rc_context(RC):
        figure = require("matplotlib.figure", "figures").Figure(figsize=size, layout="constrained")
        plots = figure.subplots(lines, columns, squeeze=False).flatten()
        top = max(max(quantity.value(layer).max(), quantity.uniform(layer)) for layer in data.layers) or 1  # one token
        for axes, pixels in zip(plots, data.sizes, strict=False):
            draw_size(axes, data.at(pixels), quantity)
            axes.set_title(f"{show_size(pixels)} pixels", fontsize=10)
            axes.set_ylim(0, 1.06 * top)
        plots[0].legend(fontsize=7.5, frameon=False)
        compare(plots[panels - 1], data, quantity)
        for axes in plots[panels:]:
            axes.set_axis_off()
        figure.suptitle(add_label(title, label), fontsize=12)
        figure.supxlabel(
            "\n".join(textwrap.wrap(describe(data), int(size[0] * _CHARACTERS_PER_INCH))), fontsize=8, color="#555555"
        )
    return figure


def head_rows(data: AttentionStats, columns: Callable[[LayerStats, int], Mapping[str, float]]) -> Rows:
    """Return a table row for each head of each layer at each resolution, with the columns of one figure."""
    return [
        {**layer.facts, "head": head, **columns(layer, head), "share_to_prefix": float(layer.prefix_share[head])}
        for layer in data.layers
        for head in range(len(layer.prefix_share))
    ]


def draw_size(axes: "Axes", layers: Sequence[LayerStats], quantity: Quantity) -> None:
    """Draw one resolution."""
    values = [quantity.value(layer) for layer in layers]
    for layer, found in enumerate(values):
        label = "one head" if layer == 0 else None
        axes.plot([layer] * len(found), found, "o", color=HEAD, markersize=4, alpha=0.7, markeredgewidth=0, label=label)
    axes.plot([found.mean() for found in values], color=MEAN, linewidth=1.5, label="mean of heads")
    _draw_uniform(axes, [quantity.uniform(layer) for layer in layers], UNIFORM, "uniform attention")
    axes.set_ylabel(quantity.label)
    _label_axes(axes, layers)


def compare(axes: "Axes", data: AttentionStats, quantity: Quantity) -> None:
    """Draw the means of all resolutions, normalized for comparison."""
    axes.plot([], color=UNIFORM, linestyle="--", linewidth=1, label="uniform attention")
    for size, color, marker in zip(data.sizes, cycle(COLORS), cycle(_MARKERS), strict=False):
        layers = data.at(size)
        values, uniform = (
            [value(layer) / quantity.relative(layer) for layer in layers]
            for value in (lambda layer: quantity.value(layer).mean(), quantity.uniform)
        )
        axes.plot(values, color=color, marker=marker, linewidth=1.2, markersize=4, label=f"{show_size(size)} pixels")
        _draw_uniform(axes, uniform, color)
    axes.set_title("mean of heads at all sizes", fontsize=10)
    axes.set_ylabel(quantity.share)
    axes.set_ylim(0, 1.06 * axes.dataLim.y1 or 1)
    _label_axes(axes, data.at(data.sizes[0]))
    axes.legend(fontsize=7.5, frameon=False)


def _draw_uniform(axes: "Axes", values: Sequence[float], color: str, label: str | None = None) -> None:
    """Draw the values of uniform attention, layer by layer."""
    edges = np.arange(len(values) + 1) - 0.5
    axes.stairs(values, edges, baseline=None, color=color, linestyle="--", linewidth=0.9, label=label)


def _label_axes(axes: "Axes", layers: Sequence[LayerStats]) -> None:
    """Label the axes of a panel, and draw lines between stages."""
    axes.set_xlabel("layer")
    axes.set_xticks(range(0, len(layers), math.ceil(len(layers) / 12)))
    axes.set_xlim(-0.5, len(layers) - 0.5)
    for index, (before, after) in enumerate(pairwise(layers)):
        if before.stride != after.stride:
            axes.axvline(index + 0.5, color="#DDDDDD", linewidth=0.8, zorder=0)
    axes.grid(axis="y", color="#EEEEEE")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
