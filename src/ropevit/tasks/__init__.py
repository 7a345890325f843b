"""What models are used for: a package for each task, and the registry of tasks."""

from ropevit.tasks.registry import TASKS, Metric, TaskSpec, register_task

__all__ = ["TASKS", "Metric", "TaskSpec", "register_task"]
