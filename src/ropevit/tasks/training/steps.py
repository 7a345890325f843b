"""Parts of a training step that the engine and the study share: learning rate, weight update, loss check, log."""

import errno
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ropevit.data.rng import make_generator
from ropevit.files import parse_json, write_atomically
from ropevit.tasks.training.config import OptimConfig


def learning_rate(config: OptimConfig, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of a step, before the factors of layer decay and of a backbone.

    The rate rises linearly from `warmup_lr` to `lr`. With `warmup_prefix` the decay starts after the warm-up; without,
    the warm-up replaces its first steps, except for polynomial decay, where it is a factor on the decaying rate.

    Args:
        config: Schedule and its length.
        step: Steps done before, from 0 to below the length of the training.
        steps_per_epoch: Steps of an epoch.

    Source: `CosineLRScheduler`, `MultiStepLRScheduler` (but milestones take effect at their step, not one before) and
        `PolyLRScheduler` of timm; for polynomial decay without prefix `PolyLrUpdaterHook` of mmcv.
    """
    warmup, length = config.warmup(steps_per_epoch), config.length(steps_per_epoch)
    decay = _DECAYS[config.schedule]
    if config.schedule == "poly" and not config.warmup_prefix:
        start = config.warmup_lr / config.lr
        return decay(config, step, length) * (start + (1 - start) * step / warmup if step < warmup else 1)
    if step < warmup:
        return config.warmup_lr + step * ((config.lr - config.warmup_lr) / warmup)
    skipped = warmup if config.warmup_prefix else 0
    return decay(config, step - skipped, length - skipped)


def cosine_decay(lr: float, min_lr: float, step: int, length: int) -> float:
    """Return the rate of a step on half a cosine from `lr` at step 0 to `min_lr` at step `length`.

    Source: Loshchilov and Hutter 2017 (arXiv:1608.03983), Eq. 5, without restarts.
    """
    return min_lr + 0.5 * (lr - min_lr) * (1 + math.cos(math.pi * step / length))


def _step_decay(config: OptimConfig, step: int, length: int) -> float:
    """Divide the rate by 10 at each milestone, a fraction of the length."""
    return config.lr * 0.1 ** sum(round(share * length) <= step for share in config.milestones)


def _poly_decay(config: OptimConfig, step: int, length: int) -> float:
    """Decay the rate to `min_lr` by a power of the remaining fraction of the steps."""
    return config.min_lr + (config.lr - config.min_lr) * (1 - step / length) ** config.power


_DECAYS: dict[str, Callable[[OptimConfig, int, int], float]] = {
    "cosine": lambda config, step, length: cosine_decay(config.lr, config.min_lr, step, length),
    "step": _step_decay,
    "poly": _poly_decay,
}


def draw_size(sizes: Sequence[int], *keys: str | int) -> int:
    """Draw the image size of a step at random.

    Args:
        sizes: Sides in pixels.
        keys: Name of the random stream, such as seed and step. The size depends on nothing else, so all processes draw
            the same one, and so does a resumed training.
    """
    return sizes[int(torch.randint(len(sizes), (), generator=make_generator(*keys)))]


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all parameter groups, each times its `lr_scale` where it has one."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def update_weights(
    optimizer: torch.optim.Optimizer,
    parameters: Iterable[nn.Parameter],
    lr: float,
    clip_grad: float | None,
    clip: Callable[[Iterable[nn.Parameter], float], Any] = nn.utils.clip_grad_norm_,
) -> None:
    """Clip the gradients, update the weights, and clear the gradients.

    Args:
        optimizer: Optimizer of the parameters.
        parameters: Parameters with gradients.
        lr: Learning rate of this step.
        clip_grad: Maximum global gradient norm; None disables clipping.
        clip: Clips the norm; accelerate's also undoes the loss scaling.
    """
    set_learning_rate(optimizer, lr)
    if clip_grad is not None:
        clip(parameters, clip_grad)
    optimizer.step()
    optimizer.zero_grad()


class DivergedError(ValueError):
    """The loss is not finite, or far above its first value."""


def check_finite(losses: Sequence[float], step: int, lr: float, advice: str) -> None:
    """Check that the losses of consecutive steps are finite.

    Args:
        losses: Losses; the last one is that of `step`, counted from 1.
        step: Steps done.
        lr: Learning rate, for the message.
        advice: End of the message.

    Raises:
        DivergedError: If one is infinite or NaN, naming the first such step.
    """
    for number, loss in enumerate(losses, step - len(losses) + 1):
        if not math.isfinite(loss):
            raise DivergedError(f"the loss is {loss} at step {number} with lr {lr:.3g}; {advice}")


class StepLog:
    """Log of a training as JSON lines, each with its step; on resuming, lines of repeated steps are deleted.

    Args:
        path: File to append to.
        keep: Returns whether to keep a line of an interrupted training.

    Raises:
        ValueError: If a line of an interrupted training is damaged.
    """

    def __init__(self, path: Path, keep: Callable[[Mapping[str, Any]], bool]):
        self.path = path
        if path.exists():
            try:
                kept = [line for _, line in read_log(path) if keep(line)]
            except ValueError as error:
                raise ValueError(f"{error}; delete the log to continue without its earlier lines") from None
            text = "".join(json.dumps(line) + "\n" for line in kept).encode()
            write_atomically(path, lambda file: file.write(text))
        self.file = path.open("ab", buffering=0)  # unbuffered: a failed write must not be repeated on closing

    def __enter__(self) -> "StepLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Append a line.

        Raises:
            ValueError: If it cannot be written, such as on a full disk.
        """
        line = (json.dumps({"step": step, **values}) + "\n").encode()
        try:
            if self.file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise ValueError(f"cannot write {self.path}: {error.strerror}; free space, then --resume") from error

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def read_log(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read the lines of a log, each with its location for messages; an incomplete last line is skipped.

    Raises:
        ValueError: If another line is not a JSON object with a step.
    """
    *lines, last = path.read_bytes().split(b"\n")
    whole = [*lines, last] if last.endswith(b"}") else lines
    for number, text in enumerate(whole, 1):
        if not text.strip():
            continue
        where = f"{path}, line {number}"
        line = parse_json(text, where)
        if not isinstance(line, dict) or type(line.get("step")) is not int:
            raise ValueError(f"{where} names no step")
        yield where, line
