"""One process or many: devices, precision, and what processes tell each other.

Started by `torchrun`, a training is one process a GPU on any number of machines; started alone, it is one process.
"""

import os
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ropevit.device import resolve_device
from ropevit.extras import require
from ropevit.tasks.common.config import RunConfig

MIXED = {"bfloat16": "bf16", "float16": "fp16", "float32": "no", "tf32": "no"}


def make_accelerator(config: RunConfig) -> Any:
    """Join the other processes, and choose the device and the precision.

    Returns:
        An `accelerate.Accelerator`.

    Raises:
        ValueError: If the device or the precision is not to be had here.
    """
    accelerate = require("accelerate", "train")
    device = choose_device(config.device)
    if device.type != "cuda" and config.precision in ("float16", "tf32"):
        named = "a CPU" if device.type == "cpu" else device.type
        raise ValueError(f"got precision={config.precision!r} on {named}; take float32 or bfloat16 there")
    torch.set_float32_matmul_precision("high" if config.precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = config.precision == "tf32"  # else convolutions take it, whatever is asked for
    if config.shard and ("RANK" not in os.environ or config.precision == "float16"):
        raise ValueError(
            "got shard=True with one process or precision='float16'; start several with torchrun, in bfloat16"
        )
    accelerator = accelerate.Accelerator(cpu=device.type == "cpu", mixed_precision=MIXED[config.precision])
    check_device(device, accelerator.device)
    return accelerator


def choose_device(name: str) -> torch.device:
    """Choose the device of this process; where there are several processes, each takes the accelerator of its number.

    Raises:
        ValueError: If it is not there, or one device is named for several processes.
    """
    device = resolve_device(name)
    if device.index is not None and device.type != "cpu":
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError(f"got device {name!r} for several processes; take {device.type}, and each has its own")
        torch.accelerator.set_device_index(device.index)  # which accelerate takes
    return device


def check_device(chosen: torch.device, found: torch.device) -> None:
    """Refuse to go on elsewhere than was asked for.

    Args:
        chosen: From `choose_device`.
        found: The device that accelerate takes.

    Raises:
        ValueError: If they are of different types.
    """
    if chosen.type != found.type:
        shutdown()
        raise ValueError(
            f"got device {chosen.type}, but accelerate computes on {found.type} here; take {found.type} or cpu"
        )


def shutdown() -> None:
    """Part from the other processes, so that this one may end, or train again otherwise."""
    if dist.is_initialized():
        dist.destroy_process_group()
    require("accelerate.state", "train").AcceleratorState._reset_state(reset_partial_state=True)


class Communicator:
    """What processes tell each other beside the gradients: small numbers on the CPU, so that no GPU is waited for."""

    def __init__(self):
        group = dist.new_group(backend="gloo") if dist.is_initialized() else None
        self.group = group if isinstance(group, dist.ProcessGroup) else None

    def all_reduce_max(self, number: int) -> int:
        """Give the largest number of all processes."""
        if self.group is None:
            return number
        value = torch.tensor([number])
        dist.all_reduce(value, op=dist.ReduceOp.MAX, group=self.group)
        return int(value)

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        """Add numbers up over all processes, in float64."""
        total = values.detach().cpu().double()
        if self.group is not None:
            dist.all_reduce(total, group=self.group)
        return total

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Give the first process's values of tensors to all, in place."""
        if self.group is None:
            return
        for tensor in tensors:
            value = tensor.detach().cpu().contiguous()
            dist.broadcast(value, src=0, group=self.group)
            tensor.detach().copy_(value)

    def all_gather(self, value: Any) -> list[Any]:
        """Collect a plain value of every process, in the order of their ranks."""
        if self.group is None:
            return [value]
        values = [None] * dist.get_world_size()
        dist.all_gather_object(values, value, group=self.group)
        return values

    def run_on_main(self, work: Callable[[], Any]) -> Any:
        """Let the first process do something, and all have what it gives; an error is everybody's.

        Raises:
            Exception: What the first process raised.
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
        return result


_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(Exception):  # noqa: N818
    """The training was asked to stop, and saved.

    Args:
        number: The signal.
        checkpoint: The file that holds every step done.
        step: Steps done.
    """

    def __init__(self, number: int, checkpoint: Path, step: int):
        super().__init__(f"stopped after step {step}, as asked by {signal.Signals(number).name}; saved {checkpoint}")
        self.interrupted = number == signal.SIGINT
        """Whether a person asked for it (Ctrl-C), rather than the system."""


class Interruption:
    """While it is entered, SIGTERM and SIGINT (Ctrl-C) are noted down; a second Ctrl-C interrupts at once.

    Args:
        channel: What connects the processes.
    """

    def __init__(self, channel: Communicator):
        self.channel = channel
        self.signal = 0

    def __enter__(self) -> "Interruption":
        self.before = {number: signal.signal(number, self.note) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def note(self, number: int, frame: FrameType | None) -> None:
        """Note a signal down."""
        del frame
        if self.signal == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.signal = number

    def asked(self) -> bool:
        """Tell whether any process was asked to stop; all must call it, and get the same answer."""
        signals = self.channel.all_reduce_max(self.signal)
        self.signal = self.signal or signals
        return signals > 0
