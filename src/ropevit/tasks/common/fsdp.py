"""Weights shared out among processes (FSDP2), and their whole states; imported only where needed, as it takes long."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict as whole
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from ropevit.models.base import BaseModel
from ropevit.tasks.common.optim import Ema


def apply_fsdp(model: nn.Module, device: torch.device) -> None:
    """Share the weights of a model out among all processes (FSDP2), layer by layer.

    Weights are gathered in float32 and rounded by autocast where they are multiplied, so that learned frequencies, and
    the angles made from them, stay float32 in mixed precision.
    """
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    layers = tuple(body.block_class for body in model.modules() if isinstance(body, BaseModel))
    for module in model.modules():
        if isinstance(module, layers):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)


def reshard(model: nn.Module) -> None:
    """Put weights that a forward pass has gathered back into shares; without a backward pass, nothing else does."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def full_state_dict(model: nn.Module, optimizer: torch.optim.Optimizer, ema: Ema | None) -> dict[str, Any]:
    """Collect whole weights and optimizer state on the CPU of the first process; all processes take part."""
    options = whole.StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights, moments = whole.get_state_dict(model, optimizer, options=options)
    averages = {} if ema is None else ema.state_dict()
    averages = {name: full_tensor(value).cpu() for name, value in averages.items()}
    return {"model": weights, "optimizer": moments, "ema": averages}


def full_tensor(value: Tensor) -> Tensor:
    """Collect a tensor that may be shared out, as weights are and buffers are not."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def load_full_state_dict(
    state: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer, ema: Ema | None
) -> None:
    """Share out again what `full_state_dict` collected, or what was collected where nothing was shared out."""
    whole.set_state_dict(
        model,
        optimizer,
        model_state_dict=state["model"],
        optim_state_dict=_by_name(state["optimizer"]),
        options=whole.StateDictOptions(full_state_dict=True),
    )
    if ema is not None:
        ema.load_state_dict(_distribute_averages(state["ema"], ema))


def _by_name(state: dict[str, Any]) -> dict[str, Any]:
    """Name the parameters in the state of an optimizer; those of optimizers by themselves have numbers."""
    names = {
        key: name for group in state["param_groups"] for key, name in zip(group["params"], group["names"], strict=True)
    }
    groups = [{**group, "params": group["names"]} for group in state["param_groups"]]
    return {"state": {names[key]: value for key, value in state["state"].items()}, "param_groups": groups}


def _distribute_averages(averages: dict[str, Tensor], ema: Ema) -> dict[str, Tensor]:
    """Share whole tensors out where the averages are."""
    return {
        name: distribute_tensor(averages[name].to(value.device), value.device_mesh, value.placements)
        if isinstance(value, DTensor)
        else averages[name]
        for name, value in ema.state_dict().items()
    }
