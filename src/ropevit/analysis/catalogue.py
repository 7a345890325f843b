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
from ropevit.analysis.layers import NothingToDrawError
from ropevit.analysis.subject import Analysis, FigureOptions, Made, Subject

__all__ = ["ANALYSES", "Analysis", "FigureOptions", "Made", "Outcome", "Subject", "attempt", "choose"]

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


class Outcome(NamedTuple):
    """What became of a figure."""

    analysis: Analysis
    made: Made | None
    note: str = ""
    """Why there is none."""


def choose(name: str) -> Sequence[Analysis]:
    """Find a figure by its name; `all` finds all of them.

    Raises:
        ValueError: If there is none.
    """
    if name != "all" and name not in ANALYSES:
        raise ValueError(f"no figure named {name!r}; choose one of {', '.join(ANALYSES)}, or all")
    return list(ANALYSES.values()) if name == "all" else [ANALYSES[name]]


def attempt(analysis: Analysis, subject: Subject, options: FigureOptions) -> Outcome:
    """Make a figure, or say why this model has none; other errors are the caller's."""
    try:
        return Outcome(analysis, analysis.make(subject, options))
    except NothingToDrawError as error:
        return Outcome(analysis, None, " ".join(str(error).split()))
