"""Output files of a study: the curves as PNG and SVG, and the report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ropevit.drawing import save_figure
from ropevit.files import write_text
from ropevit.study.config import StudyConfig
from ropevit.study.events import Run, describe_training
from ropevit.study.example_images import PanelExamples, make_examples
from ropevit.study.figure import draw_curves
from ropevit.study.method import describe_method
from ropevit.study.panels import PANEL_CLASSES
from ropevit.study.report import write_page
from ropevit.study.results import panel_results
from ropevit.study.runner import load_images
from ropevit.weights import load_model


def write_outputs(config: StudyConfig, study: Mapping[str, Any]) -> Path:
    """Draw the curves and write the report of a study, finished or not; those of an earlier call are replaced.

    Args:
        config: The study.
        study: What its `results.json` holds.

    Returns:
        The report, `report.html` in the study's directory.

    Raises:
        ValueError: If matplotlib or jinja2 is not installed.
    """
    results = panel_results(study["runs"], study.get("floors"))
    if results:
        save_figure(draw_curves(results), config.out / "curves")
    page = write_page(
        study, _make_all_examples(config, study), describe_method(config, study), planned=len(config.runs())
    )
    report = config.out / "report.html"
    write_text(report, page)
    return report


def _make_all_examples(config: StudyConfig, study: Mapping[str, Any]) -> list[PanelExamples]:
    """Collect test images with the predictions of the first seed's models, for each panel with a model."""
    train, test = load_images(config, report=lambda _: None)
    drawn = []
    for name in config.panels:
        own = [run for run in study["runs"] if run["panel"] == name]
        seeds = {run["seed"] for run in own}
        first = [run for run in own if run["seed"] == min(seeds, default=0) and describe_training(run) is None]
        models = {}
        for run in first:
            folder = Run(panel=name, embedding=run["embedding"], seed=run["seed"]).name
            models[run["embedding"]] = load_model(config.out / "runs" / folder / "model.safetensors")[0].eval()
        if models:
            drawn.append(make_examples(PANEL_CLASSES[name](config.settings(name), train, test), models))
    return drawn
