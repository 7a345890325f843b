"""One process or many: devices, wrapping, what processes tell each other, and whole states of shared-out models.

Started by `torchrun`, a training is one process a GPU on any number of machines; started alone, it is one process.
"""

import os
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict as whole
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from ropevit.extras import require
from ropevit.tasks.common.config import RunConfig
from ropevit.tasks.common.ema import Ema

#: Classes of layers whose weights are gathered together where weights are shared out.
SHARDED_LAYERS = ("Block", "SwinBlock")

MIXED = {"bfloat16": "bf16", "float16": "fp16", "float32": "no", "tf32": "no"}


def make_accelerator(config: RunConfig) -> Any:
    """Join the other processes, and choose the device and the precision.

    Returns:
        An `accelerate.Accelerator`.

    Raises:
        ValueError: If the device or the precision is not to be had here.
    """
    accelerate = require("accelerate", "train")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("got device='cuda', but no GPU is available here; take auto or cpu")
    on_cpu = config.device == "cpu" or not torch.cuda.is_available()
    if on_cpu and config.precision in ("float16", "tf32"):
        raise ValueError(f"got precision={config.precision!r} on a CPU; take float32 or bfloat16 there")
    torch.set_float32_matmul_precision("high" if config.precision == "tf32" else "highest")
    if config.shard and ("RANK" not in os.environ or config.precision == "float16"):
        raise ValueError(
            "got shard=True with one process or precision='float16'; start several with torchrun, in bfloat16"
        )
    return accelerate.Accelerator(cpu=on_cpu, mixed_precision=MIXED[config.precision])


def leave() -> None:
    """Part from the other processes, so that this one may end, or train again otherwise."""
    if dist.is_initialized():
        dist.destroy_process_group()
    require("accelerate.state", "train").AcceleratorState._reset_state(reset_partial_state=True)


def share_out(model: nn.Module, device: torch.device) -> None:
    """Share the weights of a model out among all processes (FSDP2), layer by layer.

    Weights are gathered in float32 and rounded by autocast where they are multiplied, so that learned frequencies, and
    the angles made from them, stay float32 in mixed precision.
    """
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for module in model.modules():
        if type(module).__name__ in SHARDED_LAYERS:
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)


def settle(model: nn.Module) -> None:
    """Put weights that a forward pass has gathered back into shares; without a backward pass, nothing else does."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


class Channel:
    """What processes tell each other beside the gradients: small numbers on the CPU, so that no GPU is waited for."""

    def __init__(self):
        group = dist.new_group(backend="gloo") if dist.is_initialized() else None
        self.group = group if isinstance(group, dist.ProcessGroup) else None

    def largest(self, number: int) -> int:
        """Give the largest number of all processes."""
        if self.group is None:
            return number
        value = torch.tensor([number])
        dist.all_reduce(value, op=dist.ReduceOp.MAX, group=self.group)
        return int(value)

    def sum(self, values: Tensor) -> Tensor:
        """Add numbers up over all processes, in float64."""
        total = values.detach().cpu().double()
        if self.group is not None:
            dist.all_reduce(total, group=self.group)
        return total

    def gather(self, value: Any) -> list[Any]:
        """Collect a plain value of every process, in the order of their ranks."""
        if self.group is None:
            return [value]
        values = [None] * dist.get_world_size()
        dist.all_gather_object(values, value, group=self.group)
        return values

    def first(self, work: Callable[[], Any]) -> Any:
        """Let the first process do something, and all have what it gives; an error is everybody's.

        Raises:
            ValueError: What the first process raised.
        """
        result, problem = None, None
        if self.group is None or dist.get_rank() == 0:
            try:
                result = work()
            except ValueError as error:
                problem = error
        result, problem = self.gather((result, problem))[0]
        if problem is not None:
            raise problem
        return result


def training_state(model: nn.Module, optimizer: torch.optim.Optimizer, ema: Ema | None, shard: bool) -> dict[str, Any]:
    """Collect whole weights and optimizer state on the CPU; all processes take part where they are shared out."""
    averages = {} if ema is None else ema.state_dict()
    if not shard:
        return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "ema": averages}
    options = whole.StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights, moments = whole.get_state_dict(model, optimizer, options=options)
    averages = {name: value.full_tensor().cpu() for name, value in averages.items() if isinstance(value, DTensor)}
    return {"model": weights, "optimizer": moments, "ema": averages}


def load_training_state(
    state: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer, ema: Ema | None, shard: bool
) -> None:
    """Put back what `training_state` collected."""
    if shard:
        options = whole.StateDictOptions(full_state_dict=True)
        whole.set_state_dict(
            model,
            optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
            options=options,
        )
    else:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    if ema is not None:
        ema.load_state_dict(spread(state["ema"], ema) if shard else state["ema"])


def spread(averages: dict[str, Tensor], ema: Ema) -> dict[str, Tensor]:
    """Share whole tensors out as the averages are."""
    return {
        name: distribute_tensor(averages[name].to(value.device), value.device_mesh, value.placements)
        for name, value in ema.weights.items()
        if isinstance(value, DTensor)
    }
