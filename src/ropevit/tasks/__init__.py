"""Tasks: training, evaluation and prediction, with one package per task and a registry."""

from ropevit.tasks.registry import TASKS, Metric, PredictOption, TaskSpec, register_task

__all__ = ["TASKS", "Metric", "PredictOption", "TaskSpec", "register_task"]
