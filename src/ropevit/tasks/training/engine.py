"""Training loop of all tasks: steps, checkpoints and evaluations, with exact resumption.

All random numbers depend on the seed, the step and the micro-batch alone, so a checkpoint holds no generator state, and
a training can be resumed with another number of processes.
"""

import contextlib
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ropevit.data.rng import derive_seed
from ropevit.tasks.distributed import Communicator, Interrupted, Interruption
from ropevit.tasks.registry import Metric
from ropevit.tasks.training.checkpoints import (
    find_newest,
    fsdp_module,
    list_checkpoints,
    load_checkpoint,
    load_training_state,
    save_checkpoint,
    step_of,
    training_state,
)
from ropevit.tasks.training.config import OptimConfig, RunConfig
from ropevit.tasks.training.early_stopping import describe_stop, out_of_patience
from ropevit.tasks.training.events import EvalDone, EvalProgress, LogLine, Notice, Report, StepDone
from ropevit.tasks.training.first_batches import DrawsBatches, draw_first_batches
from ropevit.tasks.training.metrics_log import LogWindow, Metrics
from ropevit.tasks.training.optim import Ema, make_optimizer
from ropevit.tasks.training.steps import learning_rate, update_weights

#: History of a training at its start: best score and its step, mean loss of the first line of the log, number of
#: skipped images, and the scores of the last evaluation and its step.
_INITIAL_HISTORY = {"best": None, "best_step": 0, "first_loss": None, "skipped": 0, "scores": {}, "evaluated": -1}


