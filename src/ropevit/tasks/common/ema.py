"""A moving average of the weights."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


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
