"""Figure of evaluations: a score against test size."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, product
from typing import TYPE_CHECKING, Any

from ropevit.drawing import RC, legend_label, mark_training, tidy
from ropevit.extras import require
from ropevit.models.positions import is_position_embedding, position_label, position_style
from ropevit.models.published import DRAWN, SOURCE, PublishedResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Color of the paper's results in the legend.
_PAPER_COLOR = "#777777"

#: Dashes of the baselines, in their order.
_DASHES = ((4, 2), (1, 1.5))

#: Colors and markers of curves without a style, or whose style is taken.
#: Source of the colors: Okabe and Ito 2008, Color Universal Design.
COLORS = ("#E69F00", "#56B4E9", "#CC79A7", "#0072B2", "#D55E00", "#009E73", "#999999")
_SPARE_STYLES = tuple((color, marker) for marker, color in product("PX*o", COLORS))


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Scores of one evaluation."""

    name: str
    """Name of the evaluated model or run."""
    position: str
    """Position embedding, such as `rope_mixed`."""
    points: Mapping[int, float]
    """Score by test size in pixels; empty if only the paper's results exist."""
    trained_at: int
    """The test size in training, in pixels."""
    paper: Mapping[int, PublishedResult] = field(default_factory=dict)
    """The paper's results of the same model, by size; empty if there are none."""
    baselines: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    """Scores in other inference modes, such as `resized to 224 px`, by test size."""
    intervals: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    """95 % intervals of the scores, by test size; empty if there are none."""

    @property
    def label(self) -> str:
        """Legend entry."""
        return f"{position_label(self.position)}: {self.name}"


@dataclass(frozen=True, kw_only=True)
class Evaluations:
    """Evaluations of one or several models with the same metric on the same data."""

    curves: tuple[Curve, ...]
    metric: str
    """Name of the metric."""
    title: str
    """Data that the models were evaluated on."""
    unit: str = "%"
    """Unit of the score; empty for none."""
    levels: Mapping[str, float] = field(default_factory=dict)
    """Scores that are drawn as dotted horizontal lines, such as that of a model that learned nothing, by label."""


def draw_curves(*panels: Evaluations) -> "Figure":
    """Draw a score against test size; dashed, baselines such as resizing, and the paper's curve, if there are any.

    Each position embedding has the same color in all figures; a second curve with the same one has another color. The
    paper's curve has the color of its model.

    Args:
        panels: The evaluations, in plots beside one another with the same models; the first curve has the first choice
            of colors.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    matplotlib = require("matplotlib", "figures")
    with matplotlib.rc_context(RC):
        size = 6.2 if len(panels) == 1 else 4.6 * len(panels), 4.8
        figure = require("matplotlib.figure", "figures").Figure(figsize=size, layout="constrained")
        plots = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, data in zip(plots, panels, strict=True):
            _draw_panel(axes, data)
        place = {"loc": "outside upper left", "frameon": False, "fontsize": 9, "alignment": "left"}
        figure.legend(*plots[0].get_legend_handles_labels(), title=panels[0].title, **place)
    return figure


def _draw_panel(axes: "Axes", data: Evaluations) -> None:
    """Draw the curves of one plot."""
    curves = data.curves
    axes.set_axisbelow(True)
    for size in sorted({curve.trained_at for curve in curves}):
        mark_training(axes, size)
    dashes = _dashes_of(curves)
    for curve, (color, marker) in zip(curves, styles([curve.position for curve in curves]), strict=True):
        _draw_curve(axes, curve, color, marker)
        _draw_baselines(axes, curve, color, dashes)
        _draw_paper(axes, curve, color)
    for label, score in data.levels.items():
        axes.axhline(score, color=_PAPER_COLOR, linestyle=":", linewidth=1.4, label=legend_label(label))
    for label, style in dashes.items():
        axes.plot([], [], color=_PAPER_COLOR, linestyle=style, linewidth=1.2, label=label)
    _label_paper(axes, [result for curve in curves for result in curve.paper.values()])
    axes.set_xlabel("test size (pixels)")
    axes.set_ylabel(f"{data.metric} ({data.unit})" if data.unit else data.metric)
    tidy(axes, ticks({size for curve in curves for size in (*curve.paper, *curve.points)}))


def _draw_curve(axes: "Axes", curve: Curve, color: str, marker: str) -> None:
    """Draw the scores of a model, with their intervals as a band."""
    sizes = sorted(curve.points)
    if not sizes:
        return
    values = [curve.points[size] for size in sizes]
    axes.plot(sizes, values, color=color, marker=marker, markersize=5, label=legend_label(curve.label))
    if known := [size for size in sizes if size in curve.intervals]:
        low, high = zip(*(curve.intervals[size] for size in known), strict=True)
        axes.fill_between(known, low, high, color=color, alpha=0.15, linewidth=0)


def ticks(sizes: Iterable[int]) -> list[int]:
    """Return the sizes to label, without those too close to the previous one on a logarithmic axis."""
    found = sorted(sizes)
    least, named = (found[-1] / found[0]) ** (1 / 18), found[:1]
    for size in found[1:]:
        if size >= named[-1] * least:
            named.append(size)
    return named


def styles(positions: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the color and marker of each curve: those of its position embedding, or others if they are taken."""
    own = {position_style(position) for position in positions if is_position_embedding(position)}
    spare = cycle(
        sorted(set(_SPARE_STYLES) - own, key=lambda style: (style[0] in dict(own), _SPARE_STYLES.index(style)))
    )
    taken = set()
    for position in positions:
        style = position_style(position) if is_position_embedding(position) else None
        if style is None or style in taken:
            style = next(spare)
        taken.add(style)
        yield style


def _dashes_of(curves: Sequence[Curve]) -> dict[str, tuple[int, tuple[float, float]]]:
    """Return the line style of each baseline, by label."""
    labels = sorted({label for curve in curves for label in curve.baselines})
    return {label: (0, dashes) for label, dashes in zip(labels, cycle(_DASHES), strict=False)}


def _draw_baselines(axes: "Axes", curve: Curve, color: str, dashes: Mapping[str, Any]) -> None:
    """Draw the baselines of a model, which meet its own curve at the training size."""
    own = {size: score for size, score in curve.points.items() if size == curve.trained_at}
    for label, scores in curve.baselines.items():
        points = sorted({**own, **scores}.items())
        axes.plot(*zip(*points, strict=True), color=color, linestyle=dashes[label], linewidth=1.2)


def _draw_paper(axes: "Axes", curve: Curve, color: str) -> None:
    """Draw the paper's results of a model, with error bars for the reading accuracy."""
    if not curve.paper:
        return
    values = [result.percent for result in curve.paper.values()]
    within = [result.within if result.source == DRAWN else 0 for result in curve.paper.values()]
    style = {"color": color, "linestyle": "--", "linewidth": 1, "marker": ".", "alpha": 0.8}
    axes.errorbar(list(curve.paper), values, within, capsize=2, **style)
    if not curve.points:
        axes.plot([], [], label=legend_label(curve.label), **style)


def _label_paper(axes: "Axes", results: Sequence[PublishedResult]) -> None:
    """Add a legend entry for the dashed curves, with their source."""
    if not results:
        return
    label = f"the paper, on ImageNet-1k val\n({SOURCE}"
    if any(result.source == DRAWN for result in results):
        label += f";\nbars: {DRAWN}"
    axes.plot([], [], color=_PAPER_COLOR, linestyle="--", linewidth=1, marker=".", label=f"{label})")
