"""The training loop of every task: steps, checkpoints and evaluations, exact after any interruption.

All that is drawn depends on the seed, the step and the part of the batch alone, so a checkpoint needs no state of
random numbers, and a training may go on with another number of processes.
"""

import contextlib
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ropevit.data.rng import derive_seed
from ropevit.tasks.common.checkpoints import (
    find_newest,
    fsdp_module,
    list_checkpoints,
    load_checkpoint,
    load_training_state,
    save_checkpoint,
    step_of,
    training_state,
)
from ropevit.tasks.common.config import OptimConfig, RunConfig
from ropevit.tasks.common.distributed import Communicator, Interrupted, Interruption
from ropevit.tasks.common.events import EvalDone, EvalProgress, LogLine, Notice, Report, StepDone, TrainStarted
from ropevit.tasks.common.metrics_log import LogWindow, Metrics
from ropevit.tasks.common.optim import Ema, make_optimizer, make_schedule
from ropevit.tasks.registry import Metric

#: What a checkpoint records at the start: the best score, the loss of the first line, images left out, and the last
#: evaluation and its step.
_INITIAL_HISTORY = {"best": None, "first_loss": None, "skipped": 0, "scores": {}, "evaluated": -1}


@runtime_checkable
class Task(Protocol):
    """What the engine needs of a task.

    A task whose data have classes also has their names, `classes`, in the order of the logits; one that has `train` and
    `test`, images of a type that `ropevit.data.identity` knows, is not resumed with others.
    """

    steps_per_epoch: int
    """Steps of an epoch."""
    batch_size: int
    """Images of a step, over all processes."""
    metric: Metric
    """The score that says which weights are best."""
    skipped: list[str]
    """Images of this process that could not be read; the engine empties it as it writes them down."""

    def batches(self, first: int, last: int) -> Iterator[Any]:
        """Give this process's share of the steps from `first` to before `last`, in as many parts as it accumulates."""
        ...

    def loss(self, model: nn.Module, batch: Any, step: int) -> Tensor:
        """Give the mean loss of a part."""
        ...

    def evaluate(self, model: nn.Module, report: Report) -> dict[str, float]:
        """Measure the model, over all processes."""
        ...

    def save_weights(self, path: Path, weights: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Save weights as a file that can be loaded for use."""
        ...


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """A training: what, how, where, and who watches."""

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
        """Whether this process writes files."""
        return self.accelerator.is_main_process

    @property
    def steps(self) -> int:
        """Steps of the whole schedule."""
        return self.optim.length(self.task.steps_per_epoch)

    @property
    def last_step(self) -> int:
        """Step at which to stop."""
        return min(self.steps, self.run.max_steps or self.steps)


@dataclass
class TrainState:
    """A training on its way; `history` and the states of its parts are what a checkpoint holds."""

    model: nn.Module
    """As wrapped for several processes."""
    unwrapped: nn.Module
    """The same, not wrapped."""
    optimizer: Any
    schedule: Any
    ema: Ema | None
    window: LogWindow
    """The steps since the last line of the log."""
    metrics: Metrics | None = None
    """The log, in the first process."""
    step: int = 0
    history: dict[str, Any] = field(default_factory=lambda: dict(_INITIAL_HISTORY))


def run_training_loop(job: TrainJob, state: TrainState) -> dict[str, float]:
    """Train, going on from the newest checkpoint where there is one.

    Writes `metrics.jsonl`, `checkpoints/`, `best.safetensors` and, at the end, `model.safetensors` (and, with a moving
    average, `model_ema.safetensors`).

    Args:
        job: The training.
        state: What `start` made of it.

    Returns:
        The scores of the last evaluation.

    Raises:
        Interrupted: If a signal asked for it; the checkpoint holds every step done.
        DivergedError: If the loss is not finite any more, or ten times what it was at the start.
        CheckpointError: If a checkpoint cannot be written, or none of those there can be read.
    """
    resume(state, job)
    length = {"steps": job.last_step, "length": job.steps, "steps_per_epoch": job.task.steps_per_epoch}
    job.report(TrainStarted(first=state.step, **length))
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
    """Wrap the model for the processes, and make what goes with it at step 0; nothing is written yet.

    Raises:
        ValueError: If the options do not fit the model.
    """
    model, run = job.model.to(job.accelerator.device), job.run
    if run.grad_checkpointing:
        model.set_grad_checkpointing(True)  # pyright: ignore[reportCallIssue]
    if run.compile:
        model.compile()
    if run.shard:
        fsdp_module().apply_fsdp(model, job.accelerator.device)
    optimizer = make_optimizer(model, job.optim)
    schedule = make_schedule(optimizer, job.optim, job.task.steps_per_epoch)
    optimizer = job.accelerator.prepare_optimizer(optimizer)
    wrapped = job.accelerator.prepare_model(model, evaluation_mode=run.shard)  # which leaves a shared-out model alone
    plain = job.accelerator.unwrap_model(wrapped)
    ema = None if job.optim.ema_decay is None else Ema(plain, job.optim.ema_decay)
    wrapped.train()
    return TrainState(wrapped, plain, optimizer, schedule, ema, LogWindow(job.accelerator.device))


def resume(state: TrainState, job: TrainJob) -> None:
    """Put a training where its newest whole checkpoint was; all processes take the same one.

    Raises:
        ValueError: If that is beyond the last step asked for.
    """
    folder = job.run.out / "checkpoints"
    step = job.communicator.run_on_main(lambda: _newest_step(folder, job.report))
    if step is None:
        return
    if step > job.last_step:
        raise ValueError(
            f"got max_steps={job.last_step}, but {job.run.out} is at step {step} already; resume it with more steps, "
            "or without max_steps"
        )
    found = load_checkpoint(folder / f"step-{step:08d}.pt")
    parts = found["state"]
    load_training_state(parts, state.unwrapped, state.optimizer.optimizer, state.ema, job.run.shard)
    if job.accelerator.scaler is not None and found["scaler"]:
        job.accelerator.scaler.load_state_dict(found["scaler"])
    state.step, state.history = step, found["record"]


def _newest_step(folder: Path, report: Report) -> int | None:
    """Find the step of the newest whole checkpoint, telling of damaged ones."""
    newest, damaged = find_newest(folder)
    for line in damaged:
        report(Notice(message=line))
    return None if newest is None else step_of(newest)


def _run_steps(state: TrainState, job: TrainJob, interruption: Interruption) -> None:
    """Take the steps that are left, with what is due between them."""
    run, epoch = job.run, job.task.steps_per_epoch
    if state.step and state.history["evaluated"] != state.step and _evaluation_due(state.step, job):
        _evaluate_and_save(state, job)  # what it was interrupted in
    batches = job.task.batches(state.step, job.last_step)
    state.window.restart()
    while state.step < job.last_step:
        state.window.add(take_step(state, job, batches))
        job.report(StepDone(step=state.step))
        evaluating = _evaluation_due(state.step, job)
        saving = evaluating or state.step % (run.save_every or epoch) == 0
        stopping = interruption.asked()
        if saving or stopping or state.step % run.log_every == 0:
            _write_log_line(state, job)
        if not (saving or stopping):
            continue
        path = save(state, job)  # before measuring: who wants the machine back may not wait until that is done
        if stopping:
            raise Interrupted(interruption.signal, path, state.step)
        if evaluating:
            _evaluate_and_save(state, job)
        state.window.restart()


def _evaluation_due(step: int, job: TrainJob) -> bool:
    """Tell whether a step is followed by an evaluation."""
    return step >= job.last_step or step % (job.run.eval_every * job.task.steps_per_epoch) == 0


def _evaluate_and_save(state: TrainState, job: TrainJob) -> None:
    """Measure the weights, and note the scores in the checkpoint."""
    evaluate(state, job)
    save(state, job)


def take_step(state: TrainState, job: TrainJob, batches: Iterator[Any]) -> Tensor:
    """Take one optimisation step and return this process's mean loss, on the device, without waiting for it."""
    accelerator, parts = job.accelerator, job.run.accumulate
    state.schedule.step_update(state.step)
    total = torch.zeros((), device=accelerator.device)
    for part in range(parts):
        batch = state.window.wait(batches)  # first, as reading may draw from the same numbers
        _start_random_numbers(job, state.step, part)
        last = part == parts - 1
        with contextlib.nullcontext() if last or job.run.shard else accelerator.no_sync(state.model):
            loss = job.task.loss(state.model, batch, state.step)
            accelerator.backward(loss / parts)
        total += loss.detach() / parts
    if job.optim.clip_grad is not None:
        accelerator.clip_grad_norm_(state.model.parameters(), job.optim.clip_grad)
    state.optimizer.step()
    state.optimizer.zero_grad()
    if state.ema is not None:
        state.ema.update(state.unwrapped)
    state.step += 1
    return total


def _start_random_numbers(job: TrainJob, step: int, part: int) -> None:
    """Draw what a part of a step draws (dropped paths, erased pixels) from numbers of its own."""
    place = job.accelerator.process_index * job.run.accumulate + part
    drawn = derive_seed("training", job.run.seed, step, place)
    torch.manual_seed(drawn)
    random.seed(drawn)


def _write_log_line(state: TrainState, job: TrainJob) -> None:
    """Write down the steps since the last time, after checking that the training goes well."""
    window = state.window
    losses = job.communicator.all_reduce_sum(window.losses()) / job.accelerator.num_processes
    if not len(losses):
        return
    rate = max(group["lr"] for group in state.optimizer.param_groups)
    newest = (list_checkpoints(job.run.out / "checkpoints") or [None])[-1]
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
    """Collect the images that no process could read since the last time, count and tell them, and give their lines."""
    skipped = [line for lines in job.communicator.all_gather(job.task.skipped) for line in lines]
    job.task.skipped.clear()
    state.history["skipped"] += len(skipped)
    for line in skipped[:3]:
        job.report(Notice(message=f"left out {line}"))
    return {"skipped": skipped} if skipped else {}


def evaluate(state: TrainState, job: TrainJob) -> None:
    """Measure the weights, after the last step their moving average, too; keep the best weights."""

    def watch(event: Any) -> None:
        if isinstance(event, EvalProgress | Notice):
            job.report(event)

    def measure() -> dict[str, float]:
        job.communicator.broadcast(
            state.unwrapped.buffers()
        )  # running statistics differ: all measure what the first one saves
        state.unwrapped.eval()
        scores = job.task.evaluate(state.unwrapped, watch)
        if job.run.shard:
            fsdp_module().reshard(state.unwrapped)
        state.unwrapped.train()
        return scores

    scores = measure()
    if state.ema is not None and state.step >= job.last_step:
        state.ema.swap(state.unwrapped)
        scores |= {f"ema_{name}": score for name, score in measure().items()}
        state.ema.swap(state.unwrapped)
    epoch, best = state.step / job.task.steps_per_epoch, state.history["best"]
    score = scores[job.task.metric.name]
    better = job.task.metric.is_better(score, best)
    if better:
        state.history["best"] = score
        save_weights(state, job, "best.safetensors", scores)
    state.history |= {"scores": scores, "evaluated": state.step}
    skipped = _collect_skipped(state, job)
    if state.metrics is not None:
        state.metrics.write(state.step, {"epoch": round(epoch, 4), **scores, **skipped})
    job.report(EvalDone(step=state.step, epoch=epoch, scores=scores, best=better))


def save_weights(state: TrainState, job: TrainJob, name: str, scores: Mapping[str, float]) -> None:
    """Save the weights as a file for use; all processes take part."""
    weights = training_state(state.unwrapped, state.optimizer.optimizer, None, job.run.shard)["model"]
    facts = {"step": state.step, "scores": dict(scores), "seed": job.run.seed}
    job.communicator.run_on_main(lambda: job.task.save_weights(job.run.out / name, weights, facts))


def save(state: TrainState, job: TrainJob) -> Path:
    """Write a checkpoint; every process learns whether that went well."""
    content = {
        "step": state.step,
        "record": state.history,
        "state": training_state(state.unwrapped, state.optimizer.optimizer, state.ema, job.run.shard),
        "scaler": {} if job.accelerator.scaler is None else job.accelerator.scaler.state_dict(),
    }
    folder = job.run.out / "checkpoints"
    return job.communicator.run_on_main(lambda: save_checkpoint(folder, state.step, content, job.run.keep))


def finish(state: TrainState, job: TrainJob) -> None:
    """Keep the weights of the end, and their moving average; a trial that stops early keeps none."""
    if state.step < job.steps:
        return
    scores = state.history["scores"]
    save_weights(state, job, "model.safetensors", scores)
    if state.ema is not None:
        state.ema.swap(state.unwrapped)
        save_weights(state, job, "model_ema.safetensors", scores)
        state.ema.swap(state.unwrapped)
