"""FSDP2: shard a model over processes, and gather full state dicts; imported on demand, as the import is slow."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict as whole
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from ropevit.models.base import BaseModel
from ropevit.tasks.training.optim import Ema


def apply_fsdp(model: nn.Module, device: torch.device) -> None:
    """Shard a model over all processes, layer by layer.

    Weights are gathered in float32 and cast by autocast in matrix products, so that learned frequencies and their
    angles stay float32 in mixed precision.
    """
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    layers = tuple(body.block_class for body in model.modules() if isinstance(body, BaseModel))
    for module in model.modules():
        if isinstance(module, layers):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)


def reshard(model: nn.Module) -> None:
    """Reshard weights that a forward pass has gathered; without a backward pass, FSDP does not."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def full_state_dict(model: nn.Module, optimizer: torch.optim.Optimizer, ema: Ema | None) -> dict[str, Any]:
    """Return full states of model, optimizer and EMA, on the CPU of the main process; all processes must call this."""
    options = whole.StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights, moments = whole.get_state_dict(model, optimizer, options=options)
    averages = {} if ema is None else ema.state_dict()
    averages = {name: full_tensor(value).cpu() for name, value in averages.items()}
    return {"model": weights, "optimizer": moments, "ema": averages}


def full_tensor(value: Tensor) -> Tensor:
    """Return a full tensor; weights are sharded, buffers are not."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def load_full_state_dict(
    state: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer, ema: Ema | None
) -> None:
    """Load full states, from `full_state_dict` or from a training without FSDP."""
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
    """Return the state of an optimizer with parameters by name instead of by index."""
    names = {
        key: name for group in state["param_groups"] for key, name in zip(group["params"], group["names"], strict=True)
    }
    groups = [{**group, "params": group["names"]} for group in state["param_groups"]]
    return {"state": {names[key]: value for key, value in state["state"].items()}, "param_groups": groups}


def _distribute_averages(averages: dict[str, Tensor], ema: Ema) -> dict[str, Tensor]:
    """Shard full tensors in the same way as the EMA's."""
    return {
        name: distribute_tensor(averages[name].to(value.device), value.device_mesh, value.placements)
        if isinstance(value, DTensor)
        else averages[name]
        for name, value in ema.state_dict().items()
    }
