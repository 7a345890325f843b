"""Log the metrics of a training (loss, learning rate, speed, ...) to metrics.jsonl, TensorBoard, Weights & Biases."""

import secrets
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ropevit.extras import require
from ropevit.files import write_text
from ropevit.tasks.training.config import RunConfig
from ropevit.tasks.training.steps import DivergedError, StepLog, check_finite, read_log

BatchT = TypeVar("BatchT")

#: A training has diverged when its mean loss is this many times that of the first line of the log.
_DIVERGED = 10.0


class LogWindow:
    """Collects the losses of the steps between two lines of the log, without synchronizing the GPU.

    Args:
        device: Device of the training.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.restart()

    def restart(self) -> None:
        """Clear the losses and restart the clock."""
        self.step_losses: list[Tensor] = []
        self.waited = 0.0
        self.begin = time.perf_counter()

    def wait(self, batches: Iterator[BatchT]) -> BatchT:
        """Return the next batch, and add the time spent waiting for it to `waited`."""
        begin = time.perf_counter()
        batch = next(batches)
        self.waited += time.perf_counter() - begin
        return batch

    def add(self, loss: Tensor) -> None:
        """Add the loss of a step, a scalar on the device."""
        self.step_losses.append(loss)

    def losses(self) -> Tensor:
        """Return the losses of all steps in float64 on the CPU; this synchronizes the GPU."""
        return torch.stack(self.step_losses).cpu().double() if self.step_losses else torch.empty(0, dtype=torch.float64)

    def seconds(self) -> float:
        """Return the seconds since the restart."""
        return max(time.perf_counter() - self.begin, 1e-9)

    def memory(self) -> float:
        """Return the peak memory in GiB, of the GPU if the training runs on one, else of this process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**30
        if sys.platform == "win32":
            return require("psutil", "train").Process().memory_info().peak_wset / 2**30
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30

    def check(self, losses: Tensor, step: int, rate: float, record: dict[str, Any], newest: Path | None) -> None:
        """Raise an error if the training diverges.

        Args:
            losses: Losses of the steps up to `step`, averaged over all processes.
            step: Steps done.
            rate: Learning rate, for the message.
            record: History of the training; the mean loss of the first line is stored in it as `first_loss`.
            newest: Newest checkpoint, for the message.

        Raises:
            DivergedError: If a loss is not finite, or their mean is ten times that of the first line.
        """
        advice = f"the newest checkpoint is {newest or 'not yet written'}; try a lower lr, a longer warm-up or bfloat16"
        check_finite(losses.tolist(), step, rate, advice)
        mean = losses.mean().item()
        record["first_loss"] = record["first_loss"] or mean
        if mean > _DIVERGED * record["first_loss"]:
            raise DivergedError(
                f"the loss has grown to {mean:.4g} at step {step} with lr {rate:.3g}, from {record['first_loss']:.4g} "
                f"at the start; {advice}"
            )


FILE = "metrics.jsonl"


class Metrics:
    """Writes the metrics of a training, in the main process.

    Args:
        config: Output directory, and which trackers to use beside the JSON lines.
        settings: Full config of the training, for Weights & Biases.
        first: Steps done; later lines of an interrupted run are deleted, as these steps are repeated.
        evaluated: Step of the last evaluation; scores of later steps are deleted.
    """

    def __init__(self, config: RunConfig, settings: Mapping[str, Any], first: int, evaluated: int):
        board, wandb = trackers(config)
        read_metrics(config.folder)  # raises an error for a damaged log before it is rewritten
        self.log = StepLog(
            config.folder / FILE, keep=lambda line: line["step"] <= (first if "loss" in line else evaluated)
        )
        self.board = board and board.SummaryWriter(str(config.folder / "tensorboard"), purge_step=first + 1)
        self.wandb = wandb and wandb.init(
            project=config.wandb,
            name=config.folder.resolve().name,
            id=_own_id(config.folder / "wandb.id"),
            resume="allow",
            config=dict(settings),
            dir=str(config.folder),
        )

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Write values of a step.

        Raises:
            ValueError: If the file cannot be written, such as on a full disk.
        """
        self.log.write(step, values)
        numbers = {key: value for key, value in values.items() if isinstance(value, int | float)}
        if self.board is not None:
            for key, value in numbers.items():
                self.board.add_scalar(key, value, step)
            self.board.flush()
        if self.wandb is not None:
            self.wandb.log(numbers, step=step)

    def close(self) -> None:
        """Close the log and the trackers."""
        self.log.close()
        if self.board is not None:
            self.board.close()
        if self.wandb is not None:
            self.wandb.finish()


def trackers(config: RunConfig) -> tuple[Any, Any]:
    """Import TensorBoard and Weights & Biases where the config uses them.

    Raises:
        MissingExtraError: If one is not installed.
    """
    board = require("torch.utils.tensorboard", "train") if config.tensorboard else None
    return board, None if config.wandb is None else require("wandb", "wandb")


def _own_id(path: Path) -> str:
    """Return the run's id for Weights & Biases, which is stored in a file, as directory names are not unique."""
    if not path.exists():
        write_text(path, secrets.token_hex(8))
    return path.read_text(encoding="utf-8")


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Read the log of a run; an incomplete last line is skipped.

    Raises:
        ValueError: If another line is damaged or was not written by a training.
    """
    path = folder / FILE
    return [_check_line(line, where) for where, line in read_log(path)] if path.exists() else []


def _check_line(line: dict[str, Any], where: str) -> dict[str, Any]:
    """Return a line of the log after checking it: it has an epoch, numbers, and perhaps the list of skipped images.

    Raises:
        ValueError: If the line holds anything else.
    """
    if line.get("epoch") is None:
        raise ValueError(f"{where} names no epoch; no training writes such a line")
    for name, value in line.items():
        right = isinstance(value, list) if name == "skipped" else isinstance(value, int | float | None)
        if not right or isinstance(value, bool):
            raise ValueError(f"{where} has {name} {str(value)[:40]!r}; no training writes such a line")
    return line
