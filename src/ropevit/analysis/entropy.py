"""Attention entropy: how widely each head spreads its attention."""

from typing import Any

import numpy as np

from ropevit.analysis.attention import AttentionStats, add_label, describe, stats_at_sizes
from ropevit.analysis.figure_model import FigureModel, FigureOptions, FigureResult, Rows
from ropevit.analysis.heads import Quantity, draw_heads

TITLE = "Attention entropy"
TEXT = (
    "A point is a head: the entropy, in nats, of the attention of a query patch over all tokens that it sees, averaged "
    "over queries and images; e to its power is the number of tokens that it attends to in effect. The line is the "
    "mean of the heads; dashed is uniform attention, the log of the number of tokens, which no head can exceed. The "
    "last panel divides by that: at larger sizes, heads that attend to no more tokens than before fall there, and "
    "heads that rise towards 1 lose their focus. A Swin's heads are measured inside their windows (lines part the "
    "stages). An entropy says how widely attention spreads, not how well."
)

ENTROPY = Quantity(
    "entropy (nats)",
    lambda layer: layer.entropy,
    lambda layer: layer.uniform_entropy,
    "entropy / that of uniform attention",
    lambda layer: layer.uniform_entropy or 1.0,
)


def draw(data: AttentionStats, label: str = "") -> Any:
    """Draw entropies against layers, a panel for each resolution.

    Args:
        data: What `measure_attention` gave.
        label: Name of the model, for the title.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    return draw_heads(data, ENTROPY, add_label(TITLE, label), describe(data))


def rows(data: AttentionStats) -> Rows:
    """Give a row for each head of each layer at each resolution."""
    return [
        {
            **layer.facts,
            "head": head,
            "entropy_nats": float(entropy),
            "effective_tokens": float(np.exp(entropy)),
            "uniform_entropy_nats": layer.uniform_entropy,
            "entropy_of_uniform": float(layer.relative_entropy[head]),
            "share_to_prefix": float(layer.prefix_share[head]),
        }
        for layer in data.layers
        for head, entropy in enumerate(layer.entropy)
    ]


def make(subject: FigureModel, options: FigureOptions) -> FigureResult:
    """Measure and draw."""
    data = stats_at_sizes(subject, options)
    return FigureResult(draw(data, subject.label), rows(data))
