"""Figure of a study: score against test size for each panel, with a separate plot for each RoPE scaling."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ropevit.drawing import RC, mark_training, tidy
from ropevit.extras import require
from ropevit.models.positions import position_label, position_style
from ropevit.study.results import EmbeddingScores, PanelResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: What is special about the training, and RoPE scaling in evaluation.
Variant = tuple[str | None, str | None]
_NO_SCALING: Variant = (None, None)

#: Legend entries in a row, per column of plots.
_LEGEND_COLUMNS = 3

#: Titles of the panels.
_TITLES = {
    "far": "far (longer distance): on a larger image the cue for a label is further away",
    "field": "field (larger field of view): a larger image shows more of the scene",
    "zoom": "zoom (higher resolution): a larger image is the same one with more pixels",
}

#: The embedding that is drawn dashed, as a reference: how much any position embedding gives.
_REFERENCE = "none"
#: Dashes of the baselines.
_DASHES = ((4, 2), (1, 1.5))
#: Color of the reference lines.
GRAY = "#777777"


def draw_curves(results: Sequence[PanelResult], caption: str = "") -> "Figure":
    """Draw score against test size for each panel; with RoPE scaling, a row per panel and a column per variant.

    Args:
        results: Panels of a study.
        caption: One line under the figure.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If `results` is empty, or matplotlib is not installed.
    """
    if not results:
        raise ValueError("got no panel with results; let at least one seed of every embedding finish first")
    matplotlib = require("matplotlib", "figures")
    variants = list(dict.fromkeys(curve.variant for result in results for curve in result.curves))
    rows, columns = (1, len(results)) if len(variants) == 1 else (len(results), len(variants))
    size = (6.2 * columns, 5.4) if len(variants) == 1 else (4.4 * columns, 0.8 + 4.8 * rows)
    cells = [(result, variant) for result in results for variant in variants]
    with matplotlib.rc_context(RC):
        figure = require("matplotlib.figure", "figures").Figure(figsize=size, layout="constrained")
        plots = figure.subplots(rows, columns, squeeze=False, sharey="row" if len(variants) > 1 else False)
        for axes, (result, variant) in zip(plots.flat, cells, strict=True):
            draw_panel(axes, result, variant, alone=len(variants) == 1)
        legend = {
            text: line for axes in plots.flat for line, text in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        shown = min(len(legend), _LEGEND_COLUMNS * columns)
        figure.legend(legend.values(), legend, loc="outside upper center", ncols=shown, frameon=False)
        figure.supxlabel(caption or None, fontsize=8, color="#555555")
    return figure


def draw_panel(axes: "Axes", result: PanelResult, variant: Variant = _NO_SCALING, alone: bool = True) -> None:
    """Draw the curves of one panel and one variant, with the curves without RoPE scaling dotted behind them.

    Args:
        axes: Where to draw.
        result: The panel.
        variant: What is special about the training, and RoPE scaling in evaluation.
        alone: Whether the figure has one variant, which the title then need not name.
    """
    mark_training(axes, result.train_size)
    for curve in result.curves:
        if curve.variant == variant:
            _draw_curve(axes, curve)
        elif curve.variant == _NO_SCALING:
            axes.plot(
                curve.sizes, curve.mean, color=position_style(curve.embedding)[0], linewidth=1, linestyle=":", alpha=0.6
            )
    _draw_references(axes, result)
    seeds = len(result.seeds)
    spread = f"mean of {seeds} seeds, band ± 1 standard deviation" if seeds > 1 else "1 seed"
    title = (
        f"{_TITLES.get(result.panel, result.panel)}\n({spread})"
        if alone
        else f"{result.panel}: {_describe_variant(variant)}"
    )
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("test size (pixels)")
    axes.set_ylabel(result.metric)
    tidy(axes, result.sizes)
    axes.margins(y=0.1)  # room for the label above the highest line
    axes.set_ylim(bottom=0)  # a truncated axis exaggerates small differences


def _draw_references(axes: "Axes", result: PanelResult) -> None:
    """Draw the baselines (majority class, tiling, resizing) as dashed lines, with a legend below the plot."""
    lines = {}
    if result.majority is not None:
        sizes = [size for size in result.sizes if size in result.majority.scores]
        scores = [result.majority.scores[size] for size in sizes]
        label = f"majority class (a model that learned nothing): {result.majority.name}"
        (lines[label],) = axes.plot(sizes, scores, color=GRAY, linestyle="-.", linewidth=1)
    for baseline, dashes in zip(result.baselines, _DASHES, strict=False):
        known = dict(zip(baseline.sizes, baseline.mean, strict=True))
        whole = next(
            curve for curve in result.curves if (curve.embedding, curve.variant) == (baseline.embedding, _NO_SCALING)
        )
        if result.train_size in whole.sizes:  # at the training size the baseline is the model itself
            known = {result.train_size: whole.mean[whole.sizes.index(result.train_size)], **known}
        color = position_style(baseline.embedding)[0]
        style = {"color": color, "linestyle": (0, dashes), "linewidth": 1.2}
        (lines[baseline.label],) = axes.plot(list(known), list(known.values()), **style)
    if lines:  # below the plot, where it covers no curve
        location = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "frameon": False}
        axes.legend(lines.values(), lines, **location, fontsize=8, labelcolor="#555555", handlelength=3.5)


def _describe_variant(variant: Variant) -> str:
    """Describe a variant."""
    trained, evaluated = variant
    if variant == _NO_SCALING:
        return "as trained"
    parts = [f"trained with {trained}"] * (trained is not None) + [f"evaluated with {evaluated}"] * (
        evaluated is not None
    )
    return "\n".join([*parts, "(dotted: as trained at one size, without)"])


def _draw_curve(axes: "Axes", curve: EmbeddingScores) -> None:
    """Draw one embedding in its own color and marker, with a band where there are several seeds."""
    color, marker = position_style(curve.embedding)
    mean, spread = curve.mean, curve.spread
    line = "--" if curve.embedding == _REFERENCE else "-"
    style = {"color": color, "marker": marker, "markersize": 5, "linestyle": line}
    axes.plot(curve.sizes, mean, **style, label=position_label(curve.embedding))
    if len(curve.scores) > 1:
        axes.fill_between(curve.sizes, mean - spread, mean + spread, color=color, alpha=0.18, linewidth=0)
