"""Measuring whatever a checkpoint holds, a classifier, a detector or a segmenter, at many sizes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ropevit.tasks.classify.evaluate import evaluate as evaluate_classifier
from ropevit.tasks.common.eval_config import EvalConfig
from ropevit.tasks.common.evaluation import Report
from ropevit.tasks.common.run_dir import RUN_FILES, checkpoint_in_run, detect_task
from ropevit.tasks.detect.evaluate import evaluate as evaluate_detector
from ropevit.tasks.segment.evaluate import evaluate as evaluate_segmenter

#: What measures each kind of models that are kept in files of our own alone.
EVALUATORS: dict[str, Callable[[EvalConfig, Path, str, Report], list[Any]]] = {
    "detector": evaluate_detector,
    "segmenter": evaluate_segmenter,
}


def evaluate(config: EvalConfig, report: Report = lambda _: None) -> list[Any]:
    """Measure a model at every size, and write its scores down as they come.

    Args:
        config: What, on what and how.
        report: Called with what happens, in the first process alone.

    Returns:
        What was measured, now or before, by size: rows of the task.

    Raises:
        ValueError: If the options, the weights, the data or the directory do not allow it.
    """
    kind = detect_task(config.checkpoint, config.which)
    if kind == "classifier":
        return evaluate_classifier(config, report)
    place = Path(str(config.checkpoint)).expanduser()
    if config.which is not None and place.is_file():
        raise ValueError(f"got which={config.which!r} for a file; only the directory of a training has several")
    path = checkpoint_in_run(place, config.which) if place.is_dir() else place
    return EVALUATORS[kind](config, path, short_name(path), report)


def short_name(path: Path) -> str:
    """Name a file; one that a training left is called like its directory."""
    path = path.resolve()
    return path.parent.name if path.name in RUN_FILES.values() else path.stem
