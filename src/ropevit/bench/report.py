"""Reports of a benchmark: a Markdown page and a bar chart."""

import io
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import torch

import ropevit
from ropevit.bench.results import BenchRow, group_rows
from ropevit.bench.scale_report import draw_growth, growth_tables
from ropevit.extras import require
from ropevit.files import write_atomically, write_text
from ropevit.machine import available_cores, processor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Color of each library, from a color-blind safe palette.
#: Source of the colors: Okabe and Ito 2008, Color Universal Design.
COLORS = {
    "none": "#999999",
    "ours": "#009E73",
    "timm": "#D55E00",
    "transformers": "#CC79A7",
    "plain": "#56B4E9",
}
_MEANINGS = {"none": "no rotation", "ours": "pale: the reference, plain PyTorch", "plain": "textbook versions"}

_READING = (
    "Every candidate was checked against float64 (outputs and gradients) before it was timed. All candidates run in "
    "turn, once per round, in one process; `ratio` is the median over the rounds of a candidate's time over that of "
    '"{base}" in the same round, with the quartiles in brackets{compiled}. Milliseconds are medians of one call and '
    "vary with the load of the machine: compare ratios.{more}"
)
_MORE = {
    "op": " GB/s is the least memory traffic (forward: read and write q and k) over the median time.",
    "layer": "",
    "attention": "",
    "model": "",
    "scale": " Candidates are checked at the first size alone. The first tables show what an image costs by its size.",
}


