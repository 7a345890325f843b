"""The frame of every training: processes, data, first weights, directory, and then the engine."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Protocol, runtime_checkable

from torch import nn

from ropevit.data.identity import identify
from ropevit.locks import lock_folder
from ropevit.tasks.common.config import OptimConfig, RunConfig
from ropevit.tasks.common.distributed import Communicator, make_accelerator, shutdown
from ropevit.tasks.common.engine import Task, TrainJob, run_training_loop, start
from ropevit.tasks.common.events import Notice, Report, silent
from ropevit.tasks.common.metrics_log import trackers
from ropevit.tasks.common.run_dir import open_directory


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


#: Opens the data and draws or loads the first weights of a training.
Prepare = Callable[[Any, Communicator], tuple[Task, nn.Module]]


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
        Interrupted: If a signal asked for it; everything is saved.
    """
    trackers(config.run)
    accelerator, channel = make_accelerator(config.run), Communicator()
    with ExitStack() as stack:
        stack.callback(shutdown)
        channel.run_on_main(lambda: stack.enter_context(lock_folder(config.run.out)))
        task, model = prepare(accelerator, channel)
        job = TrainJob(
            accelerator=accelerator,
            task=task,
            model=model,
            optim=config.optim,
            run=config.run,
            settings=config.to_dict(),
            report=report if accelerator.is_main_process else silent,
            communicator=channel,
        )
        state = start(job)
        channel.run_on_main(lambda: record(config, task))  # once all else is in order
        _warmup_notice(job)
        return run_training_loop(job, state)


def record(config: Training, task: Task) -> None:
    """Write down what is trained on which images, or compare it with what was written down."""
    classes = getattr(task, "classes", None)
    facts = config.to_dict() | ({} if classes is None else {"classes": list(classes)}) | task.metric.to_dict()
    sources = {split: getattr(task, name, None) for split, name in (("train", "train"), ("val", "test"))}
    images = {split: identify(source) for split, source in sources.items() if source is not None}
    open_directory(config.run, facts, images)


def _warmup_notice(job: TrainJob) -> None:
    """Say that the warm-up was cut, where the training is too short for it."""
    asked, taken = (count(job.task.steps_per_epoch) for count in (job.optim.requested_warmup, job.optim.warmup))
    if taken < asked:
        job.report(Notice(message=f"the warm-up of {asked} steps was cut to {taken}, half of the training"))
