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
from ropevit.analysis.figure_model import FIGURE_OPTIONS, FigureModel, FigureOptions, FigureResult, FigureSpec
from ropevit.analysis.layers import NothingToDrawError

__all__ = [
    "FIGURES",
    "FigureModel",
    "FigureOptions",
    "FigureOutcome",
    "FigureResult",
    "FigureSpec",
    "find_figures",
    "register_figure",
    "try_figure",
]

#: name -> figure, in the order of the page of `ropevit figures all`. Open to other packages: `register_figure`.
FIGURES: dict[str, FigureSpec] = {
    name: FigureSpec(name, module.TITLE, module.TEXT, module.make, module.OPTIONS)
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


def register_figure(spec: FigureSpec) -> None:
    """Add a figure to the catalog, for `ropevit figures` and its page; its name becomes the name of its files.

    Raises:
        ValueError: If the name is taken or not of lower-case letters, digits and underscores, or an option is unknown.
    """
    name = spec.name
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name == "all":
        raise ValueError(f"got figure {name!r}; expected lower-case letters, digits and underscores, and not 'all'")
    if name in FIGURES:
        raise ValueError(f"a figure named {name!r} exists already; choose another name")
    unknown = [option for option in spec.options if option not in FIGURE_OPTIONS]
    if unknown:
        raise ValueError(f"got option {unknown[0]!r} of figure {name}; choose among {', '.join(FIGURE_OPTIONS)}")
    FIGURES[name] = spec


class FigureOutcome(NamedTuple):
    """A figure, or the reason why the model has none."""

    spec: FigureSpec
    result: FigureResult | None
    note: str = ""
    """The reason why there is none."""


def find_figures(name: str) -> Sequence[FigureSpec]:
    """Return the figure of a name, or all figures for `all`.

    Raises:
        ValueError: If no figure has the name.
    """
    if name != "all" and name not in FIGURES:
        raise ValueError(f"no figure named {name!r}; choose one of {', '.join(FIGURES)}, or all")
    return list(FIGURES.values()) if name == "all" else [FIGURES[name]]


def try_figure(spec: FigureSpec, figure_model: FigureModel, options: FigureOptions) -> FigureOutcome:
    """Make a figure; where the model does not have it, the outcome carries the reason. Other errors are raised."""
    try:
        return FigureOutcome(spec, spec.make(figure_model, options))
    except NothingToDrawError as error:
        return FigureOutcome(spec, None, " ".join(str(error).split()))