def describe(device: torch.device, dtype: str, rounds: int) -> dict[str, str]:
    """Return the machine, versions and settings of a result."""
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{processor()}, {available_cores()} cores"
    facts = {"device": f"{device.type}: {named}", "dtype": dtype, "rounds": str(rounds)}
    if device.type == "cpu":
        facts["threads"] = str(torch.get_num_threads())
        tuned = [name for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_") if name in os.environ]
        facts["allocator"] = f"keeps freed memory ({', '.join(tuned)} set)" if tuned else "system default"
    packages = {name: _package_version(name) for name in ("torch", "timm", "transformers", "triton")}
    return facts | {"ropevit": ropevit.__version__, "python": platform.python_version()} | packages


def _package_version(package: str) -> str:
    """Return the installed version of a package, or "not installed"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def write_markdown(path: Path, rows: Sequence[BenchRow], facts: Mapping[str, str]) -> None:
    """Write the page: the facts, then one table for each level, shape and direction."""
    lines = ["# Cost of the rotation", "", *(f"- {name}: {value}" for name, value in facts.items()), ""]
    level, shape = "", ""
    for group in group_rows(rows):
        first = group[0]
        if first.level != level:
            compiled = "; compiled candidates are compared with it compiled" if _any_compiled(rows, first) else ""
            reading = _READING.format(base=first.base, compiled=compiled, more=_MORE[first.level])
            lines += [f"## {first.level}", "", reading, ""]
            lines += growth_tables(rows) if first.level == "scale" else []
        if (first.level, first.shape) != (level, shape):
            lines += [f"### {first.level}, {first.shape}: {first.about}", ""]
        level, shape = first.level, first.shape
        lines += [*table(group), ""]
    write_text(path, "\n".join(lines))


def _any_compiled(rows: Sequence[BenchRow], like: BenchRow) -> bool:
    """Return whether a level has candidates whose baseline is compiled."""
    return any(row.level == like.level and row.base.endswith("compiled") for row in rows)


def table(group: Sequence[BenchRow]) -> list[str]:
    """Return the Markdown table of rows that are compared with each other."""
    memory = next((row.memory for row in group if row.memory), "")
    heads = [group[0].direction, *column_names(group), "error", "note"]
    heads = [{"MB": f"MB {memory}"}.get(head, head) for head in heads]
    lines = ["| " + " | ".join(heads) + " |", "|---" + "|---:" * (len(heads) - 2) + "|---|"]
    for row in group:
        error = "" if row.error is None else f"{row.error:.0e}"
        lines.append("| " + " | ".join([row.label, *row_cells(row, column_names(group)), error, row.note]) + " |")
    return lines


def column_names(group: Sequence[BenchRow]) -> list[str]:
    """Return the names of the numeric columns of a group."""
    heads = ["ratio", "ms"]
    heads += ["GB/s"] if any(row.gigabytes_per_second for row in group) else []
    return heads + (["MB"] if any(row.megabytes is not None for row in group) else [])


def row_cells(row: BenchRow, heads: Sequence[str]) -> list[str]:
    """Format the numbers of a row."""
    texts = {
        "ratio": "" if row.ratio is None else f"{row.ratio:.2f} ({row.ratio_low:.2f} to {row.ratio_high:.2f})",
        "ms": "" if row.milliseconds is None else f"{row.milliseconds:.3g}",
        "GB/s": "" if row.gigabytes_per_second is None else f"{row.gigabytes_per_second:.3g}",
        "MB": "" if row.megabytes is None else f"{row.megabytes:.3g}",
    }
    return [texts[head] for head in heads]


def draw(rows: Sequence[BenchRow], facts: Mapping[str, str], out: Path) -> None:
    """Draw `bench.png` of all levels but scale, and `scale.png` of the level scale, where there are rows.

    Raises:
        ValueError: If matplotlib is not installed.
    """
    bars = [row for row in rows if row.level != "scale"]
    if bars:
        draw_bars(bars, facts, out / "bench.png")
    draw_growth(rows, COLORS, _caption(facts), out / "scale.png")


def _caption(facts: Mapping[str, str]) -> str:
    """Return a line on the machine and the rounds."""
    parts = [facts["device"], facts["dtype"], *([f"threads: {facts['threads']}"] if "threads" in facts else [])]
    return ", ".join([*parts, f"torch {facts['torch']}", f"median and quartiles of {facts['rounds']} rounds"])


def draw_bars(rows: Sequence[BenchRow], facts: Mapping[str, str], path: Path) -> None:
    """Draw the ratios as bars: a row of panels for each level and shape, a column for each direction."""
    matplotlib = require("matplotlib", "figures")
    compared = group_rows(rows)
    heights = [max(len(a), len(b)) for a, b in zip(compared[::2], compared[1::2], strict=True)]
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "font.size": 9}):
        size = 12.0, sum(0.24 * height + 0.9 for height in heights) + 0.9
        figure = require("matplotlib.figure", "figures").Figure(figsize=size, layout="constrained")
        panels = figure.subplots(len(heights), 2, squeeze=False, height_ratios=[height + 3.0 for height in heights])
        for axes, group in zip(panels.flat, compared, strict=True):
            draw_panel(axes, group)
        for axes in panels[:, 1]:
            axes.set_yticklabels([])
        bars = [matplotlib.patches.Patch(color=color) for color in COLORS.values()]
        named = [f"{name} ({_MEANINGS[name]})" if name in _MEANINGS else name for name in COLORS]
        figure.legend(bars, named, loc="outside upper center", ncols=3, frameon=False)
        figure.supxlabel(_caption(facts), fontsize=8, color="#555555")
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=110, format="png")
    write_atomically(path, lambda file: file.write(buffer.getvalue()))


def draw_panel(axes: "Axes", group: Sequence[BenchRow]) -> None:
    """Draw one group: a bar for each candidate, a line at the baseline, the ratio beside the bar."""
    first = group[0]
    wide = max([row.ratio_high or 0.0 for row in group] + [1.0])
    for place, row in enumerate(group):
        if row.ratio is None:
            text = row.note.split(":")[0]
            axes.text(0.01 * wide, place, text, va="center", fontsize=7, color="#777777", style="italic")
            continue
        low, high = row.ratio_low or row.ratio, row.ratio_high or row.ratio
        error = [[row.ratio - low], [high - row.ratio]]
        pale = 0.45 if "(reference)" in row.label else 1.0
        axes.barh(place, row.ratio, 0.72, color=COLORS[row.library], alpha=pale, xerr=error, error_kw={"lw": 0.8})
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
        axes.text(high + 0.015 * wide, place, f"{row.ratio:.2f}", va="center", fontsize=7.5, bbox=box)
    axes.axvline(1, color="#333333", linewidth=0.8, linestyle="--", zorder=0)
    axes.set_yticks(range(len(group)), [row.label for row in group])
    axes.set_ylim(len(group) - 0.4, -0.6)
    axes.set_xlim(0, 1.12 * wide)
    axes.set_title(f"{first.level}, {first.shape}: {first.direction}", fontsize=9, loc="left")
    axes.set_xlabel(f'time over that of "{first.base.removesuffix(", compiled")}"', fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
