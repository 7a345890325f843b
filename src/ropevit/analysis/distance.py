"""Figure of attention distance: how far away the tokens are that each head attends to."""

from typing import TYPE_CHECKING

from ropevit.analysis.attention import AttentionStats, stats_at_sizes
from ropevit.analysis.figure_model import FigureModel, FigureOptions, FigureResult, Rows
from ropevit.analysis.heads import Quantity, draw_heads, head_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Attention distance"
OPTIONS = ("sizes", "images")
TEXT = (
    "Each point is a head: the distance, in patches, from a query patch to the patches it attends to, weighted by "
    "attention and averaged over queries and images. Class and register tokens are excluded as queries and keys. The "
    "line is the mean over heads; dashed is uniform attention. The last panel divides by the diagonal of the grid: "
    "distances that grow with the image stay level there, distances of a fixed number of patches fall. Swin heads are "
    "evaluated inside their windows, in patches of their stage (lines separate stages); in every second layer windows "
    "are shifted, and those at the image border contain fewer tokens. The distance describes where attention goes, "
    "not whether that is good."
)

_DISTANCE = Quantity(
    "distance (patches)",
    lambda layer: layer.distance,
    lambda layer: layer.uniform_distance,
    "distance / diagonal of the grid",
    lambda layer: layer.diagonal,
)


def draw(data: AttentionStats, label: str = "") -> "Figure":
    """Draw distances against layers, a panel for each resolution.

    Args:
        data: Result of `attention_stats`.
        label: Name of the model, for the title.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    return draw_heads(data, _DISTANCE, TITLE, label)


def rows(data: AttentionStats) -> Rows:
    """Return a table row for each head of each layer at each resolution."""
    return head_rows(
        data,
        lambda layer, head: {
            "distance_patches": float(layer.distance[head]),
            "distance_pixels": float(layer.distance[head]) * layer.stride,
            "distance_of_diagonal": float(layer.distance[head]) / layer.diagonal,
            "uniform_distance_patches": layer.uniform_distance,
        },
    )


def make(figure_model: FigureModel, options: FigureOptions) -> FigureResult:
    """Compute and draw the figure."""
    data = stats_at_sizes(figure_model, options)
    return FigureResult(draw(data, figure_model.label), rows(data))
