"""The steps between two lines of the log: losses that wait on the device, time and memory."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ropevit.extras import require

#: A mean loss so many times that of the first line means that the training diverges.
DIVERGED = 10.0


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
        if mean > DIVERGED * record["first_loss"]:
            raise DivergedError(
                f"the loss has grown to {mean:.4g} at step {step} with lr {rate:.3g}, from {record['first_loss']:.4g} "
                f"at the start; {advice}"
            )
