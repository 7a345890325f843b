"""One training run of a study: from its initialization or a checkpoint to `result.json`."""

import contextlib
import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ropevit.data.crops import MEAN, STD
from ropevit.data.rng import make_generator
from ropevit.models.vit import ViT, ViTConfig
from ropevit.study.checkpoint import RunState, resume, save
from ropevit.study.evaluation import evaluate_missing, stored_scores
from ropevit.study.events import RunStarted, TrainProgress
from ropevit.study.job import RunJob, StopRequested
from ropevit.study.precision import autocast
from ropevit.study.settings import PanelSettings
from ropevit.study.stored_runs import write_result
from ropevit.tasks.training.config import OptimConfig
from ropevit.tasks.training.optim import make_optimizer
from ropevit.tasks.training.steps import StepLog, check_finite, cosine_decay, draw_size, update_weights
from ropevit.weights.saving import save_model

#: Checkpoints and lines of the log in a training.
NUM_CHECKPOINTS, NUM_LOG_LINES = 10, 50
#: Seconds between two progress reports.
REPORT_EVERY = 0.25


def train(job: RunJob) -> dict[str, Any]:
    """Train and evaluate one model, resuming from `checkpoint.pt` if the run's directory has one.

    Writes `log.jsonl`, `checkpoint.pt` and, at the end, `model.safetensors` and `result.json`.

    Args:
        job: What to run and where.

    Returns:
        The content of `result.json`.

    Raises:
        StopRequested: If `job.should_stop()` returns True; the checkpoint then holds every step done.
        DivergedError: If the loss is not finite.
        ValueError: If files of an earlier call are damaged or belong to another run.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    settings = job.panel.settings
    state = start(job)
    if (job.folder / "checkpoint.pt").exists():
        resume(state, job)
    known = stored_scores(job, trained=state.step == settings.steps)
    with StepLog(job.folder / "log.jsonl", keep=lambda line: line["step"] <= state.step) as log:
        job.report(RunStarted(run=job.run, first=state.step, steps=settings.steps))
        _run_steps(state, job, log)
    result = {
        **job.run.to_dict(),
        "metric": job.panel.metric,
        "train_size": settings.train_size,
        **evaluate_missing(state.model, job, known),
        "parameters": sum(parameter.numel() for parameter in state.model.parameters()),
        "step_ms": round(state.step_ms, 3),
        "train_seconds": round(state.seconds, 3),
        "settings": settings.to_dict(),
        "images": job.images,
    }
    _save_model_of_run(state.model, job)
    return write_result(job.folder / "result.json", result)


def _save_model_of_run(model: ViT, job: RunJob) -> None:
    """Save the trained model with its class names and the normalization of its images."""
    settings, classes = job.panel.settings, job.panel.classes
    facts = {**job.run.to_dict(), "train_size": settings.train_size, "labels": list(job.panel.labels)}
    facts |= {"mean": MEAN, "std": STD}
    save_model(job.folder / "model.safetensors", model, classes=classes, metadata=facts)


def start(job: RunJob) -> RunState:
    """Create the model and the optimizer at step 0."""
    settings, run = job.panel.settings, job.run
    config = replace(job.panel.model_config(run.embedding), scaling=run.train_scaling)
    model = start_model(config, settings, run.panel, run.seed).to(job.device)
    optim = OptimConfig(lr=settings.lr, weight_decay=settings.weight_decay)
    return RunState(model=model, optimizer=make_optimizer(model, optim))


def start_model(config: ViTConfig, settings: PanelSettings, panel: str, seed: int) -> ViT:
    """Initialize a model; all position embeddings share the initial values of their common weights.

    The common weights are those of a model without position embedding, drawn for (panel, seed); an absolute embedding
    or learned frequencies are drawn from a stream of their own. PyTorch's global generator is not changed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(make_generator(panel, seed, "shared weights").initial_seed())
        shared = ViT(replace(config, position="none", scaling=None, rope_theta=None, pairs=None))
        torch.manual_seed(make_generator(panel, seed, "position").initial_seed())
        model = ViT(config)
    model.load_state_dict(shared.state_dict(), strict=False)
    if settings.start == "fan_in":
        rescale_init(model.blocks)
    return model


@torch.no_grad()
def rescale_init(blocks: nn.Module) -> None:
    """Rescale the linear layers from DeiT's standard deviation of 0.02 to 1 / sqrt(fan_in)."""
    for module in blocks.modules():
        if isinstance(module, nn.Linear):
            module.weight.mul_(module.in_features**-0.5 / 0.02)


