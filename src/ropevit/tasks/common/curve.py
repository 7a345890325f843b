"""The curves of evaluations: a score against test size."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, product
from typing import Any

from ropevit.drawing import RC, mark_training, tidy
from ropevit.extras import require
from ropevit.models.published import DRAWN, SOURCE, Figure
from ropevit.tasks.common.positions import LABELS, STYLES

#: Colour of the paper's figures.
PAPER = "#777777"

#: Colours and markers of what has none of its own, or whose own is taken.
#: Source of the colours: Okabe and Ito 2008, Color Universal Design.
COLOURS = ("#E69F00", "#56B4E9", "#CC79A7", "#0072B2", "#D55E00", "#009E73", "#999999")
SPARE = tuple((colour, marker) for marker, colour in product("PX*o", COLOURS))


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What one evaluation measured."""

    name: str
    """Of what was measured."""
    position: str
    """Its position embedding, such as `rope_mixed`."""
    points: Mapping[int, float]
    """Score in percent by test size in pixels."""
    trained_at: int
    """The test size in training, in pixels."""

    @property
    def label(self) -> str:
        """What the legend says."""
        return f"{LABELS.get(self.position, self.position)}: {self.name}"


def draw_curves(curves: Sequence[Curve], metric: str, title: str, paper: Mapping[int, Figure]) -> Any:
    """Draw a score against test size, with the paper's curve dashed where there is one.

    Each position embedding has its colour, which is the same in all figures; a second curve of the same has another.

    Args:
        curves: What was measured; the first has the first choice of colours.
        metric: What the score is called.
        title: On what it was measured.
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
        for size in sorted({curve.trained_at for curve in curves}):
            mark_training(axes, size)
        for curve, (colour, marker) in zip(curves, styles([curve.position for curve in curves]), strict=True):
            sizes = sorted(curve.points)
            values = [curve.points[size] for size in sizes]
            axes.plot(sizes, values, color=colour, marker=marker, markersize=5, label=curve.label)
        if paper:
            draw_paper(axes, paper)
        axes.set_xlabel("test size (pixels)")
        axes.set_ylabel(f"{metric} (%)")
        tidy(axes, ticks({*paper, *(size for curve in curves for size in curve.points)}))
        figure.legend(loc="outside upper left", frameon=False, fontsize=9, title=title, alignment="left")
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
    own = {STYLES[position] for position in positions if position in STYLES}
    spare = cycle(sorted(set(SPARE) - own, key=lambda style: (style[0] in dict(own), SPARE.index(style))))
    taken = set()
    for position in positions:
        style = STYLES.get(position)
        if style is None or style in taken:
            style = next(spare)
        taken.add(style)
        yield style


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
