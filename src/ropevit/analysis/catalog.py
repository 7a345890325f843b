"""The catalog of figures: one row per figure."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from ropevit.analysis import (
    distance,
    entropy,
    extrapolation,
    frequencies,
    phases,
    position_probe,
    reconstruction,
    response,
)
from ropevit.analysis.figure_model import FIGURE_OPTIONS, Analysis, FigureModel, FigureOptions, FigureResult
from ropevit.analysis.layers import NothingToDrawError

__all__ = [
    "ANALYSES",
    "Analysis",
    "FigureModel",
    "FigureOptions",
    "FigureOutcome",
    "FigureResult",
    "find_analyses",
    "register_figure",
    "try_analysis",
]

#: name -> figure, in the order of the page of `ropevit figures all`. Open to other packages: `register_figure`.
ANALYSES: dict[str, Analysis] = {
    name: Analysis(name, module.TITLE, module.TEXT, module.make, module.OPTIONS)
    for name, module in {
        "frequencies": frequencies,
        "reconstruction": reconstruction,
        "response": response,
        "phases": phases,
        "distance": distance,
        "entropy": entropy,
        "position_probe": position_probe,
        "extrapolation": extrapolation,
    }.items()
}


def register_figure(analysis: Analysis) -> None:
    """Add a figure to the catalog, for `ropevit figures` and its page; its name becomes the name of its files.

    Raises:
        ValueError: If the name is taken or not of lower-case letters, digits and underscores, or an option is unknown.
    """
    name = analysis.name
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name == "all":
        raise ValueError(f"got figure {name!r}; expected lower-case letters, digits and underscores, and not 'all'")
    if name in ANALYSES:
        raise ValueError(f"a figure named {name!r} exists already; choose another name")
    unknown = [option for option in analysis.options if option not in FIGURE_OPTIONS]
    if unknown:
        raise ValueError(f"got option {unknown[0]!r} of figure {name}; choose among {', '.join(FIGURE_OPTIONS)}")
    ANALYSES[name] = analysis


class FigureOutcome(NamedTuple):
    """A figure, or the reason why the model has none."""

    analysis: Analysis
    result: FigureResult | None
    note: str = ""
    """The reason why there is none."""


def find_analyses(name: str) -> Sequence[Analysis]:
    """Return the figure of a name, or all figures for `all`.

    Raises:
        ValueError: If no figure has the name.
    """
    if name != "all" and name not in ANALYSES:
        raise ValueError(f"no figure named {name!r}; choose one of {', '.join(ANALYSES)}, or all")
    return list(ANALYSES.values()) if name == "all" else [ANALYSES[name]]


def try_analysis(analysis: Analysis, figure_model: FigureModel, options: FigureOptions) -> FigureOutcome:
    """Make a figure; where the model does not have it, the outcome carries the reason. Other errors are raised."""
    try:
        return FigureOutcome(analysis, analysis.make(figure_model, options))
    except NothingToDrawError as error:
        return FigureOutcome(analysis, None, " ".join(str(error).split()))
