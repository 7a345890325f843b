"""HTML report of an evaluation: the scores by size, the classes with the lowest ones, and what the model confuses."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from ropevit.analysis.report import embed_png, render_report
from ropevit.tasks.evaluation.results import ResultsDir, SizeResult, mode_of
from ropevit.text import format_speed, printable

REPORT = "report.html"
#: Classes in the table of the report.
MOST_CLASSES = 10
#: Pictures of the output directory that the report shows -> title, and how to read them.
_PICTURES = {
    "confusion.png": (
        "Confused classes",
        "Rows: true class; columns: predicted class. The whole table is in confusion.csv.",
    ),
    "worst.png": (
        "Images with the highest loss",
        "With their true and predicted class. Wrong labels stand here, too. More are in worst.csv.",
    ),
}


@dataclass(frozen=True, kw_only=True)
class EvalSummary:
    """What a report says about an evaluation besides its rows."""

    name: str
    """Name of the model."""
    data: str
    """Name of the images."""
    description: str
    """The settings in words."""
    metric: str
    """Name of the score of the curve."""
    trained_at: int
    """Test size during training, in pixels."""
    missing: int
    """Results that are not known yet."""
    notes: tuple[str, ...]
    """Further lines, such as the source of the weights."""


def write_eval_report(results: ResultsDir, summary: EvalSummary, curve: bytes) -> None:
    """Write the report of the results so far; that of an earlier call is replaced.

    Args:
        results: Directory of the evaluation.
        summary: What to say about it.
        curve: The scores over size, a PNG file.
    """
    template = resources.files("ropevit.tasks.evaluation").joinpath("report.html.j2").read_text(encoding="utf-8")
    reference = nearest_row(results.rows, summary.trained_at)
    config, machine = (results.settings.get(part, {}) for part in ("config", "machine"))
    page = render_report(
        template,
        **{part: printable(getattr(summary, part)) for part in ("name", "data", "description", "metric")},
        missing=summary.missing,
        conclusions=conclusions(results.rows, summary),
        curve=embed_png(curve),
        columns=columns_of(results.rows),
        rows=[cells_of(row, columns_of(results.rows)) for row in results.rows],
        **_classes(results, results.column(reference)),
        pictures=_pictures(results, f"At {reference.size} px. " if summary.missing == 0 else ""),
        method=["Scores are in percent. Images that could not be read are skipped and counted."],
        notes=[printable(note) for note in summary.notes],
        environment=json.dumps(machine, indent=2),
        config=json.dumps(config, indent=2, default=str),
    )
    results.write(REPORT, page)


def nearest_size(sizes: Sequence[int], trained_at: int) -> int:
    """Return the test size nearest to that of the training, the smaller of two."""
    return min(sizes, key=lambda size: (abs(size - trained_at), size))


def nearest_row(rows: Sequence[SizeResult], trained_at: int) -> SizeResult:
    """Return the first row of the size nearest to that of the training, the smaller of two."""
    nearest = nearest_size([row.size for row in rows], trained_at)
    return next(row for row in rows if row.size == nearest)


def conclusions(rows: Sequence[SizeResult], summary: EvalSummary) -> list[str]:
    """Return the score at the size nearest to the training, and the highest and the lowest one."""
    metric = summary.metric
    known = [(score, row) for row in rows if (score := row.scores[metric]) is not None]
    if not known:
        return [f"No {metric} could be computed."]
    nearest = nearest_row([row for _, row in known], summary.trained_at)
    at = "its training size" if nearest.size == summary.trained_at else f"trained at {summary.trained_at} px"
    found = [f"{metric} at {nearest.size} px ({at}): {nearest.scores[metric]:.1f} %, on {nearest.images:,} images."]
    if len(known) > 1:
        (high, best), (low, worst) = (pick(known, key=lambda pair: pair[0]) for pick in (max, min))
        found.append(f"Highest: {high:.1f} % {_describe_row(best)}. Lowest: {low:.1f} % {_describe_row(worst)}.")
    skipped = max(row.skipped for row in rows)
    return [*found, *([f"{skipped:,} images could not be read."] if skipped else [])]


def _describe_row(row: SizeResult) -> str:
    """Describe the size and the inference mode of a row."""
    mode = mode_of(row)
    return f"at {row.size} px" + (f" ({mode})" if mode not in (None, "whole") else "")


def columns_of(rows: Sequence[SizeResult]) -> list[str]:
    """Return the columns of the table: those that some row fills."""
    optional = [name for name in ("mode", "tokens") if any(getattr(row, name, None) is not None for row in rows)]
    skipped = ["skipped"] if any(row.skipped for row in rows) else []
    return ["size", *optional, *rows[0].scores, "images", *skipped, "images/s"]


def cells_of(row: SizeResult, columns: Sequence[str]) -> list[str]:
    """Return the cells of a row as text."""
    scores = {name: "" if score is None else f"{score:.2f}" for name, score in row.scores.items()}
    texts = {"size": f"{row.size} px", "images/s": format_speed(row.images_per_second), **scores}
    for name in ("images", "skipped", "tokens"):
        value = getattr(row, name, None)
        texts[name] = "" if value is None else f"{value:,}"
    texts["mode"] = mode_of(row) or ""
    return [texts[column] for column in columns]


def _classes(results: ResultsDir, column: str) -> dict[str, Any]:
    """Return the values of the table of classes: those with the lowest scores at a size, and how many more."""
    scored = {key: scores for key, scores in results.classes.items() if scores.get(column)}
    lowest = sorted(scored, key=lambda key: float(scored[key][column]))[:MOST_CLASSES]
    columns = [results.column(row) for row in results.rows]
    return {
        "classes": [
            {"name": printable(results.names[key]), "cells": [scored[key].get(each, "") for each in columns]}
            for key in lowest
        ],
        "class_columns": columns,
        "sorted_at": column,
        "more": len(scored) - len(lowest),
    }


def _pictures(results: ResultsDir, size: str) -> list[dict[str, str]]:
    """Return the pictures of the directory with their titles, and with a sentence about their size."""
    there = {name: results.folder / name for name in _PICTURES if (results.folder / name).exists()}
    return [
        {"title": _PICTURES[name][0], "text": size + _PICTURES[name][1], "source": embed_png(path.read_bytes())}
        for name, path in there.items()
    ]
