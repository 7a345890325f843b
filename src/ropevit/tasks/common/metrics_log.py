"""The log of a training: losses, rates and memory of the steps, as JSON lines, TensorBoard and Weights & Biases."""

import errno
import json
import os
import secrets
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ropevit.extras import require
from ropevit.files import parse_json, write_atomically
from ropevit.tasks.common.config import RunConfig

#: A mean loss so many times that of the first line means that the training diverges.
_DIVERGED = 10.0


class DivergedError(ValueError):
    """The loss is not finite any more, or far above where it started."""


class LogWindow:
    """Collects the losses of steps without waiting for them.

    Args:
        device: Where the training runs.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.restart()

    def restart(self) -> None:
        """Forget the steps, and start the clock."""
        self.step_losses: list[Tensor] = []
        self.waited = 0.0
        self.begin = time.perf_counter()

    def wait(self, batches: Iterator[Any]) -> Any:
        """Take the next batch, and count the time until it is there."""
        begin = time.perf_counter()
        batch = next(batches)
        self.waited += time.perf_counter() - begin
        return batch

    def add(self, loss: Tensor) -> None:
        """Take in the loss of a step, a scalar on the device."""
        self.step_losses.append(loss)

    def losses(self) -> Tensor:
        """Give the losses of all steps, on the CPU: here a GPU is waited for."""
        return torch.stack(self.step_losses).cpu().double() if self.step_losses else torch.empty(0, dtype=torch.float64)

    def seconds(self) -> float:
        """Give the time since the restart."""
        return max(time.perf_counter() - self.begin, 1e-9)

    def memory(self) -> float:
        """Give the most memory that was ever in use, in GiB: of the GPU, or of this process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**30
        if sys.platform == "win32":
            return require("psutil", "train").Process().memory_info().peak_wset / 2**30
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30

    def check(self, losses: Tensor, step: int, rate: float, record: dict[str, Any], newest: Path | None) -> None:
        """Stop a training that has gone wrong.

        Args:
            losses: Of the steps up to `step`, over all processes.
            step: Steps done.
            rate: The learning rate.
            record: Keeps the first loss.
            newest: The newest checkpoint.

        Raises:
            DivergedError: Naming the first bad step, its learning rate and the newest checkpoint.
        """
        advice = f"the newest checkpoint is {newest or 'not yet written'}; try a lower lr, a longer warm-up or bfloat16"
        bad = (~losses.isfinite()).nonzero().flatten()
        if len(bad):
            first = step - len(losses) + int(bad[0]) + 1
            raise DivergedError(f"the loss is {losses[bad[0]].item()} at step {first} with lr {rate:.3g}; {advice}")
        mean = losses.mean().item()
        record["first_loss"] = record["first_loss"] or mean
        if mean > _DIVERGED * record["first_loss"]:
            raise DivergedError(
                f"the loss has grown to {mean:.4g} at step {step} with lr {rate:.3g}, from {record['first_loss']:.4g} "
                f"at the start; {advice}"
            )


FILE = "metrics.jsonl"


class Metrics:
    """Writes what a training measures; one process alone does.

    Args:
        config: Where to, and what besides the JSON lines.
        settings: The whole config, for Weights & Biases.
        first: Steps done already; later lines of an interrupted run are dropped, as these steps are taken again.
        evaluated: The step of the last evaluation; later ones are dropped, too.
    """

    def __init__(self, config: RunConfig, settings: Mapping[str, Any], first: int, evaluated: int):
        board, wandb = trackers(config)
        _trim(config.out / FILE, first, evaluated)
        self.path = config.out / FILE
        self.file = self.path.open("ab", buffering=0)  # what cannot be written is not tried again at the end
        self.board = board and board.SummaryWriter(str(config.out / "tensorboard"), purge_step=first + 1)
        self.wandb = wandb and wandb.init(
            project=config.wandb,
            name=config.out.resolve().name,
            id=_own_id(config.out / "wandb.id"),
            resume="allow",
            config=dict(settings),
            dir=str(config.out),
        )

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Write a line, at once.

        Raises:
            ValueError: If the disk refuses.
        """
        line = (json.dumps({"step": step, **values}) + "\n").encode()
        try:
            if self.file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise ValueError(f"cannot write {self.path}: {error.strerror}; free space, then --resume") from error
        numbers = {key: value for key, value in values.items() if isinstance(value, int | float)}
        if self.board is not None:
            for key, value in numbers.items():
                self.board.add_scalar(key, value, step)
            self.board.flush()
        if self.wandb is not None:
            self.wandb.log(numbers, step=step)

    def close(self) -> None:
        """Close the files."""
        self.file.close()
        if self.board is not None:
            self.board.close()
        if self.wandb is not None:
            self.wandb.finish()


def trackers(config: RunConfig) -> tuple[Any, Any]:
    """Import TensorBoard and Weights & Biases where they are asked for.

    Raises:
        MissingExtraError: If one is not installed.
    """
    board = require("torch.utils.tensorboard", "train") if config.tensorboard else None
    return board, None if config.wandb is None else require("wandb", "wandb")


def _own_id(path: Path) -> str:
    """Give a training an id that no other has, though directories may have the same name; it is kept in a file."""
    if not path.exists():
        write_atomically(path, lambda file: file.write(secrets.token_hex(8).encode()))
    return path.read_text(encoding="utf-8")


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Read the lines of a run's log; a last line that was cut short is left out.

    Raises:
        ValueError: If a line is none that a training writes.
    """
    path = folder / FILE
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return [_parse_line(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.endswith("}")]


def _parse_line(text: str, where: str) -> dict[str, Any]:
    """Read a line of a log: numbers by name, of which the step and the epoch are always there, and files left out.

    Raises:
        ValueError: If it is none.
    """
    line = parse_json(text, where)
    if not isinstance(line, dict) or not isinstance(line.get("step"), int) or line.get("epoch") is None:
        raise ValueError(f"{where} says no step or epoch; it is none that a training writes")
    for name, value in line.items():
        right = isinstance(value, list) if name == "skipped" else isinstance(value, int | float | None)
        if not right or isinstance(value, bool):
            raise ValueError(f"{where} says {name} {str(value)[:40]!r}; it is none that a training writes")
    return line


def _trim(path: Path, step: int, evaluated: int) -> None:
    """Drop the lines of a log that come after a step, and evaluations after another."""
    if not path.exists():
        return
    kept = [line for line in read_metrics(path.parent) if line["step"] <= (step if "loss" in line else evaluated)]
    write_atomically(path, lambda file: file.write("".join(json.dumps(line) + "\n" for line in kept).encode()))
