"""Report of a study: one self-contained HTML file."""

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from ropevit.analysis.report import embed_figure, render_report
from ropevit.models.positions import position_label
from ropevit.study.conclusions import conclusions
from ropevit.study.cost import format_ratio
from ropevit.study.example_images import PanelExamples
from ropevit.study.figure import draw_curves
from ropevit.study.results import EmbeddingScores, PanelResult, format_score, panel_results
from ropevit.text import printable

_COST_NOTE = (
    "Time: forward and backward of one training batch, timed after training in one process with {threads} "
    "{unit}; the embeddings took turns, and each is compared with the first one of the same round (median and "
    "quartiles of {rounds} rounds). The model of this study is tiny: small operations weigh more than in a full-size "
    "one."
)

#: Mark of a score at the majority-class baseline.
MAJORITY_MARK = "°"


def score_table(result: PanelResult, cost: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a panel's results for the page template; with the time of a step only if it was measured separately."""
    best = {size: result.ranked(size)[0] for size in result.sizes}
    rows = [
        {
            "label": curve.label,
            "cells": [
                {
                    "text": format_marked_score(result, curve, size),
                    "best": best[size] is curve and result.above_majority(size),
                }
                for size in result.sizes
            ],
        }
        for curve in result.curves
    ]
    costs = [
        {
            "label": position_label(name),
            "parameters": next(curve.parameters for curve in result.curves if curve.embedding == name),
            "ms": f"{cost['ms'][name][1]:.1f}" if cost else "",
            "ratio": format_ratio(cost, name) if cost else "",
        }
        for name in dict.fromkeys(curve.embedding for curve in result.curves)
    ]
    count = len(result.seeds)
    return {
        "panel": result.panel,
        "metric": result.metric,
        "train_size": result.train_size,
        "sizes": result.sizes,
        "seeds": f"mean ± standard deviation of {count} seeds" if count > 1 else "1 seed",
        "rows": rows,
        "lines": reference_lines(result),
        "marked": any(MAJORITY_MARK in cell["text"] for row in rows for cell in row["cells"]),
        "costs": costs,
        "timed": cost is not None,
        "cost_note": _COST_NOTE.format(**cost, unit="thread" if cost["threads"] == 1 else "threads") if cost else "",
    }


def format_marked_score(result: PanelResult, curve: EmbeddingScores, size: int) -> str:
    """Format a score, with a mark if it is at the majority-class baseline."""
    return format_score(curve, size) + MAJORITY_MARK * result.at_majority(curve, size)


def reference_lines(result: PanelResult) -> list[dict[str, Any]]:
    """Return the reference rows of a table: the baselines of tiling and resizing, and the majority class."""
    lines = []
    for known in result.baselines:
        cells = [format_score(known, size) if size in known.sizes else "" for size in result.sizes]
        lines.append({"label": known.label, "short": f"baseline {known.baseline}", "cells": cells})
    if result.majority is not None:
        scores = result.majority.scores
        cells = [f"{scores[size]:.1f}" if size in scores else "" for size in result.sizes]
        lines.append({"label": f"majority class: {result.majority.name}", "short": "major", "cells": cells})
    return lines


def write_page(study: Mapping[str, Any], examples: Sequence[PanelExamples], method: Sequence[str], planned: int) -> str:
    """Return the HTML of the report.

    Args:
        study: Content of `results.json`.
        examples: Example images of the panels; may be empty.
        method: Paragraphs that describe how the study was done.
        planned: Number of trainings of the complete study.

    Returns:
        Self-contained HTML; it loads nothing.

    Raises:
        ValueError: If jinja2 or matplotlib is not installed.
    """
    results = panel_results(study["runs"], study.get("floors"))
    costs = study.get("costs", {})
    text = resources.files("ropevit.study").joinpath("report.html.j2").read_text(encoding="utf-8")
    data = study.get("data", {})
    return render_report(
        text,
        data_name=printable(data.get("name", study["config"].get("data", ""))),
        source=printable(data.get("source", "")),
        complete=study["complete"],
        done=len(study["runs"]),
        planned=planned,
        conclusions=conclusions(results, study["data"]),
        curves=[_curve_image(result) for result in results],
        tables=[score_table(result, costs.get(result.panel)) for result in results],
        at_majority=MAJORITY_MARK,
        sheets=examples,
        method=method,
        notes=[printable(note) for note in (*data.get("notes", []), *study.get("skipped_files", []))],
        environment=json.dumps(study["environment"], indent=2),
        config=json.dumps(study["config"], indent=2),
    )


def _curve_image(result: PanelResult) -> dict[str, Any]:
    """Return the curves of one panel as a separate image, since panels are stacked on narrow screens."""
    variants = len({curve.variant for curve in result.curves})
    return {
        "panel": result.panel,
        "wide": variants > 1,
        "variants": variants,
        "source": embed_figure(draw_curves([result])),
    }
