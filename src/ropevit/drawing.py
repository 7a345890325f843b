"""How figures look: the same letters and lines in all of them."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ropevit.extras import require

#: The same letters on every machine, and text that stays text in SVG.
RC = {"font.family": "DejaVu Sans", "font.size": 10, "svg.fonttype": "none", "svg.hashsalt": "ropevit"}


def mark_training(axes: Any, size: int) -> None:
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


def tidy(axes: Any, sizes: Sequence[int]) -> None:
    """Give a plot over sizes its ticks and a light frame."""
    axes.set_xscale("log")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.grid(axis="y", color="#EEEEEE")
    axes.spines[["top", "right"]].set_visible(False)


def save_figure(figure: Any, path: Path) -> list[Path]:
    """Write a figure as PNG and SVG beside each other; the same figure gives the same bytes.

    Args:
        figure: A `matplotlib.figure.Figure`.
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
