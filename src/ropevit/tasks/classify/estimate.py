"""Memory and MACs of a training step of a classifier."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ropevit.models.architectures import build_model
from ropevit.tasks.classify.config import TrainConfig
from ropevit.tasks.classify.freezing import freeze_all_but_head
from ropevit.tasks.estimate import StepSpec

#: Classes of ImageNet-1k.
CLASSES = 1000


def step_spec(config: TrainConfig, num_classes: int | None = None) -> StepSpec:
    """Return the training step at the size of the training images, the largest of several, for `--estimate`.

    Args:
        config: The training.
        num_classes: Number of classes; None for those of ImageNet-1k.
    """
    side, body = config.largest_size, config.initial_model.build(num_classes or CLASSES)

    def build() -> nn.Module:
        model = build_model(body)
        model.set_grad_checkpointing(config.run.grad_checkpointing)
        if config.freeze_backbone:
            freeze_all_but_head(model)
        return model

    def forward(model: nn.Module, images: int) -> Tensor:
        return model(torch.zeros(images, body.in_channels, side, side))

    def loss(model: nn.Module, images: int) -> Tensor:
        return F.cross_entropy(forward(model, images), torch.zeros(images, dtype=torch.int64))

    return StepSpec(build=build, forward=forward, loss=loss, size=(side, side), patch_size=body.patch_size)
