"""Figure of attention entropy: how widely each head spreads its attention."""

from typing import TYPE_CHECKING

import numpy as np

from ropevit.analysis.attention import AttentionStats, stats_at_sizes
from ropevit.analysis.figure_model import FigureModel, FigureOptions, FigureResult, Rows
from ropevit.analysis.heads import Quantity, draw_heads, head_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Attention entropy"
OPTIONS = ("sizes", "images")
TEXT = (
    "Each point is a head: the entropy, in nats, of the attention of a query patch over all visible tokens, averaged "
    "over queries and images; exp(entropy) is the effective number of tokens that it attends to. The line is the mean "
    "over heads; dashed is uniform attention, the log of the number of tokens, which is the maximum. The last panel "
    "divides by that maximum: at larger sizes, heads that attend to no more tokens than before fall there, and heads "
    "that rise towards 1 lose their focus. Swin heads are evaluated inside their windows (lines separate stages). The "
    "entropy describes how widely attention spreads, not whether that is good."
)

_ENTROPY = Quantity(
    "entropy (nats)",
    lambda layer: layer.entropy,
    lambda layer: layer.uniform_entropy,
    "entropy / that of uniform attention",
    lambda layer: layer.uniform_entropy or 1.0,
)


def draw(data: AttentionStats, label: str = "") -> "Figure":
    """Draw entropies against layers, a panel for each resolution.

    Args:
        data: Result of `attention_stats`.
        label: Name of the model, for the title.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    return draw_heads(data, _ENTROPY, TITLE, label)


def rows(data: AttentionStats) -> Rows:
    """Return a table row for each head of each layer at each resolution."""
    return head_rows(
        data,
        lambda layer, head: {
            "entropy_nats": float(layer.entropy[head]),
            "effective_tokens": float(np.exp(layer.entropy[head])),
            "uniform_entropy_nats": layer.uniform_entropy,
            "entropy_of_uniform": float(layer.relative_entropy[head]),
        },
    )


def make(figure_model: FigureModel, options: FigureOptions) -> FigureResult:
    """Compute and draw the figure."""
    data = stats_at_sizes(figure_model, options)
    return FigureResult(draw(data, figure_model.label), rows(data))
