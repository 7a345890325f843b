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
from ropevit.tasks.distributed import Communicator, make_accelerator, shutdown
from ropevit.tasks.runs.run_dir import (
    FILE,
    Extension,
    open_directory,
    read_settings,
    remove_final_weights,
    store_extension,
)
from ropevit.tasks.runs.run_names import choose_folder, numbered_folders
from ropevit.tasks.training.config import OptimConfig, RunConfig
from ropevit.tasks.training.early_stopping import out_of_patience
from ropevit.tasks.training.engine import (
    Task,
    TrainJob,
    TrainState,
    resume,
    run_training_loop,
    save,
    start,
)
from ropevit.tasks.training.events import Notice, Report, TrainStarted, silent
from ropevit.tasks.training.metrics_log import trackers
from ropevit.tasks.training.optim import count_parameters

if TYPE_CHECKING:
    from accelerate import Accelerator


@runtime_checkable
class TrainingConfig(Protocol):
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


TrainingT = TypeVar("TrainingT", bound=TrainingConfig)

#: Folder of the output directories of trainings that name none.
RUNS = Path("runs")
#: The one directory of such trainings in older versions.
OLDER_OUT = RUNS / "train"

#: Opens the data, and initializes or loads the weights.
Prepare = Callable[[Any, Communicator], tuple[Task, nn.Module]]


def run_training(config: TrainingConfig, prepare: Prepare, report: Report) -> dict[str, float]:
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
        extension = communicator.run_on_main(lambda: record(config, task))  # last: a refused training writes nothing
        resume(state, job)
        _extend(state, job, extension)
        _warmup_notice(job)
        job.report(_describe_start(state, job))
        return run_training_loop(job, state)


def _extend(state: TrainState, job: TrainJob, extension: Extension | None) -> None:
    """Make an extended training longer, from its checkpoint; what says that a training was complete goes first."""
    if extension is not None and state.step:
        state.history["extended_at"] = state.step
        save(state, job)
    ended = out_of_patience(state.history, job.run.patience, job.task.steps_per_epoch)
    if state.step < job.steps and not ended:
        job.communicator.run_on_main(lambda: remove_final_weights(job.run.folder))
    if extension is not None:
        job.communicator.run_on_main(lambda: store_extension(job.run.folder, extension))
        job.report(Notice(message=extension.note))


def _describe_start(state: TrainState, job: TrainJob) -> TrainStarted:
    """Return the event of the start of a training."""
    (parameters, trainable), classes = count_parameters(state.unwrapped), getattr(job.task, "classes", ())
    return TrainStarted(
        first=state.step,
        steps=job.last_step,
        length=job.steps,
        steps_per_epoch=job.task.steps_per_epoch,
        out=job.run.folder,
        parameters=parameters,
        trainable=trainable,
        num_classes=len(classes) or None,
    )


def folder_of(config: TrainingConfig) -> Path:
    """Return the output directory of a training: where none is given, the next free one of the recipe.

    On resuming it is the last one of the recipe; if there is none, that of older versions, if it is of this recipe.
    """
    first, run = RUNS / config.recipe.rpartition("/")[2], config.run
    if run.out is None and run.resume and not numbered_folders(first) and (OLDER_OUT / FILE).exists():
        return OLDER_OUT if read_settings(OLDER_OUT).get("recipe") == config.recipe else first
    return run.out or choose_folder(first, run.resume)


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


def record(config: TrainingConfig, task: Task) -> Extension | None:
    """Write the config and the identity of the images; on resuming, compare them with the stored ones.

    Returns:
        The new length of a training that is longer than before, which is not yet written.
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
