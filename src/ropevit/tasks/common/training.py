"""The frame of every training: processes, data, first weights, directory, and then the engine."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from torch import nn

from ropevit.tasks.common.config import OptimConfig, RunConfig
from ropevit.tasks.common.directory import open_directory
from ropevit.tasks.common.engine import Job, Task, fit
from ropevit.tasks.common.events import Report, silent
from ropevit.tasks.common.metrics import trackers
from ropevit.tasks.common.processes import Channel, leave, make_accelerator


@runtime_checkable
class Training(Protocol):
    """A recipe, perhaps with some fields replaced."""

    @property
    def recipe(self) -> str:
        """Name of the recipe."""
        ...

    @property
    def optim(self) -> OptimConfig:
        """How it is optimised."""
        ...

    @property
    def run(self) -> RunConfig:
        """Where and how it is computed."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Write all of it as JSON can hold it."""
        ...


@runtime_checkable
class ClassifiedTask(Task, Protocol):
    """A task whose data have classes."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        ...


#: Opens the data and draws or loads the first weights of a training.
Prepare = Callable[[Any, Channel], tuple[ClassifiedTask, nn.Module]]


def run_training(config: Training, prepare: Prepare, report: Report) -> dict[str, float]:
    """Train, or go on with a training.

    Args:
        config: The training.
        prepare: Called with an accelerator and what connects the processes.
        report: Called with the events of the training, in the first process alone.

    Returns:
        Scores of the last evaluation in percent.

    Raises:
        ValueError: If the options, the data or the directory do not allow it.
        Stopped: If a signal asked for it; everything is saved.
    """
    trackers(config.run)
    accelerator, channel = make_accelerator(config.run), Channel()
    try:
        task, model = prepare(accelerator, channel)
        facts = config.to_dict() | {"classes": list(task.classes), "metric": task.metric}
        channel.first(lambda: open_directory(config.run, facts))  # once all else is in order
        job = Job(
            accelerator=accelerator,
            task=task,
            model=model,
            optim=config.optim,
            run=config.run,
            settings=config.to_dict(),
            report=report if accelerator.is_main_process else silent,
            channel=channel,
        )
        return fit(job)
    finally:
        leave()
