"""Reads evaluations from their directories, to plot them together and with the paper's results."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ropevit.analysis.curves import Evaluations
from ropevit.data.imagenet import imagenet_classes
from ropevit.models.published import PublishedResult, curve
from ropevit.tasks.evaluation.loop import read_curve
from ropevit.tasks.evaluation.results import CLASSES, read_csv, read_settings
from ropevit.tasks.registry import TASKS

#: Settings of the paper's evaluations; results with other values are not compared with the paper's.
_PAPER = {"protocol": "paper", "crop": None, "real": None, "scaling": None}


def read_evaluations(folders: Sequence[Path], option: str = "--evals") -> Evaluations:
    """Read the output directories of `ropevit eval`, with the paper's results for the same models.

    Args:
        folders: Directories; all must have the same metric on the same data.
        option: Name of the command-line option in messages.

    Raises:
        ValueError: If a directory holds no evaluation, or they are of different metrics or data.
    """
    advice = f"leave it out of {option}"
    found = [read_settings(folder, advice) for folder in folders]
    metric = found[0]["config"].get("metric")
    rows = {name: task for name, task in TASKS.items() if task.metric.label == metric and task.result is not None}
    task = rows.get(str(found[0].get("task"))) or next(iter(rows.values()), None)  # older files do not name their task
    if task is None:
        raise ValueError(f"{folders[0]} does not name its metric, so an older version wrote it; evaluate again")
    curves = tuple(
        replace(read_curve(folder, task.get("result"), found[0], option), paper=_paper_results(folder, settings))
        for folder, settings in zip(folders, found, strict=True)
    )
    title = f"{metric} on {found[0]['config'].get('data')}"
    return Evaluations(curves=curves, metric=metric, title=title, unit=task.metric.unit)


def _paper_results(folder: Path, settings: Mapping[str, Any]) -> dict[int, PublishedResult]:
    """Return the paper's results by size for a published model that was evaluated as in the paper, on ImageNet-1k."""
    config, name = settings["config"], settings["model"].get("model")
    if name is None or any(config.get(key) != value for key, value in _PAPER.items()):
        return {}
    names = {line["name"] for line in read_csv(folder / CLASSES)}
    return curve(name) if names == set(imagenet_classes()) else {}
