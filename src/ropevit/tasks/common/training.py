"""Set up a training of any task (processes, data, weights, output directory) and run the engine."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ropevit.data.identity import identify
from ropevit.data.imagenet import MEAN, STD
from ropevit.data.order import TrainOrder
from ropevit.locks import lock_folder
from ropevit.tasks.common.config import OptimConfig, RunConfig
from ropevit.tasks.common.distributed import Communicator, make_accelerator, shutdown
from ropevit.tasks.common.engine import Task, TrainJob, run_training_loop, start
from ropevit.tasks.common.events import Notice, Report, silent
from ropevit.tasks.common.metrics_log import trackers
from ropevit.tasks.common.run_dir import open_directory
from ropevit.tasks.common.run_names import choose_folder

if TYPE_CHECKING:
    from accelerate import Accelerator


@runtime_checkable
class Training(Protocol):
    """Interface of a training configuration."""

    @property
    def recipe(self) -> str:
        """Name of the recipe."""
        ...

    @property
    def optim(self) -> OptimConfig:
        """Optimizer and schedule."""
        ...

    @property
    def run(self) -> RunConfig:
        """Output, device and logging."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration for JSON."""
        ...


TrainingT = TypeVar("TrainingT", bound=Training)

#: Folder of the output directories of trainings that name none.
RUNS = Path("runs")

#: Opens the data, and initializes or loads the weights.
Prepare = Callable[[Any, Communicator], tuple[Task, nn.Module]]


def run_training(config: Training, prepare: Prepare, report: Report) -> dict[str, float]:
    """Train, or resume a training.

    Args:
        config: Configuration of the training.
        prepare: Opens the data and builds the model.
        report: Called with each event, in the main process only.

    Returns:
        Scores of the last evaluation.

    Raises:
        ValueError: If the options, the data or the directory are unsuitable.
        Interrupted: If the process received SIGTERM or SIGINT; a checkpoint is saved.
    """
    trackers(config.run)
    accelerator, communicator = make_accelerator(config.run), Communicator()
    with ExitStack() as stack:
        stack.callback(shutdown)
        config = with_folder(config, communicator.run_on_main(lambda: folder_of(config)))
        communicator.run_on_main(lambda: stack.enter_context(lock_folder(config.run.folder)))
        task, model = prepare(accelerator, communicator)
        job = TrainJob(
            accelerator=accelerator,
            task=task,
            model=model,
            optim=config.optim,
            run=config.run,
            settings=config.to_dict(),
            report=report if accelerator.is_main_process else silent,
            communicator=communicator,
        )
        state = start(job)
        notes = communicator.run_on_main(lambda: record(config, task))  # last: a refused training writes nothing
        for note in notes:
            job.report(Notice(message=note))
        _warmup_notice(job)
        return run_training_loop(job, state)


def folder_of(config: Training) -> Path:
    """Return the output directory of a training: where none is given, the next free one of the recipe."""
    return config.run.out or choose_folder(RUNS / config.recipe.rpartition("/")[2], config.run.resume)


def with_folder(config: TrainingT, out: Path) -> TrainingT:
    """Return a config with an output directory."""
    return replace(config, run=replace(config.run, out=out))  # pyright: ignore[reportCallIssue, reportArgumentType]


def train_order(config: Any, length: int, accelerator: "Accelerator", **more: Any) -> TrainOrder:
    """Return the order of the training images, divided over processes and micro-batches.

    Args:
        config: Config of the training; its batch size is that of a step, over all processes.
        length: Number of images.
        accelerator: Accelerator of this process.
        **more: Other fields of the order, such as `repeats`.
    """
    return TrainOrder(
        length,
        config.batch_size,
        config.run.seed,
        world=accelerator.num_processes,
        rank=accelerator.process_index,
        micro_batches=config.run.grad_accum_steps,
        **more,
    )


def mean_and_std(
    device: torch.device, mean: Sequence[float] = MEAN, std: Sequence[float] = STD
) -> tuple[Float[Tensor, "3 1 1"], Float[Tensor, "3 1 1"]]:
    """Return mean and standard deviation of each channel on a device, for pixels from 0 to 1; ImageNet's by default."""
    first, second = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (mean, std))
    return first, second


def record(config: Training, task: Task) -> tuple[str, ...]:
    """Write the config and the identity of the images; on resuming, compare them with the stored ones.

    Returns:
        Lines for the user.
    """
    classes = getattr(task, "classes", None)
    facts = config.to_dict() | ({} if classes is None else {"classes": list(classes)}) | task.metric.to_dict()
    sources = {split: getattr(task, name, None) for split, name in (("train", "train"), ("val", "test"))}
    images = {split: identify(source) for split, source in sources.items() if source is not None}
    return open_directory(config.run, facts, images)


def _warmup_notice(job: TrainJob) -> None:
    """Report a warm-up that was shortened, as it does not fit into the training."""
    requested, actual = job.optim.requested_warmup(job.task.steps_per_epoch), job.optim.warmup(job.task.steps_per_epoch)
    if actual < requested:
        job.report(Notice(message=f"the warm-up of {requested} steps was cut to {actual}, half of the training"))
