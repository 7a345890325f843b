"""Evaluation of a checkpoint of any task at many sizes."""

from typing import Any

from ropevit.tasks.evaluation.config import EvalConfig
from ropevit.tasks.evaluation.loop import Report
from ropevit.tasks.runs.run_dir import task_of_checkpoint


def evaluate(config: EvalConfig, report: Report = lambda _: None) -> list[Any]:
    """Evaluate a model at every size, and write each size's results to the output directory as they come.

    Args:
        config: Model, data and settings.
        report: Called with the events of the evaluation, in the first process only.

    Returns:
        Results by size, including those of an earlier evaluation that is resumed: rows of the task.

    Raises:
        ValueError: If the options, weights, data or directory do not fit together.
    """
    return task_of_checkpoint(config.checkpoint, config.weights).get("evaluate")(config, report)
