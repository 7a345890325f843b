"""The page on which a study answers: one HTML file that needs nothing else."""

import base64
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import ropevit
from ropevit.drawing import figure_bytes
from ropevit.extras import require
from ropevit.study.figure import draw_curves
from ropevit.study.pictures import PanelPictures
from ropevit.study.results import PanelResult, conclude, panel_results, paper_order, show, verdict

COST_NOTE = (
    "Cost is measured on the tiny model of this study, where small operations weigh more than in a full-size model, "
    "while the trainings share the machine: read it as an order of magnitude."
)


#: Test images below which a reader is warned: one image is then more than half a point.
ENOUGH_IMAGES = 200


def conclusions(results: Sequence[PanelResult], data: Mapping[str, Any]) -> list[str]:
    """Write the sentences that answer the study's question, from its numbers alone.

    Args:
        results: Panels of the study.
        data: What `results.json` says about the images.
    """
    if not results:
        return ["No seed was finished by every embedding yet, so there is nothing to compare."]
    short = [verdict(results)] if any(len(result.curves) > 1 for result in results) else []
    if any(result.panel == "zoom" for result in results):
        short += few_images(data["test_images"], len(data["classes"]))
    return short + [text for result in results for text in (conclude(result), paper_order(result)) if text]


def few_images(images: int, classes: int) -> list[str]:
    """Warn of a test set in which one image counts for much."""
    if images >= ENOUGH_IMAGES:
        return []
    return [
        f"zoom: with {images} test images one image is {100 / images:.1f} points, and guessing one of {classes} "
        f"classes gives {100 / classes:.1f} %; smaller differences say nothing: use more images."
    ]


def score_table(result: PanelResult) -> dict[str, Any]:
    """Lay a panel out as the page's template wants it."""
    best = {size: result.ranked(size)[0] for size in result.sizes}
    first = result.curves[0].step_ms
    rows = [
        {
            "label": curve.label,
            "cells": [{"text": show(curve, size), "best": best[size] is curve} for size in result.sizes],
            "parameters": curve.parameters,
            "step_ms": curve.step_ms,
            "step_ratio": curve.step_ms / first,
        }
        for curve in result.curves
    ]
    count = len(result.seeds)
    return {
        "panel": result.panel,
        "metric": result.metric,
        "train_size": result.train_size,
        "sizes": result.sizes,
        "seeds": f"mean ± standard deviation of {count} seeds" if count > 1 else "1 seed",
        "rows": rows,
    }


def write_page(study: Mapping[str, Any], pictures: Sequence[PanelPictures], method: Sequence[str], planned: int) -> str:
    """Write the report.

    Args:
        study: What `results.json` holds.
        pictures: Sheets of test images; may be empty.
        method: Paragraphs that say how the study was done.
        planned: Trainings that the whole study has.

    Returns:
        HTML with everything inside; it loads nothing.

    Raises:
        ValueError: If jinja2 or matplotlib is not installed.
    """
    jinja2 = require("jinja2", "figures")
    results = panel_results(study["runs"])
    curves = ""
    if results:
        picture = base64.b64encode(figure_bytes(draw_curves(results), "png")).decode()
        curves = f"data:image/png;base64,{picture}"
    text = resources.files("ropevit.study").joinpath("report.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    data = study.get("data", {})
    return environment.from_string(text).render(
        data_name=data.get("name", study["config"].get("data", "")),
        source=data.get("source", ""),
        complete=study["complete"],
        done=len(study["runs"]),
        planned=planned,
        conclusions=conclusions(results, study["data"]),
        curves=curves,
        tables=[score_table(result) for result in results],
        cost_note=COST_NOTE,
        sheets=pictures,
        method=method,
        notes=[*data.get("notes", []), *study.get("skipped_files", [])],
        environment=json.dumps(study["environment"], indent=2),
        config=json.dumps(study["config"], indent=2),
        version=ropevit.__version__,
    )
