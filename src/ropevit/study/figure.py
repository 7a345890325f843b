"""The curves of a study: score against test size, one panel beside the other."""

from collections.abc import Sequence
from typing import Any

from ropevit.drawing import RC, mark_training, tidy
from ropevit.extras import require
from ropevit.models.positions import STYLES
from ropevit.study.results import Curve, PanelResult

#: Strokes of the rules, in the order in which they come, then again from the first.
STROKES = ("--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (8, 3)))

#: Entries of the legend in one row.
LEGEND_COLUMNS = 6

#: What the larger test images of each panel hold.
TITLES = {
    "field": "field: a larger image shows more of the scene",
    "zoom": "zoom: a larger image shows the same picture with more pixels",
}


def draw_curves(results: Sequence[PanelResult], caption: str = "") -> Any:
    """Draw score against test size for each panel.

    Args:
        results: Panels of a study.
        caption: One line under the figure.

    Returns:
        A `matplotlib.figure.Figure`, which belongs to no window.

    Raises:
        ValueError: If there is nothing to draw, or matplotlib is not installed.
    """
    if not results:
        raise ValueError("got no panel with results; let at least one seed of every embedding finish first")
    matplotlib = require("matplotlib", "figures")
    with matplotlib.rc_context(RC):
        figure = require("matplotlib.figure", "figures").Figure(figsize=(6.2 * len(results), 4.8), layout="constrained")
        plots = figure.subplots(1, len(results), squeeze=False)[0]
        for axes, result in zip(plots, results, strict=True):
            draw_panel(axes, result)
        lines, texts = plots[0].get_legend_handles_labels()
        figure.legend(lines, texts, loc="outside upper center", ncols=min(len(lines), LEGEND_COLUMNS), frameon=False)
        figure.supxlabel(caption or None, fontsize=8, color="#555555")
    return figure


def draw_panel(axes: Any, result: PanelResult) -> None:
    """Draw the curves of one panel, with a band of one standard deviation where there are several seeds."""
    mark_training(axes, result.train_size)
    rules = list(dict.fromkeys(curve.variant for curve in result.curves if any(curve.variant)))
    for curve in result.curves:
        draw_curve(axes, curve, STROKES[rules.index(curve.variant) % len(STROKES)] if any(curve.variant) else "-")
    seeds = len(result.seeds)
    spread = f"mean of {seeds} seeds, band ± 1 standard deviation" if seeds > 1 else "1 seed"
    axes.set_title(f"{TITLES.get(result.panel, result.panel)}\n({spread})", fontsize=10)
    axes.set_xlabel("test size (pixels)")
    axes.set_ylabel(result.metric)
    tidy(axes, result.sizes)


def draw_curve(axes: Any, curve: Curve, stroke: Any) -> None:
    """Draw one embedding in its own colour and marker, hollow if trained with rules, and the stroke of its rules."""
    colour, marker = STYLES[curve.embedding]
    mean, spread = curve.mean, curve.spread
    look = {"color": colour, "marker": marker, "markersize": 5, "linestyle": stroke}
    if curve.train_scaling is not None:
        look["markerfacecolor"] = "white"
    axes.plot(curve.sizes, mean, **look, label=curve.label)
    if len(curve.scores) > 1:
        axes.fill_between(curve.sizes, mean - spread, mean + spread, color=colour, alpha=0.18, linewidth=0)
