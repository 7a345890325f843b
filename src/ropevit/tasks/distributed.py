"""Distributed training: device, precision, collectives for small values, and signals.

Started by `torchrun`, a training has one process per GPU on any number of machines; otherwise it is one process.
"""

import os
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from ropevit.device import resolve_device
from ropevit.extras import require
from ropevit.tasks.training.config import RunConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")

MIXED = {"bfloat16": "bf16", "float16": "fp16", "float32": "no", "tf32": "no"}


def make_accelerator(config: RunConfig) -> "Accelerator":
    """Initialize the process group, and choose the device and the precision.

    Returns:
        An `accelerate.Accelerator`.

    Raises:
        ValueError: If the device or the precision is not available on this machine.
    """
    accelerate = require("accelerate", "train")
    device = choose_device(config.device)
    if device.type != "cuda" and config.precision in ("float16", "tf32"):
        shown = "a CPU" if device.type == "cpu" else device.type
        raise ValueError(f"got precision={config.precision!r} on {shown}; use float32 or bfloat16")
    torch.set_float32_matmul_precision("high" if config.precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = config.precision == "tf32"  # else convolutions use TF32 whatever the precision
    if config.fsdp and ("RANK" not in os.environ or config.precision == "float16"):
        raise ValueError(
            "got fsdp=True with one process or precision='float16'; start several processes by torchrun, in bfloat16"
        )
    accelerator = accelerate.Accelerator(cpu=device.type == "cpu", mixed_precision=MIXED[config.precision])
    check_device(device, accelerator.device)
    return accelerator


def choose_device(name: str) -> torch.device:
    """Return the device of this process; with several processes, each uses the accelerator of its local rank.

    Raises:
        ValueError: If it does not exist, or a single device is given for several processes.
    """
    device = resolve_device(name)
    if device.index is not None and device.type != "cpu":
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError(
                f"got device {name!r} for several processes; give {device.type}, and each process uses its own"
            )
        torch.accelerator.set_device_index(device.index)  # accelerate uses the current device
    return device


def check_device(chosen: torch.device, found: torch.device) -> None:
    """Check that accelerate uses the requested device type.

    Args:
        chosen: Device from `choose_device`.
        found: Device of accelerate.

    Raises:
        ValueError: If they are of different types.
    """
    if chosen.type != found.type:
        shutdown()
        raise ValueError(
            f"got device {chosen.type}, but accelerate uses {found.type} on this machine; use {found.type} or cpu"
        )


def shutdown() -> None:
    """Leave the process group, so that this process can end or start another training."""
    if dist.is_initialized():
        dist.destroy_process_group()
    require("accelerate.state", "train").AcceleratorState._reset_state(reset_partial_state=True)


class Communicator:
    """Collectives for small values, on the CPU (gloo), so that they do not synchronize the GPU."""

    def __init__(self):
        group = dist.new_group(backend="gloo") if dist.is_initialized() else None
        self.group = group if isinstance(group, dist.ProcessGroup) else None

    def all_reduce_max(self, number: int) -> int:
        """Return the maximum over all processes."""
        if self.group is None:
            return number
        value = torch.tensor([number])
        dist.all_reduce(value, op=dist.ReduceOp.MAX, group=self.group)
        return int(value)

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        """Return the sum over all processes, in float64."""
        total = values.detach().cpu().double()
        if self.group is not None:
            dist.all_reduce(total, group=self.group)
        return total

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Copy the main process's values of tensors to all processes, in place."""
        if self.group is None:
            return
        for tensor in tensors:
            value = tensor.detach().cpu().contiguous()
            dist.broadcast(value, src=0, group=self.group)
            tensor.detach().copy_(value)

    def all_gather(self, value: T) -> list[T]:
        """Return the values of all processes, by rank."""
        if self.group is None:
            return [value]
        values: list[T | None] = [None] * dist.get_world_size()
        dist.all_gather_object(values, value, group=self.group)
        return cast("list[T]", values)

    def run_on_main(self, work: Callable[[], T]) -> T:
        """Call a function in the main process only, and return its result in all processes.

        Raises:
            Exception: The exception of the main process, in all processes.
        """
        result, problem = None, None
        if self.group is None or dist.get_rank() == 0:
            try:
                result = work()
            except Exception as error:
                problem = error
        result, problem = self.all_gather((result, problem))[0]
        if problem is not None:
            raise problem
        return cast("T", result)


_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(Exception):  # noqa: N818
    """The training was stopped by a signal, after saving a checkpoint.

    Args:
        number: Signal.
        checkpoint: The checkpoint, which holds all steps done.
        step: Steps done.
    """

    def __init__(self, number: int, checkpoint: Path, step: int):
        super().__init__(f"stopped after step {step}, as asked by {signal.Signals(number).name}; saved {checkpoint}")
        self.interrupted = number == signal.SIGINT
        """Whether the signal was SIGINT (Ctrl-C) rather than SIGTERM."""


class Interruption:
    """Context that records SIGTERM and SIGINT (Ctrl-C) instead of stopping; a second Ctrl-C interrupts at once.

    Args:
        communicator: Communicator of the processes.
    """

    def __init__(self, communicator: Communicator):
        self.communicator = communicator
        self.signal = 0

    def __enter__(self) -> "Interruption":
        self.before = {number: signal.signal(number, self.note) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def note(self, number: int, frame: FrameType | None) -> None:
        """Record a signal: the signal handler."""
        del frame
        if self.signal == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.signal = number

    def received(self) -> bool:
        """Return whether any process received a signal; all processes must call this."""
        signals = self.communicator.all_reduce_max(self.signal)
        self.signal = self.signal or signals
        return signals > 0
