"""Evaluation of the model in a checkpoint, of whatever task, at many sizes."""

from typing import Any

from ropevit.tasks.common.eval_config import EvalConfig
from ropevit.tasks.common.evaluation import Report
from ropevit.tasks.common.run_dir import task_of_checkpoint


def evaluate(config: EvalConfig, report: Report = lambda _: None) -> list[Any]:
    """Evaluate a model at every size, and write each size's results to the output directory as they come.

    Args:
        config: Model, data and settings.
        report: Called with the events of the evaluation, in the first process only.

    Returns:
        Results by size, including those of an earlier evaluation that is resumed: rows of the task.

    Raises:
        ValueError: If the options, the weights, the data or the directory do not allow it.
    """
    return task_of_checkpoint(config.checkpoint, config.weights).get("evaluate")(config, report)
