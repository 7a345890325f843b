"""Optimizer, learning rate schedule, and moving average of the weights."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ropevit.extras import require
from ropevit.models.parameter_groups import HasLayers, parameter_groups
from ropevit.tasks.common.config import OptimConfig


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Build the optimizer, its parameters grouped by decay and by layer.

    LAMB applies its trust ratio to the decayed groups alone, as apex's does, so that learned frequencies take the
    steps of Adam at the full rate.

    Args:
        model: A model of ours, not wrapped.
        config: How to optimise.

    Raises:
        MissingExtraError: If LAMB is asked for and timm is not installed.
        ValueError: If the backbone is to learn at another rate, and the model has none.
    """
    scales = {} if config.backbone_lr == 1 else {"backbone.": config.backbone_lr}
    groups = parameter_groups(cast("HasLayers", model), config.lr, config.weight_decay, config.layer_decay, scales)
    groups = [{**group, "lr": config.lr} for group in groups]  # the schedule multiplies by lr_scale
    if config.optimizer == "lamb":
        lamb = require("timm.optim", "train").Lamb
        return lamb(groups, lr=config.lr, eps=config.eps, weight_decay=config.weight_decay, max_grad_norm=1.0)
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    return torch.optim.AdamW(groups, lr=config.lr, eps=config.eps, fused=fused)


def make_schedule(optimizer: torch.optim.Optimizer, config: OptimConfig, steps_per_epoch: int) -> Any:
    """Build the schedule: `step_update(step)` sets the rates of a step, which depend on nothing else.

    The rate rises linearly to `lr`, then falls to `min_lr` along half a cosine or as a power of what is left, or to a
    tenth at each milestone; with a layer decay, all of it is scaled layer by layer. With a power the warm-up is a
    factor on what that gives, as in mmcv.

    Args:
        optimizer: What to schedule.
        config: How to optimise.
        steps_per_epoch: Steps of an epoch.

    Source: Loshchilov and Hutter 2017 (arXiv:1608.03983), without restarts.
    """
    warmup, total = config.warmup(steps_per_epoch), config.length(steps_per_epoch)
    length = total - warmup if config.warmup_prefix else total
    rise = {"warmup_t": warmup, "warmup_lr_init": config.warmup_lr, "warmup_prefix": config.warmup_prefix}
    schedules = require("timm.scheduler", "train")
    if config.schedule == "step":
        steps = [round(share * length) + 1 for share in config.milestones]  # timm lowers the rate a step too early
        return schedules.MultiStepLRScheduler(optimizer, steps, decay_rate=0.1, t_in_epochs=False, **rise)
    rise |= {"lr_min": config.min_lr, "t_in_epochs": False}
    if config.schedule == "poly" and not config.warmup_prefix:
        return PolySchedule(optimizer, config, warmup, total)
    if config.schedule == "poly":
        return schedules.PolyLRScheduler(optimizer, length, power=config.power, **rise)
    return schedules.CosineLRScheduler(optimizer, length, **rise)


class PolySchedule:
    """The learning rate as a power of what is left of the training, times a warm-up.

    Args:
        optimizer: What to schedule.
        config: Gives lr, warmup_lr, min_lr and power.
        warmup: Steps of the warm-up.
        total: Steps of the training.

    Source: `PolyLrUpdaterHook` of mmcv with a linear warm-up, which multiplies the two.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, config: OptimConfig, warmup: int, total: int):
        self.optimizer, self.config, self.warmup, self.total = optimizer, config, warmup, total

    def rate(self, step: int) -> float:
        """Give the rate of a step, before it is scaled for a layer."""
        config = self.config
        left = max(1 - step / self.total, 0.0)
        rate = config.min_lr + (config.lr - config.min_lr) * left**config.power
        if step >= self.warmup:
            return rate
        start = config.warmup_lr / config.lr
        return rate * (start + (1 - start) * step / self.warmup)

    def step_update(self, step: int) -> None:
        """Set the rates of a step."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(step) * group.get("lr_scale", 1.0)


class Ema:
    """A moving average of a model's weights, which may be sharded, and of the buffers that are saved with them.

    Running statistics of batch norms are averaged as weights are; whole numbers, such as counts, are taken as they are.

    Args:
        model: The model, at its start.
        decay: Share of the average that each step keeps.
    """

    def __init__(self, model: nn.Module, decay: float):
        saved = model.state_dict().keys()
        buffers = {name: value for name, value in model.named_buffers() if name in saved}
        self.weights = copy(dict(model.named_parameters()))
        self.statistics = copy({name: value for name, value in buffers.items() if value.is_floating_point()})
        self.counts = copy({name: value for name, value in buffers.items() if not value.is_floating_point()})
        self.average = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the weights."""
        now = tensors(model)
        for averages in filter(None, (self.weights, self.statistics)):  # apart, as weights alone may be shared out
            self.average(list(averages.values()), [now[name].detach() for name in averages], 0)
        for name, value in self.counts.items():
            value.copy_(now[name])

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Exchange the average and what the model holds; a second call undoes the first."""
        now = tensors(model)
        for name, value in self.state_dict().items():
            kept = now[name].detach().clone()
            now[name].copy_(value)
            value.copy_(kept)

    def state_dict(self) -> dict[str, Tensor]:
        """Give the averages by name."""
        return self.weights | self.statistics | self.counts

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take averages over."""
        for name, value in self.state_dict().items():
            value.copy_(state[name])


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Give the parameters and the buffers of a model by name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def copy(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors."""
    return {name: value.detach().clone() for name, value in values.items()}
