"""Figure of `evidence.py`: scores over test sizes of the arms that a reader chooses between.

    python benchmarks/evidence_figure.py --out docs/figures/evidence.png

Means over the seeds; the band is the 95 % interval by Student's t. All arms of a seed share their test images, so bands
that overlap say nothing about the difference of two arms. Arms that lack a seed in a panel are not drawn there.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from evidence import FLOOR, RESULTS, SIZES, read
from evidence_report import Curve, Scores, gather_scaled, interval, is_whole
from matplotlib import rc_context
from matplotlib.figure import Figure

from ropevit.drawing import RC, figure_bytes, mark_training, tidy
from ropevit.models.positions import position_label, position_style

PARTS_LOG = "parts(slow=0.5,fast=1)+log"
TITLES = {
    "zoom": ("zoom: more pixels of the same drawing", "top-1 accuracy (%)"),
    "field": ("field: more of the scene", "mean IoU (%)"),
    "far": ("far: the answer is further away", "accuracy of marked items (%)"),
}


class Line(NamedTuple):
    """A curve of every panel and how it is drawn."""

    arm: str
    mode: str = "whole"
    style: str = "-"
    note: str = ""
    color: str | None = None
    """None for that of the position embedding in every plot."""

    @property
    def label(self) -> str:
        """Label in the legend."""
        if self.arm == FLOOR:
            return "majority class"
        label = position_label(self.arm.split()[0])
        return f"{label}, {self.note}" if self.note else label


LINES = (
    Line(FLOOR, style="-", color="#bbbbbb"),
    Line("none", style="--"),
    Line("ape"),
    Line("rope_axial"),
    Line("rope_mixed"),
    Line("rope_mixed", PARTS_LOG, ":", "parts+log"),
    Line("rope_mixed", "pi", (0, (6, 2, 1, 2)), "pi"),
    Line("rope_mixed sizes", note="trained at random sizes", color="#7B3294"),
    Line("rope_mixed sizes", PARTS_LOG, ":", "random sizes and parts+log", "#7B3294"),
    Line("rope_spiral"),
    Line("rope_mixed_decay", color="#E69F00"),
    Line("rope_mixed_gaussian", color="#8C510A"),
    Line("rope_mixed", "resize", "-.", "resized to the training size", "#666666"),
    Line("rope_mixed", "tiles", (0, (1, 3)), "in tiles of the training size", "#666666"),
)


def draw(scores: Scores) -> Figure:
    """Draw a plot per panel, with one legend for all."""
    figure = Figure(figsize=(13, 5.6), layout="constrained")
    for axes, panel in zip(figure.subplots(1, 3), TITLES, strict=True):
        draw_panel(axes, panel, scores)
    labels = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    ordered = [line.label for line in LINES if line.label in labels]
    figure.legend([labels[label] for label in ordered], ordered, loc="outside lower center", ncols=4, frameon=False)
    return figure


def draw_panel(axes: Any, panel: str, scores: Scores) -> None:
    """Draw the curves of a panel."""
    title, unit = TITLES[panel]
    mark_training(axes, SIZES[panel][0])
    for line in LINES:
        if not is_whole(scores, Curve(panel, line.arm)):
            continue
        found = dict(scores[Curve(panel, line.arm)])
        if line.mode != "whole":  # a baseline starts where it is the same as whole images
            found = {SIZES[panel][0]: found[SIZES[panel][0]]}
            if is_whole(scores, Curve(panel, line.arm, line.mode)):
                found |= scores[Curve(panel, line.arm, line.mode)]
        if len(found) > 1:
            draw_curve(axes, line, {size: list(found[size].values()) for size in sorted(found)})
    tidy(axes, SIZES[panel])
    axes.set(title=title, xlabel="test size (pixels)", ylabel=unit)


def draw_curve(axes: Any, line: Line, curve: dict[int, Sequence[float]]) -> None:
    """Draw the means of a curve and, with several seeds, their interval."""
    color, marker = (None, "") if line.arm == FLOOR else position_style(line.arm.split()[0])
    color = line.color or color
    middle, half = zip(
        *(interval(values) if len(values) > 1 else (values[0], 0.0) for values in curve.values()), strict=True
    )
    sizes = list(curve)
    axes.plot(sizes, middle, linestyle=line.style, color=color, marker=marker, markersize=5, label=line.label)
    low, high = ([m + sign * h for m, h in zip(middle, half, strict=True)] for sign in (-1, 1))
    axes.fill_between(sizes, low, high, color=color, alpha=0.06, linewidth=0)


def main() -> None:
    """Write the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, required=True, help="a .png file")
    arguments = parser.parse_args()
    lines = read(arguments.results)
    if not lines:
        parser.error(f"got no results in {arguments.results}; make some with benchmarks/evidence.py")
    with rc_context(RC):
        arguments.out.write_bytes(figure_bytes(draw(gather_scaled(lines)), "png"))


if __name__ == "__main__":
    main()
