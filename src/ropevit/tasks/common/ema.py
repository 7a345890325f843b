"""A moving average of the weights."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Ema:
    """A moving average of a model's weights, which may be sharded.

    Args:
        model: The model, at its start.
        decay: Share of the average that each step keeps.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.weights = {name: value.detach().clone() for name, value in model.named_parameters()}
        self.average = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the weights."""
        self.average(list(self.weights.values()), [value.detach() for value in model.parameters()], 0)

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Exchange the average and the model's weights; a second call undoes the first."""
        for name, value in model.named_parameters():
            kept = value.detach().clone()
            value.copy_(self.weights[name])
            self.weights[name].copy_(kept)

    def state_dict(self) -> dict[str, Tensor]:
        """Give the averages by name."""
        return dict(self.weights)

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take averages over."""
        for name, value in self.weights.items():
            value.copy_(state[name])
