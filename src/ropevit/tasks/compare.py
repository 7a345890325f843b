"""Evaluations read back, to be drawn beside one another and the paper's."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ropevit.analysis.curves import Evaluations
from ropevit.data.imagenet import imagenet_classes
from ropevit.models.published import PublishedResult, curve
from ropevit.tasks.common.eval_results import CLASSES, read_csv, read_settings
from ropevit.tasks.common.evaluation import read_curve
from ropevit.tasks.registry import TASKS

#: What sets the figures of a published model apart from the paper's, which were measured with each at its default.
_PAPER = {"protocol": "paper", "crop": None, "real": None, "scaling": None}


def read_evaluations(folders: Sequence[Path], option: str = "--evals") -> Evaluations:
    """Read what `ropevit eval` left in directories, with the paper's figures for the same models.

    Args:
        folders: Directories; all must have the same score on the same data.
        option: Which option names them.

    Raises:
        ValueError: If one holds no evaluation, or they do not fit each other.
    """
    advice = f"leave it out of {option}"
    found = [read_settings(folder, advice) for folder in folders]
    metric = found[0]["config"].get("metric")
    task = next((task for task in TASKS.values() if task.metric.label == metric), None)
    if task is None:
        raise ValueError(f"{folders[0]} does not say what was measured, as evaluations did before; measure it again")
    curves = tuple(
        replace(read_curve(folder, task.get("result"), found[0], option), paper=_paper_figures(folder, settings))
        for folder, settings in zip(folders, found, strict=True)
    )
    title = f"{metric} on {found[0]['config'].get('data')}"
    return Evaluations(curves=curves, metric=metric, title=title, unit=task.metric.unit)


def _paper_figures(folder: Path, settings: Mapping[str, Any]) -> dict[int, PublishedResult]:
    """Give the paper's figures for what was measured: its model, as it does, on all classes of ImageNet-1k."""
    config, name = settings["config"], settings["model"].get("model")
    if name is None or any(config.get(key) != value for key, value in _PAPER.items()):
        return {}
    names = {line["name"] for line in read_csv(folder / CLASSES)}
    return curve(name) if names == set(imagenet_classes()) else {}
