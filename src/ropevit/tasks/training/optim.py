"""Optimizer with parameter groups, and the exponential moving average (EMA) of the weights."""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ropevit.extras import require
from ropevit.models.parameter_groups import HasLayers, parameter_groups
from ropevit.tasks.training.config import OptimConfig


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Build the optimizer, with parameters grouped by weight decay and by layer.

    LAMB applies its trust ratio to groups with weight decay alone, as apex does, so that learned frequencies take the
    steps of Adam at the full learning rate.

    Args:
        model: Unwrapped model with `no_weight_decay` and `layer_index`.
        config: Optimizer, learning rates and weight decay.

    Raises:
        MissingExtraError: If the optimizer is LAMB and timm is not installed.
        ValueError: If the config has a learning rate factor for the backbone, and the model has no backbone.
    """
    scales = {} if config.backbone_lr_scale == 1 else {"backbone.": config.backbone_lr_scale}
    groups = parameter_groups(cast("HasLayers", model), config.lr, config.weight_decay, config.layer_decay, scales)
    groups = [{**group, "lr": config.lr} for group in groups]  # `set_learning_rate` multiplies by lr_scale
    if config.optimizer == "lamb":
        lamb = require("timm.optim", "train").Lamb
        return lamb(groups, lr=config.lr, eps=config.opt_eps, weight_decay=config.weight_decay, max_grad_norm=1.0)
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    return torch.optim.AdamW(groups, lr=config.lr, eps=config.opt_eps, fused=fused)


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Return the number of parameters of a model, and of those that are not frozen."""
    parameters = list(model.parameters())
    return sum(each.numel() for each in parameters), sum(each.numel() for each in parameters if each.requires_grad)


class Ema:
    """Exponential moving average (EMA) of a model's weights, which may be sharded, and of its persistent buffers.

    Running statistics of batch norms are averaged like weights; integer buffers, such as counts, are copied.

    Args:
        model: Model in its initial state.
        decay: Weight of the previous average in each update, between 0 and 1.
    """

    def __init__(self, model: nn.Module, decay: float):
        saved = model.state_dict().keys()
        buffers = {name: value for name, value in model.named_buffers() if name in saved}
        self.weights = _copy(dict(model.named_parameters()))
        self.statistics = _copy({name: value for name, value in buffers.items() if value.is_floating_point()})
        self.counts = _copy({name: value for name, value in buffers.items() if not value.is_floating_point()})
        self.average = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Update the average with the current weights."""
        now = _tensors(model)
        for averages in filter(None, (self.weights, self.statistics)):  # separately, as only weights may be sharded
            self.average(list(averages.values()), [now[name].detach() for name in averages], 0)
        for name, value in self.counts.items():
            value.copy_(now[name])

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Exchange the weights of the model with their average; a second call undoes the first."""
        now = _tensors(model)
        for name, value in self.state_dict().items():
            kept = now[name].detach().clone()
            now[name].copy_(value)
            value.copy_(kept)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averages by name."""
        return self.weights | self.statistics | self.counts

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load averages."""
        for name, value in self.state_dict().items():
            value.copy_(state[name])


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers of a model by name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _copy(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return detached copies of tensors."""
    return {name: value.detach().clone() for name, value in values.items()}
