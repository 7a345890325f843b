"""Extrapolation: a score against the size of test images, beside the paper's."""

from typing import Any

from ropevit.analysis.curves import Curve, Evaluations, draw_curves
from ropevit.analysis.figure_model import FigureModel, FigureOptions, FigureResult, Rows
from ropevit.analysis.layers import NothingToDrawError
from ropevit.models.published import curve
from ropevit.models.registry import get_config

TITLE = "Extrapolation"
TEXT = (
    "A score in percent against the size of the test images, in pixels on a logarithmic scale; the grey line marks the "
    "size of training. A model that extrapolates rises or keeps its height to the right of it. Dashed are the figures "
    "that the paper gives for the same model on ImageNet-1k, where it has some; bars say how well they could be read "
    "off its drawings."
)


def published_curve(name: str) -> Evaluations:
    """Give the paper's figures of a model alone, where nothing was measured.

    Args:
        name: A name that `list_models` lists.

    Raises:
        ValueError: If the paper has no figures of it.
    """
    figures, config = curve(name), get_config(name)
    if not figures:
        raise ValueError(f"the paper has no figures of {name}")
    own = Curve(name=name, position=config.position, points={}, trained_at=config.img_size[0], paper=figures)
    return Evaluations(curves=(own,), metric="top-1", title="top-1, not measured: the paper's figures alone")


def draw(data: Evaluations) -> Any:
    """Draw a score against test size; see `draw_curves`."""
    return draw_curves(data)


def rows(data: Evaluations) -> Rows:
    """Give a row for each model and size; cells are empty where the one or the other has no figure."""
    table: Rows = []
    for each in data.curves:
        for size in sorted({*each.points, *each.paper}):
            paper = each.paper.get(size)
            table.append(
                {
                    **{"model": each.name, "position": each.position, "trained_at": each.trained_at},
                    **{"size": size, "metric": data.metric, "measured": each.points.get(size, "")},
                    "paper": "" if paper is None else paper.percent,
                    "paper_within": "" if paper is None else paper.within,
                    "paper_source": "" if paper is None else paper.source,
                }
            )
    return table


def make(subject: FigureModel, options: FigureOptions) -> FigureResult:
    """Draw what was measured, or else what the paper gives for published weights.

    Raises:
        ValueError: If there is neither.
    """
    data = options.evaluations
    if data is None:
        if not subject.published or subject.name is None or not curve(subject.name):
            raise NothingToDrawError(
                "got no scores, and the paper has none of these weights; give evaluations, --evals DIR, or data to "
                "measure on, --data PATH"
            )
        data = published_curve(subject.name)
    return FigureResult(draw(data), rows(data))
