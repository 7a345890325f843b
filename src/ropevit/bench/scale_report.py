"""How cost grows with the pixels of an image: tables and a figure of the level scale."""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropevit.bench.results import BenchRow
from ropevit.extras import require
from ropevit.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STYLES = {"ape": ":", "rpb": ":", "axial": "-", "mixed": "--"}

#: What is drawn and tabulated of a row, each image: title, unit and value.
Measure = tuple[str, str, Callable[[BenchRow], float | None]]


def _per_image(value: float | None, row: BenchRow) -> float | None:
    """Divide what a call takes by its images."""
    return None if value is None else value / row.images


MEASURES: tuple[Measure, ...] = (
    ("time", "ms per image", lambda row: _per_image(row.milliseconds, row)),
    ("memory", "MB per image", lambda row: _per_image(row.megabytes, row)),
)


def model_of(shape: str) -> str:
    """Return the name of a model: the shape of a row of the level scale without the image size."""
    return shape.split(",")[0]


def growing(rows: Sequence[BenchRow]) -> dict[tuple[str, str], list[BenchRow]]:
    """Return the rows of the level scale by model and direction, of models with several image sizes."""
    found: dict[tuple[str, str], list[BenchRow]] = {}
    for row in rows:
        if row.level == "scale" and row.shape.endswith(" px"):
            found.setdefault((model_of(row.shape), row.direction), []).append(row)
    return {key: group for key, group in found.items() if len({row.pixels for row in group}) > 1}


def growth_tables(rows: Sequence[BenchRow]) -> list[str]:
    """Return a Markdown table for each model and direction: what an image costs by size, and its growth."""
    lines: list[str] = []
    for (model, direction), group in growing(rows).items():
        sides = sorted({math.isqrt(row.pixels) for row in group})
        more = [f"{side**2 / sides[0] ** 2:.1f}" for side in sides]
        for title, unit, value in MEASURES:
            if any(value(row) is not None for row in group):
                lines += [f"### {model}, {direction}: {title}", ""]
                lines += [f"In {unit}; in brackets, times that of {sides[0]} px.", ""]
                lines += ["| candidate | " + " | ".join(f"{side} px" for side in sides) + " |"]
                lines += ["|---" + "|---:" * len(sides) + "|"]
                lines += ["| *pixels* | " + " | ".join(f"({each})" for each in more) + " |"]
                lines += [*(_growth_row(label, sides, value, group) for label in _labels(group)), ""]
    return lines


def _labels(group: Sequence[BenchRow]) -> list[str]:
    """Return the labels of rows, each once."""
    return list(dict.fromkeys(row.label for row in group))


def _growth_row(
    label: str, sides: Sequence[int], value: Callable[[BenchRow], float | None], group: Sequence[BenchRow]
) -> str:
    """Return the row of a candidate."""
    found = {math.isqrt(row.pixels): value(row) for row in group if row.label == label}
    first, cells = found.get(sides[0]), []
    for side in sides:
        cost = found.get(side)
        growth = f" ({cost / first:.1f})" if cost is not None and first else ""
        cells.append("" if cost is None else f"{cost:.4g}{growth}")
    return f"| {label} | " + " | ".join(cells) + " |"


def draw_growth(rows: Sequence[BenchRow], colors: Mapping[str, str], caption: str, path: Path) -> None:
    """Draw what an image costs against its side, both on logarithmic axes: a column for each model and direction.

    Does nothing without a model of several image sizes.
    """
    panels = growing(rows)
    if not panels:
        return
    matplotlib = require("matplotlib", "figures")
    measures = [each for each in MEASURES if any(each[2](row) is not None for row in rows if row.level == "scale")]
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "font.size": 9}):
        size = 3.4 * len(panels) + 0.6, 3.0 * len(measures) + 1.2
        figure = require("matplotlib.figure", "figures").Figure(figsize=size, layout="constrained")
        grid = figure.subplots(len(measures), len(panels), squeeze=False)
        for column, ((model, direction), group) in enumerate(panels.items()):
            for line, measure in enumerate(measures):
                _draw_panel(grid[line, column], f"{model}: {direction}", group, measure, colors)
        named: dict[str, Any] = {}
        for axes in grid.flat:
            named |= {line.get_label(): line for line in axes.get_lines()}
        figure.legend([*named.values()], [*named], loc="outside upper center", ncols=4, frameon=False)
        figure.supxlabel(caption, fontsize=8, color="#555555")
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=110, format="png")
    write_atomically(path, lambda file: file.write(buffer.getvalue()))


def _draw_panel(
    axes: "Axes", title: str, group: Sequence[BenchRow], measure: Measure, colors: Mapping[str, str]
) -> None:
    """Draw the curves of the candidates of a model and direction."""
    _, unit, value = measure
    drawn = [row for row in group if value(row)]
    for label in _labels(drawn):
        own = sorted((row for row in drawn if row.label == label), key=lambda row: row.pixels)
        sides, costs = [math.isqrt(row.pixels) for row in own], [value(row) or math.nan for row in own]
        style = _STYLES.get(own[0].embedding, "-")
        axes.plot(sides, costs, style, color=colors[own[0].library], marker=".", label=label)
    if not drawn:
        axes.set_axis_off()
        return
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(require("matplotlib.ticker", "figures").LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    sides = sorted({math.isqrt(row.pixels) for row in group})
    axes.set_xticks(sides, [str(side) for side in sides])
    axes.minorticks_off()
    axes.set_title(title, fontsize=9, loc="left")
    axes.set_xlabel("image side (px)", fontsize=8)
    axes.set_ylabel(unit, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
