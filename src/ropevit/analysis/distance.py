"""Attention distance: how far each head looks."""

from typing import Any

from ropevit.analysis.attention import AttentionStats, add_label, describe, stats_at_sizes
from ropevit.analysis.figure_model import FigureModel, FigureOptions, FigureResult, Rows
from ropevit.analysis.heads import Quantity, draw_heads

TITLE = "Attention distance"
TEXT = (
    "A point is a head: how far, in patches, the patches stand to which a query patch attends, averaged by its "
    "attention over queries and images. Class and register tokens are left out on both sides. The line is the mean of "
    "the heads; dashed is a head that attends to all patches equally. The last panel divides by the grid's diagonal: "
    "what grows with the image keeps its height there, what keeps to a fixed number of patches falls. A Swin's heads "
    "are measured inside their windows, in patches of their stage (lines part the stages); in every second layer "
    "windows are shifted, and those at the seams of the image see less. A distance says where attention goes, not "
    "whether that is good."
)

DISTANCE = Quantity(
    "distance (patches)",
    lambda layer: layer.distance,
    lambda layer: layer.uniform_distance,
    "distance / diagonal of the grid",
    lambda layer: layer.diagonal,
)


def draw(data: AttentionStats, label: str = "") -> Any:
    """Draw distances against layers, a panel for each resolution.

    Args:
        data: What `measure_attention` gave.
        label: Name of the model, for the title.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    return draw_heads(data, DISTANCE, add_label(TITLE, label), describe(data))


def rows(data: AttentionStats) -> Rows:
    """Give a row for each head of each layer at each resolution."""
    return [
        {
            **layer.facts,
            "head": head,
            "distance_patches": float(distance),
            "distance_pixels": float(distance) * layer.stride,
            "distance_of_diagonal": float(distance) / layer.diagonal,
            "uniform_distance_patches": layer.uniform_distance,
            "share_to_prefix": float(layer.prefix_share[head]),
        }
        for layer in data.layers
        for head, distance in enumerate(layer.distance)
    ]


def make(subject: FigureModel, options: FigureOptions) -> FigureResult:
    """Measure and draw."""
    data = stats_at_sizes(subject, options)
    return FigureResult(draw(data, subject.label), rows(data))
