"""Memory and MACs of a training step of a classifier."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ropevit.models.architectures import build_model
from ropevit.tasks.classify.config import TrainConfig
from ropevit.tasks.common.estimate import StepSpec

#: Classes of ImageNet-1k.
CLASSES = 1000


def step_spec(config: TrainConfig) -> StepSpec:
    """Return the training step at the size of the training images, the largest of several, for `--estimate`."""
    side, body = config.largest_size, config.model.build(CLASSES)

    def build() -> nn.Module:
        model = build_model(body)
        model.set_grad_checkpointing(config.run.grad_checkpointing)
        return model

    def forward(model: nn.Module, images: int) -> Tensor:
        return model(torch.zeros(images, body.in_channels, side, side))

    def loss(model: nn.Module, images: int) -> Tensor:
        return F.cross_entropy(forward(model, images), torch.zeros(images, dtype=torch.int64))

    return StepSpec(build=build, forward=forward, loss=loss, size=(side, side))
