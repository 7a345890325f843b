"""Every figure by name: one row a figure."""

from collections.abc import Sequence
from typing import NamedTuple

from ropevit.analysis import (
    distance,
    entropy,
    extrapolation,
    frequencies,
    phases,
    reconstruction,
    response,
)
from ropevit.analysis.figure_model import Analysis, FigureModel, FigureOptions, FigureResult
from ropevit.analysis.layers import NothingToDrawError

__all__ = [
    "ANALYSES",
    "Analysis",
    "FigureModel",
    "FigureOptions",
    "FigureOutcome",
    "FigureResult",
    "find_analyses",
    "try_analysis",
]

#: name -> figure, in the order of a page that has them all.
ANALYSES: dict[str, Analysis] = {
    name: Analysis(name, module.TITLE, module.TEXT, module.make)
    for name, module in {
        "frequencies": frequencies,
        "reconstruction": reconstruction,
        "response": response,
        "phases": phases,
        "distance": distance,
        "entropy": entropy,
        "extrapolation": extrapolation,
    }.items()
}


class FigureOutcome(NamedTuple):
    """What became of a figure."""

    analysis: Analysis
    result: FigureResult | None
    note: str = ""
    """Why there is none."""


def find_analyses(name: str) -> Sequence[Analysis]:
    """Find a figure by its name; `all` finds all of them.

    Raises:
        ValueError: If there is none.
    """
    if name != "all" and name not in ANALYSES:
        raise ValueError(f"no figure named {name!r}; choose one of {', '.join(ANALYSES)}, or all")
    return list(ANALYSES.values()) if name == "all" else [ANALYSES[name]]


def try_analysis(analysis: Analysis, subject: FigureModel, options: FigureOptions) -> FigureOutcome:
    """Make a figure, or say why this model has none; other errors are the caller's."""
    try:
        return FigureOutcome(analysis, analysis.make(subject, options))
    except NothingToDrawError as error:
        return FigureOutcome(analysis, None, " ".join(str(error).split()))
