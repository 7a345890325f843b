"""Style of all figures: fonts, lines and legends; saving as PNG and SVG."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropevit.extras import require
from ropevit.files import write_atomically
from ropevit.text import printable_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: The same letters on every machine, and text that stays text in SVG.
RC = {"font.family": "DejaVu Sans", "font.size": 10, "svg.fonttype": "none", "svg.hashsalt": "ropevit"}


def mark_training(axes: "Axes", size: int) -> None:
    """Mark the training size with a line."""
    axes.axvline(size, color="#BBBBBB", linestyle="--", linewidth=1, zorder=0)
    axes.annotate(
        "training size",
        (size, 0.02),
        xycoords=("data", "axes fraction"),
        rotation=90,
        xytext=(-3, 0),
        textcoords="offset points",
        ha="right",
        color="#777777",
        fontsize=8,
    )


def tidy(axes: "Axes", sizes: Sequence[int]) -> None:
    """Add to a plot over sizes its ticks and a light frame."""
    axes.set_xscale("log")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.grid(axis="y", color="#EEEEEE")
    axes.spines[["top", "right"]].set_visible(False)


def save_figure(figure: "Figure", path: Path) -> list[Path]:
    """Write a figure as PNG and SVG beside each other; the same figure gives the same bytes.

    Args:
        figure: A `matplotlib.figure.Figure`.
        path: Without suffix.

    Returns:
        The files written.
    """
    files = [path.with_suffix(".png"), path.with_suffix(".svg")]
    for file in files:
        write_figure(figure, file)
    return files


def write_figure(figure: "Figure", path: Path, dpi: int = 150) -> Path:
    """Write a figure in the form that the suffix of the path names, whole or not at all.

    Raises:
        ValueError: If the disk refuses; the message names the file.
    """
    content = figure_bytes(figure, path.suffix[1:], dpi)
    write_atomically(path, lambda file: file.write(content))
    return path


def figure_bytes(figure: "Figure", form: str, dpi: int = 150) -> bytes:
    """Render a figure as "png" or "svg"; names of files and classes in it are text, never formulas."""
    buffer = io.BytesIO()
    _take_as_text(figure)
    with require("matplotlib", "figures").rc_context(RC):
        figure.savefig(buffer, format=form, dpi=dpi, metadata={"Date": None} if form == "svg" else None)
    return buffer.getvalue()


def _take_as_text(figure: Any) -> None:
    """Keep matplotlib from reading text between dollars as a formula, and escape control characters.

    The numbers at ticks are left alone: powers of ten are formulas.
    """
    axis, texts = (require(f"matplotlib.{name}", "figures") for name in ("axis", "text"))
    ticks = [label for tick in figure.findobj(axis.Tick) for label in (tick.label1, tick.label2)]
    numbers = {id(text) for text in (*ticks, *(each.offsetText for each in figure.findobj(axis.Axis)))}
    for text in figure.findobj(texts.Text):
        if id(text) not in numbers:
            text.set_parse_math(False)
            text.set_text(printable_lines(text.get_text()))


def legend_label(name: str) -> str:
    """Name a line in a legend; matplotlib leaves names out that begin with an underscore."""
    return f" {name}" if name.startswith("_") else name
