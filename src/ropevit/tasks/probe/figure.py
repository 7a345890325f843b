"""Figure of a probe: its scores against image size, a plot for each probe."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ropevit.analysis.curves import Curve, Evaluations, draw_curves
from ropevit.tasks.evaluation.inference_modes import BASELINE_LABELS
from ropevit.tasks.evaluation.scaling_search import NONE
from ropevit.tasks.probe.intervals import Interval
from ropevit.tasks.probe.rows import ProbeRow

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_probes(
    rows: Sequence[ProbeRow], position: str, trained_at: int, title: str, levels: Mapping[str, float]
) -> "Figure":
    """Draw the score of each probe against image size: a curve for each scaling method, baselines dashed.

    Args:
        rows: Rows of the results.
        position: Position embedding of the model.
        trained_at: The training size in pixels.
        title: What was measured.
        levels: Scores of horizontal lines, by label.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    return draw_curves(
        *(
            Evaluations(curves=_curves(rows, probe, position, trained_at), metric=metric, title=title, levels=levels)
            for probe, metric in rows[0].kind.axes.items()
        )
    )


def _curves(rows: Sequence[ProbeRow], probe: str, position: str, trained_at: int) -> tuple[Curve, ...]:
    """Return the curve of each scaling method; all go through the reference, or what they have at the training size."""
    found: dict[str, dict[int, Interval]] = {}
    baselines: dict[str, dict[int, float]] = {}
    for row in rows:
        if row.mode == "whole":
            found.setdefault(row.scaling, {})[row.size] = row.scores[probe]
        else:
            label = BASELINE_LABELS[row.mode].format(size=trained_at)
            baselines.setdefault(label, {})[row.size] = row.scores[probe].value
    reference = next(row for row in rows if row.is_reference)
    return tuple(
        Curve(
            name="without scaling" if scaling == NONE else f"scaling {scaling}",
            position=position,
            points={size: each.value for size, each in known.items()},
            intervals={size: (each.low, each.high) for size, each in known.items()},
            trained_at=trained_at,
            baselines=baselines if scaling == reference.scaling else {},
        )
        for scaling, points in found.items()
        for known in [{trained_at: reference.scores[probe], **points}]
    )
