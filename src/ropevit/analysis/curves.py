"""The curves of evaluations: a score against test size."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, product
from typing import Any

from ropevit.drawing import RC, legend_label, mark_training, tidy
from ropevit.extras import require
from ropevit.models.positions import is_position_embedding, position_label, position_style
from ropevit.models.published import DRAWN, SOURCE, PublishedResult

#: Colour of the paper's figures.
PAPER_COLOUR = "#777777"

#: Colours and markers of what has none of its own, or whose own is taken.
#: Source of the colours: Okabe and Ito 2008, Color Universal Design.
COLOURS = ("#E69F00", "#56B4E9", "#CC79A7", "#0072B2", "#D55E00", "#009E73", "#999999")
SPARE_STYLES = tuple((colour, marker) for marker, colour in product("PX*o", COLOURS))


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What one evaluation measured."""

    name: str
    """Of what was measured."""
    position: str
    """Its position embedding, such as `rope_mixed`."""
    points: Mapping[int, float]
    """Score by test size in pixels; empty where the paper's figures are all that there is."""
    trained_at: int
    """The test size in training, in pixels."""
    paper: Mapping[int, PublishedResult] = field(default_factory=dict)
    """The paper's figures for the same model, by size; empty if there are none."""

    @property
    def label(self) -> str:
        """What the legend says."""
        return f"{position_label(self.position)}: {self.name}"


@dataclass(frozen=True, kw_only=True)
class Evaluations:
    """What was measured of one or several models, with the same score on the same data."""

    curves: tuple[Curve, ...]
    metric: str
    """What the score is called."""
    title: str
    """On what it was measured."""
    unit: str = "%"
    """Unit of the score; empty for none."""


def draw_curves(data: Evaluations) -> Any:
    """Draw a score against test size, with the paper's curve dashed where there is one.

    Each position embedding has its colour, which is the same in all figures; a second curve of the same has another.
    The paper's curve of a model has the colour of that model.

    Args:
        data: What was measured; the first has the first choice of colours.

    Returns:
        A `matplotlib.figure.Figure`, which belongs to no window.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    matplotlib, curves = require("matplotlib", "figures"), data.curves
    with matplotlib.rc_context(RC):
        figure = require("matplotlib.figure", "figures").Figure(figsize=(6.2, 4.8), layout="constrained")
        axes = figure.subplots()
        axes.set_axisbelow(True)
        for size in sorted({curve.trained_at for curve in curves}):
            mark_training(axes, size)
        for curve, (colour, marker) in zip(curves, styles([curve.position for curve in curves]), strict=True):
            sizes = sorted(curve.points)
            values = [curve.points[size] for size in sizes]
            if sizes:
                axes.plot(sizes, values, color=colour, marker=marker, markersize=5, label=legend_label(curve.label))
            draw_paper(axes, curve, colour)
        label_paper(axes, [figure for curve in curves for figure in curve.paper.values()])
        axes.set_xlabel("test size (pixels)")
        axes.set_ylabel(f"{data.metric} ({data.unit})" if data.unit else data.metric)
        tidy(axes, ticks({size for curve in curves for size in (*curve.paper, *curve.points)}))
        figure.legend(loc="outside upper left", frameon=False, fontsize=9, title=data.title, alignment="left")
    return figure


def ticks(sizes: Iterable[int]) -> list[int]:
    """Choose the sizes that are named, without those too near to the one before on a scale of ratios."""
    found = sorted(sizes)
    least, named = (found[-1] / found[0]) ** (1 / 18), found[:1]
    for size in found[1:]:
        if size >= named[-1] * least:
            named.append(size)
    return named


def styles(positions: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Give each curve the colour and marker of its position embedding, or others if they are taken."""
    own = {position_style(position) for position in positions if is_position_embedding(position)}
    spare = cycle(sorted(set(SPARE_STYLES) - own, key=lambda style: (style[0] in dict(own), SPARE_STYLES.index(style))))
    taken = set()
    for position in positions:
        style = position_style(position) if is_position_embedding(position) else None
        if style is None or style in taken:
            style = next(spare)
        taken.add(style)
        yield style


def draw_paper(axes: Any, curve: Curve, colour: str) -> None:
    """Draw the paper's figures of a model, with bars for how well they are known."""
    if not curve.paper:
        return
    values = [figure.percent for figure in curve.paper.values()]
    within = [figure.within if figure.source == DRAWN else 0 for figure in curve.paper.values()]
    style = {"color": colour, "linestyle": "--", "linewidth": 1, "marker": ".", "alpha": 0.8}
    axes.errorbar(list(curve.paper), values, within, capsize=2, **style)
    if not curve.points:
        axes.plot([], [], label=legend_label(curve.label), **style)


def label_paper(axes: Any, figures: Sequence[PublishedResult]) -> None:
    """Say in the legend what is dashed, and where it comes from."""
    if not figures:
        return
    label = f"the paper, on ImageNet-1k val\n({SOURCE}"
    if any(figure.source == DRAWN for figure in figures):
        label += f";\nbars: {DRAWN}"
    axes.plot([], [], color=PAPER_COLOUR, linestyle="--", linewidth=1, marker=".", label=f"{label})")
