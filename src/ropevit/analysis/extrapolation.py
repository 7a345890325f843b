"""Figure of extrapolation: a score against test size, beside the paper's results."""

from typing import TYPE_CHECKING

from ropevit.analysis.curves import Curve, Evaluations, draw_curves
from ropevit.analysis.figure_model import FigureModel, FigureOptions, FigureResult, Rows
from ropevit.analysis.layers import NothingToDrawError
from ropevit.models.published import curve
from ropevit.models.registry import get_config

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Extrapolation"
OPTIONS = ("sizes", "evals", "data")
TEXT = (
    "A score in percent against the size of the test images, in pixels on a logarithmic scale; the gray line marks the "
    "training size. A model that extrapolates rises or stays level to the right of it. Dashed are the paper's results "
    "for the same model on ImageNet-1k, if there are any; error bars show the accuracy with which they were read off "
    "its plots."
)


def published_curve(name: str) -> Evaluations:
    """Return only the paper's results of a model, for models that were not evaluated.

    Args:
        name: A name that `list_models` lists.

    Raises:
        ValueError: If the paper has no results of it.
    """
    results, config = curve(name), get_config(name)
    if not results:
        raise ValueError(f"the paper has no results of {name}")
    own = Curve(name=name, position=config.position, points={}, trained_at=config.img_size[0], paper=results)
    return Evaluations(curves=(own,), metric="top-1", title="top-1, not evaluated here: the paper's results only")


def draw(data: Evaluations) -> "Figure":
    """Draw a score against test size; see `draw_curves`."""
    return draw_curves(data)


def rows(data: Evaluations) -> Rows:
    """Return a table row for each model and size; cells are empty where a score is missing."""
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


def make(figure_model: FigureModel, options: FigureOptions) -> FigureResult:
    """Draw the given evaluations, or else the paper's results of published weights.

    Raises:
        ValueError: If neither exists.
    """
    data = options.evaluations
    if data is None:
        if not figure_model.published or figure_model.name is None or not curve(figure_model.name):
            raise NothingToDrawError(
                "got no scores, and the paper has none of these weights; give evaluations, --evals DIR, or data to "
                "evaluate on, --data PATH"
            )
        data = published_curve(figure_model.name)
    return FigureResult(draw(data), rows(data))
