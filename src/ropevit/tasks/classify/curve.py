"""The curve of an evaluation: top-1 against test size."""

from collections.abc import Mapping
from typing import Any

from ropevit.extras import require
from ropevit.models.published import DRAWN, SOURCE, Figure
from ropevit.tasks.common.drawing import RC, mark_training, tidy

MEASURED, PAPER = "#0072B2", "#777777"


def draw_curve(points: Mapping[int, float], label: str, trained_at: int, paper: Mapping[int, Figure]) -> Any:
    """Draw top-1 against test size, with the paper's curve dashed where there is one.

    Args:
        points: Top-1 in percent by size in pixels.
        label: What was measured.
        trained_at: Training size in pixels.
        paper: The paper's figures by size; empty if there are none.

    Returns:
        A `matplotlib.figure.Figure`, which belongs to no window.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    matplotlib = require("matplotlib", "figures")
    with matplotlib.rc_context(RC):
        figure = require("matplotlib.figure", "figures").Figure(figsize=(6.2, 4.8), layout="constrained")
        axes = figure.subplots()
        axes.set_axisbelow(True)
        mark_training(axes, trained_at)
        if paper:
            draw_paper(axes, paper)
        sizes = sorted(points)
        axes.plot(sizes, [points[size] for size in sizes], color=MEASURED, marker="o", markersize=5, label=label)
        axes.set_xlabel("test size (pixels)")
        axes.set_ylabel("top-1 (%)")
        tidy(axes, sorted({*points, *paper}))
        figure.legend(loc="outside upper left", frameon=False, fontsize=9)
    return figure


def draw_paper(axes: Any, paper: Mapping[int, Figure]) -> None:
    """Draw the paper's figures, with bars for how well they are known, and name their source."""
    values = [figure.percent for figure in paper.values()]
    within = [figure.within if figure.source == DRAWN else 0 for figure in paper.values()]
    label = f"the paper, on ImageNet-1k val\n({SOURCE}"
    if any(figure.source == DRAWN for figure in paper.values()):
        label += f";\nbars: {DRAWN}"
    label += ")"
    style = {"color": PAPER, "linestyle": "--", "linewidth": 1, "marker": ".", "capsize": 2}
    axes.errorbar(list(paper), values, within, label=label, **style)
