"""The curves of a study: score against test size, one panel beside the other."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ropevit.extras import require
from ropevit.study.results import LABELS, Curve, PanelResult

#: Colour and marker of each embedding, the same in every figure; told apart by colour-blind readers too.
#: Source of the colours: Okabe and Ito 2008, Color Universal Design.
STYLES = {
    "none": ("#999999", "x"),
    "ape": ("#D55E00", "s"),
    "rope_axial": ("#0072B2", "^"),
    "rope_mixed": ("#009E73", "o"),
    "rope_axial_ape": ("#56B4E9", "v"),
    "rope_mixed_ape": ("#CC79A7", "D"),
}

#: What the larger test images of each panel hold.
TITLES = {
    "field": "field: a larger image shows more of the scene",
    "zoom": "zoom: a larger image shows the same picture with more pixels",
}

#: The same letters on every machine, and text that stays text in SVG.
RC = {"font.family": "DejaVu Sans", "font.size": 10, "svg.fonttype": "none", "svg.hashsalt": "ropevit"}


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
        figure.legend(lines, texts, loc="outside upper center", ncols=len(lines), frameon=False)
        figure.supxlabel(caption or None, fontsize=8, color="#555555")
    return figure


def draw_panel(axes: Any, result: PanelResult) -> None:
    """Draw the curves of one panel, with a band of one standard deviation where there are several seeds."""
    axes.axvline(result.train_size, color="#BBBBBB", linestyle="--", linewidth=1, zorder=0)
    axes.annotate(
        "training size",
        (result.train_size, 0.02),
        xycoords=("data", "axes fraction"),
        rotation=90,
        xytext=(-3, 0),
        textcoords="offset points",
        ha="right",
        color="#777777",
        fontsize=8,
    )
    for curve in result.curves:
        draw_curve(axes, curve)
    seeds = len(result.seeds)
    spread = f"mean of {seeds} seeds, band ± 1 standard deviation" if seeds > 1 else "1 seed"
    axes.set_title(f"{TITLES.get(result.panel, result.panel)}\n({spread})", fontsize=10)
    axes.set_xlabel("test size (pixels)")
    axes.set_ylabel(result.metric)
    axes.set_xscale("log")
    axes.set_xticks(result.sizes, [str(size) for size in result.sizes])
    axes.minorticks_off()
    axes.grid(axis="y", color="#EEEEEE")
    axes.spines[["top", "right"]].set_visible(False)


def draw_curve(axes: Any, curve: Curve) -> None:
    """Draw one embedding in its own colour and marker."""
    colour, marker = STYLES[curve.embedding]
    mean, spread = curve.mean, curve.spread
    axes.plot(curve.sizes, mean, color=colour, marker=marker, markersize=5, label=LABELS[curve.embedding])
    if len(curve.scores) > 1:
        axes.fill_between(curve.sizes, mean - spread, mean + spread, color=colour, alpha=0.18, linewidth=0)


def save_figure(figure: Any, path: Path) -> list[Path]:
    """Write a figure as PNG and SVG beside each other; the same figure gives the same bytes.

    Args:
        figure: From `draw_curves`.
        path: Without suffix.

    Returns:
        The files written.
    """
    files = [path.with_suffix(".png"), path.with_suffix(".svg")]
    for file in files:
        file.write_bytes(figure_bytes(figure, file.suffix[1:]))
    return files


def figure_bytes(figure: Any, form: str) -> bytes:
    """Render a figure as "png" or "svg"."""
    buffer = io.BytesIO()
    with require("matplotlib", "figures").rc_context(RC):
        figure.savefig(buffer, format=form, dpi=150, metadata={"Date": None} if form == "svg" else None)
    return buffer.getvalue()
