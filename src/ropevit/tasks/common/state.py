"""What a checkpoint holds of the model and what trains it, whole, however they are shared out."""

from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import nn

from ropevit.tasks.common.ema import Ema


def fsdp_of() -> ModuleType:
    """Load what shares weights out, which few trainings need and which takes a second to import."""
    return import_module("ropevit.tasks.common.fsdp")


def training_state(model: nn.Module, optimizer: torch.optim.Optimizer, ema: Ema | None, shard: bool) -> dict[str, Any]:
    """Collect whole weights and optimizer state; all processes take part where they are shared out."""
    if shard:
        return fsdp_of().gather(model, optimizer, ema)
    averages = {} if ema is None else ema.state_dict()
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "ema": averages}


def load_training_state(
    state: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer, ema: Ema | None, shard: bool
) -> None:
    """Put back what `training_state` collected."""
    if shard:
        fsdp_of().scatter(state, model, optimizer, ema)
        return
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    if ema is not None:
        ema.load_state_dict(state["ema"])