@runtime_checkable
class Task(Protocol):
    """Interface of a task for the engine.

    Optional attributes: `classes`, the class names in the order of the logits; `train` and `test`, the data sets, if
    `ropevit.data.identity` can identify their images, so that the task is not resumed with others. Optional method:
    `draw_batch`, for a picture of the first batches; see `ropevit.tasks.training.first_batches.DrawsBatches`.
    """

    steps_per_epoch: int
    """Steps per epoch."""
    batch_size: int
    """Images per step, over all processes."""
    metric: Metric
    """Score that selects the best weights."""
    skipped: list[str]
    """Images that this process could not read; the engine logs them and clears the list."""

    def batches(self, first: int, last: int) -> Iterator[Any]:
        """Iterate over this process's micro-batches of the steps from `first` to before `last`."""
        ...

    def loss(self, model: nn.Module, batch: Any, step: int) -> Tensor:
        """Return the mean loss of a micro-batch."""
        ...

    def evaluate(self, model: nn.Module, report: Report) -> dict[str, float]:
        """Evaluate the model over all processes; return scores by name."""
        ...

    def save_weights(self, path: Path, weights: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Save weights as a model file, with metadata."""
        ...


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """A training: task, model, config and processes."""

    accelerator: Any
    task: Task
    model: nn.Module
    optim: OptimConfig
    run: RunConfig
    settings: Mapping[str, Any]
    report: Report
    communicator: Communicator

    @property
    def is_main_process(self) -> bool:
        """Whether this is the main process, which writes the files."""
        return self.accelerator.is_main_process

    @property
    def steps(self) -> int:
        """Length of the schedule in steps."""
        return self.optim.length(self.task.steps_per_epoch)

    @property
    def last_step(self) -> int:
        """Step after which to stop."""
        return min(self.steps, self.run.max_steps or self.steps)


@dataclass
class TrainState:
    """State of a training; a checkpoint holds the states of model, optimizer and EMA, the step and `history`."""

    model: nn.Module
    """Model wrapped for distributed training."""
    unwrapped: nn.Module
    """The same model, not wrapped."""
    optimizer: Any
    ema: Ema | None
    window: LogWindow
    """Losses of the steps since the last line of the log."""
    metrics: Metrics | None = None
    """Log, in the main process."""
    step: int = 0
    history: dict[str, Any] = field(default_factory=lambda: dict(_INITIAL_HISTORY))


def run_training_loop(job: TrainJob, state: TrainState) -> dict[str, float]:
    """Train.

    Writes `metrics.jsonl`, `train_batches.png`, `checkpoints/`, `best.safetensors` and, at the end,
    `model.safetensors` (with an EMA also `model_ema.safetensors`).

    Args:
        job: The training.
        state: Initial state, from `start` and `resume`.

    Returns:
        The scores of the last evaluation.

    Raises:
        Interrupted: If the process received SIGTERM or SIGINT; the checkpoint holds every step done.
        DivergedError: If the loss is not finite, or ten times that at the start.
        CheckpointError: If a checkpoint cannot be written.
    """
    try:
        if job.is_main_process:
            state.metrics = Metrics(job.run, job.settings, state.step, state.history["evaluated"])
        with Interruption(job.communicator) as interruption:
            _run_steps(state, job, interruption)
        finish(state, job)
        return state.history["scores"]
    finally:
        if state.metrics is not None:
            state.metrics.close()


def start(job: TrainJob) -> TrainState:
    """Create the state at step 0: move and wrap the model, build optimizer and EMA; no file is written yet.

    Raises:
        ValueError: If the options do not fit the model.
    """
    model, run = job.model.to(job.accelerator.device), job.run
    if run.grad_checkpointing:
        model.set_grad_checkpointing(True)  # pyright: ignore[reportCallIssue]
    if run.compile:
        model.compile()
    if run.fsdp:
        fsdp_module().apply_fsdp(model, job.accelerator.device)
    optimizer = job.accelerator.prepare_optimizer(make_optimizer(model, job.optim))
    wrapped = job.accelerator.prepare_model(model, evaluation_mode=run.fsdp)  # does not wrap a sharded model again
    plain = job.accelerator.unwrap_model(wrapped)
    ema = None if job.optim.ema_decay is None else Ema(plain, job.optim.ema_decay)
    wrapped.train()
    return TrainState(wrapped, plain, optimizer, ema, LogWindow(job.accelerator.device))


def resume(state: TrainState, job: TrainJob) -> None:
    """Load the newest undamaged checkpoint, the same in all processes.

    Raises:
        ValueError: If its step is beyond `max_steps`.
        CheckpointError: If all checkpoints are damaged.
    """
    folder = job.run.folder / "checkpoints"
    step = job.communicator.run_on_main(lambda: _newest_step(folder, job.report))
    if step is None:
        return
    if step > job.last_step:
        raise ValueError(
            f"got max_steps={job.last_step}, but {job.run.folder} is at step {step} already; resume it with more "
            "steps, or without max_steps"
        )
    found = load_checkpoint(folder / f"step-{step:08d}.pt")
    parts = found["state"]
    load_training_state(parts, state.unwrapped, state.optimizer.optimizer, state.ema, job.run.fsdp)
    if job.accelerator.scaler is not None and found["scaler"]:
        job.accelerator.scaler.load_state_dict(found["scaler"])
    state.step, state.history = step, {"best_step": step, **found["record"]}


def _newest_step(folder: Path, report: Report) -> int | None:
    """Return the step of the newest undamaged checkpoint; report damaged ones."""
    newest, damaged = find_newest(folder)
    for line in damaged:
        report(Notice(message=line))
    return None if newest is None else step_of(newest)


def _run_steps(state: TrainState, job: TrainJob, interruption: Interruption) -> None:
    """Run the remaining steps, with log lines, checkpoints and evaluations."""
    run, epoch = job.run, job.task.steps_per_epoch
    if state.step and _evaluation_missing(state, job):
        _evaluate_and_save(state, job)
    batches = _open_batches(state, job)
    state.window.restart()
    while state.step < job.last_step and not _out_of_patience(state, job):
        state.window.add(take_step(state, job, batches))
        job.report(StepDone(step=state.step))
        evaluating = _evaluation_due(state.step, job)
        saving = evaluating or state.step % (run.save_interval or epoch) == 0
        stopping = interruption.received()
        if saving or stopping or state.step % run.log_interval == 0:
            _write_log_line(state, job)
        if not (saving or stopping):
            continue
        path = save(state, job)  # before the evaluation, which a preempted job may not have time for
        if stopping:
            raise Interrupted(interruption.signal, path, state.step)
        if evaluating:
            _evaluate_and_save(state, job)
        state.window.restart()


def _open_batches(state: TrainState, job: TrainJob) -> Iterator[Any]:
    """Open the remaining batches; those of the first steps are drawn, too, in the main process."""
    batches, parts = job.task.batches(state.step, job.last_step), job.run.grad_accum_steps
    if state.step or not job.is_main_process or not isinstance(job.task, DrawsBatches):
        return batches
    seed = partial(_seed_micro_batch, job)
    return draw_first_batches(job.task, batches, (job.last_step, parts), job.run.folder, seed, job.report)


def _out_of_patience(state: TrainState, job: TrainJob) -> bool:
    """Return whether the score has not improved for `patience` epochs."""
    return out_of_patience(state.history, job.run.patience, job.task.steps_per_epoch)


def _evaluation_due(step: int, job: TrainJob) -> bool:
    """Return whether an evaluation follows a step."""
    return step >= job.last_step or step % (job.run.val_interval * job.task.steps_per_epoch) == 0


def _evaluation_missing(state: TrainState, job: TrainJob) -> bool:
    """Return whether an evaluation was interrupted, or a training that ends here lacks that of the EMA."""
    history, average = state.history, f"ema_{job.task.metric.name}"
    if history["evaluated"] != state.step and _evaluation_due(state.step, job):
        return True
    return state.ema is not None and average not in history["scores"] and _out_of_patience(state, job)


def _evaluate_and_save(state: TrainState, job: TrainJob) -> None:
    """Evaluate, and write a checkpoint with the scores."""
    evaluate(state, job)
    save(state, job)


def take_step(state: TrainState, job: TrainJob, batches: Iterator[Any]) -> Tensor:
    """Take one optimization step and return this process's mean loss, on the device, without synchronizing it."""
    accelerator, parts = job.accelerator, job.run.grad_accum_steps
    total = torch.zeros((), device=accelerator.device)
    for part in range(parts):
        batch = state.window.wait(batches)  # before seeding, as reading may use the same generators
        _seed_micro_batch(job, state.step, part)
        last = part == parts - 1
        with contextlib.nullcontext() if last or job.run.fsdp else accelerator.no_sync(state.model):
            loss = job.task.loss(state.model, batch, state.step)
            accelerator.backward(loss / parts)
        total += loss.detach() / parts
    lr = learning_rate(job.optim, state.step, job.task.steps_per_epoch)
    update_weights(state.optimizer, state.model.parameters(), lr, job.optim.clip_grad, accelerator.clip_grad_norm_)
    if state.ema is not None:
        state.ema.update(state.unwrapped)
    state.step += 1
    return total


def _seed_micro_batch(job: TrainJob, step: int, part: int) -> None:
    """Seed the random numbers of a micro-batch (stochastic depth, random erasing)."""
    index = job.accelerator.process_index * job.run.grad_accum_steps + part
    seed = derive_seed("training", job.run.seed, step, index)
    torch.manual_seed(seed)
    random.seed(seed)


def _write_log_line(state: TrainState, job: TrainJob) -> None:
    """Check the losses since the last line of the log, and write a line."""
    window = state.window
    losses = job.communicator.all_reduce_sum(window.losses()) / job.accelerator.num_processes
    if not len(losses):
        return
    rate = max(group["lr"] for group in state.optimizer.param_groups)
    newest = (list_checkpoints(job.run.folder / "checkpoints") or [None])[-1]
    window.check(losses, state.step, rate, state.history, newest)
    skipped = _collect_skipped(state, job)
    figures = {
        "epoch": round(state.step / job.task.steps_per_epoch, 4),
        "loss": losses.mean().item(),
        "lr": rate,
        "images_per_second": round(len(losses) * job.task.batch_size / window.seconds(), 2),
        "data_wait": round(window.waited / window.seconds(), 4),
        "memory_gib": round(window.memory(), 3),
    }
    if state.metrics is not None:
        state.metrics.write(state.step, figures | skipped)
    job.report(LogLine(step=state.step, steps=job.last_step, **figures))
    window.restart()


def _collect_skipped(state: TrainState, job: TrainJob) -> dict[str, list[str]]:
    """Gather the images skipped since the last line of the log, count and report them; return the entry for the log."""
    skipped = [line for lines in job.communicator.all_gather(job.task.skipped) for line in lines]
    job.task.skipped.clear()
    state.history["skipped"] += len(skipped)
    for line in skipped[:3]:
        job.report(Notice(message=f"skipped {line}"))
    return {"skipped": skipped} if skipped else {}


def evaluate(state: TrainState, job: TrainJob) -> None:
    """Evaluate the weights, after the last step also their EMA; save the best weights."""

    def watch(event: Any) -> None:
        if isinstance(event, EvalProgress | Notice):
            job.report(event)

    def measure() -> dict[str, float]:
        job.communicator.broadcast(state.unwrapped.buffers())  # running statistics: evaluate those that are saved
        state.unwrapped.eval()
        scores = job.task.evaluate(state.unwrapped, watch)
        if job.run.fsdp:
            fsdp_module().reshard(state.unwrapped)
        state.unwrapped.train()
        return scores

    scores = measure()
    epoch, score = state.step / job.task.steps_per_epoch, scores[job.task.metric.name]
    better = job.task.metric.is_better(score, state.history["best"])
    state.history |= {"evaluated": state.step} | ({"best": score, "best_step": state.step} if better else {})
    if state.ema is not None and (state.step >= job.last_step or _out_of_patience(state, job)):
        state.ema.swap(state.unwrapped)
        scores |= {f"ema_{name}": score for name, score in measure().items()}
        state.ema.swap(state.unwrapped)
    if better:
        save_weights(state, job, "best.safetensors", scores)
    state.history["scores"] = scores
    skipped = _collect_skipped(state, job)
    if state.metrics is not None:
        state.metrics.write(state.step, {"epoch": round(epoch, 4), **scores, **skipped})
    job.report(EvalDone(step=state.step, epoch=epoch, scores=scores, best=better))


def save_weights(state: TrainState, job: TrainJob, name: str, scores: Mapping[str, float]) -> None:
    """Save the weights as a model file; all processes must call this."""
    weights = training_state(state.unwrapped, state.optimizer.optimizer, None, job.run.fsdp)["model"]
    facts = {"step": state.step, "scores": dict(scores), "seed": job.run.seed}
    job.communicator.run_on_main(lambda: job.task.save_weights(job.run.folder / name, weights, facts))


def save(state: TrainState, job: TrainJob) -> Path:
    """Write a checkpoint; an error is raised in every process."""
    content = {
        "step": state.step,
        "record": state.history,
        "state": training_state(state.unwrapped, state.optimizer.optimizer, state.ema, job.run.fsdp),
        "scaler": {} if job.accelerator.scaler is None else job.accelerator.scaler.state_dict(),
    }
    folder = job.run.folder / "checkpoints"
    return job.communicator.run_on_main(lambda: save_checkpoint(folder, state.step, content, job.run.keep_checkpoints))


def finish(state: TrainState, job: TrainJob) -> None:
    """Save the final weights and their EMA, unless `max_steps` ended the training early."""
    if _out_of_patience(state, job):
        job.report(Notice(message=describe_stop(state.history, job.run.patience, job.task.metric.name)))
    elif state.step < job.steps:
        return
    scores = state.history["scores"]
    save_weights(state, job, "model.safetensors", scores)
    if state.ema is not None:
        state.ema.swap(state.unwrapped)
        save_weights(state, job, "model_ema.safetensors", scores)
        state.ema.swap(state.unwrapped)