@dataclass
class _Pending:
    """Steps whose losses are still on the device: to read each at once would make the host wait in every step."""

    losses: list[Tensor] = field(default_factory=list)
    """Loss of each step."""
    rates: list[float] = field(default_factory=list)
    """Learning rate of each step."""
    begin: float = field(default_factory=time.perf_counter)
    """When the first of them began."""

    def read(self, state: RunState, durations: list[float]) -> float:
        """Read and check the losses, add up the time, and return the last loss; this waits for the device.

        Raises:
            DivergedError: If a loss is not finite.
        """
        values = torch.stack(self.losses).tolist()
        elapsed = time.perf_counter() - self.begin
        for step, (loss, lr) in enumerate(zip(values, self.rates, strict=True), state.step - len(values) + 1):
            check_finite([loss], step, lr, "try a lower lr")
        durations += [1000 * elapsed / len(values)] * len(values)
        state.seconds += elapsed
        return values[-1]


def _run_steps(state: RunState, job: RunJob, log: StepLog) -> None:
    """Run the remaining steps, with checkpoints at regular intervals and before stopping."""
    settings = job.panel.settings
    every = max(1, math.ceil(settings.steps / NUM_CHECKPOINTS))
    log_every = max(1, settings.steps // NUM_LOG_LINES)
    durations, reported, pending = [], 0.0, _Pending()
    state.model.train()
    while state.step < settings.steps:
        if job.should_stop():
            if pending.losses:
                pending.read(state, durations)
            save(state, job)
            raise StopRequested(job.run.name)
        lr = learning_rate(settings, state.step)
        pending.losses.append(take_step(state, job, lr))
        pending.rates.append(lr)
        last = state.step == settings.steps
        logging, saving = last or state.step % log_every == 0, last or state.step % every == 0
        reporting = last or time.perf_counter() - reported > REPORT_EVERY
        if not (logging or saving or reporting):
            continue
        loss = pending.read(state, durations)
        if logging:
            log.write(state.step, {"loss": loss, "lr": lr, "seconds": round(state.seconds, 3)})
        if saving:
            state.step_ms = statistics.median(durations)
            save(state, job)
        if reporting:
            reported = time.perf_counter()
            done = {"step": state.step, "steps": settings.steps, "seconds": state.seconds}
            job.report(TrainProgress(run=job.run, loss=loss, lr=lr, **done))
        pending = _Pending()


def take_step(state: RunState, job: RunJob, lr: float) -> Tensor:
    """Take one optimization step and return its loss, on the device, without waiting for it."""
    images, targets = job.panel.batch(job.run.seed, state.step, _draw_size(job, state.step))
    with autocast(job.device, job.dtype), _step_seed(job, state.step):
        loss = job.panel.loss(state.model, images, targets)
    loss.backward()
    update_weights(state.optimizer, state.model.parameters(), lr, job.panel.settings.clip)
    state.step += 1
    return loss.detach()


def _draw_size(job: RunJob, step: int) -> int | None:
    """Draw the size of a step's images from the panel, the seed and the step alone; None if all have one size."""
    sizes = job.run.train_sizes
    return None if sizes is None else draw_size(sizes, job.run.panel, job.run.seed, "size", step)


@contextlib.contextmanager
def _step_seed(job: RunJob, step: int) -> Iterator[None]:
    """Seed coordinate jitter from the panel, the seed and the step alone.

    All embeddings get the same jitter, a resumed run is exact, and PyTorch's generators are restored afterwards.
    """
    if job.run.train_scaling is None:
        yield
        return
    with torch.random.fork_rng(devices=[job.device] if job.device.type == "cuda" else []):
        torch.manual_seed(make_generator(job.run.panel, job.run.seed, "coordinates", step).initial_seed())
        yield


def learning_rate(settings: PanelSettings, step: int) -> float:
    """Return the learning rate of a step: linear warm-up, then a half cosine to 0.

    The warm-up ends at its last step, one earlier than that of `steps.learning_rate`: stored results depend on it.
    """
    warm = round(settings.warmup * settings.steps)
    if step < warm:
        return settings.lr * (step + 1) / warm
    return cosine_decay(settings.lr, 0.0, step - warm, settings.steps - warm)
