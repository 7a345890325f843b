"""Memory and MACs of a training step of a segmenter."""

import torch
from torch import Tensor, nn

from ropevit.tasks.common.estimate import StepSpec
from ropevit.tasks.segment.base import SegmentationModel
from ropevit.tasks.segment.model import build_segmenter
from ropevit.tasks.segment.train_config import SegmentConfig
from ropevit.tasks.segment.upernet import upernet_losses

#: Classes of ADE20K.
CLASSES = 150


def step_spec(config: SegmentConfig) -> StepSpec:
    """Describe a step at the size of the crops.

    Masks cannot be matched without values: what Mask2Former says is added up, and its losses are left out.
    """
    side, upernet = config.augment.crop, config.model.head == "upernet"

    def build() -> SegmentationModel:
        model = build_segmenter(config.model, CLASSES)
        model.set_grad_checkpointing(config.run.grad_checkpointing)
        return model

    def forward(model: nn.Module, images: int) -> object:
        return model(torch.zeros(images, 3, side, side))

    def loss(model: nn.Module, images: int) -> Tensor:
        found = model(torch.zeros(images, 3, side, side))
        if upernet:
            labels = torch.zeros(images, side, side, dtype=torch.int64)
            return torch.stack(list(upernet_losses(found, labels, config.model.upernet).values())).sum()
        return torch.stack([each.classes.float().sum() + each.masks.float().sum() for each in found]).sum()

    note = "" if upernet else "without the losses, whose matching needs values"
    least = 2 if upernet else 1  # its batch norms need two
    return StepSpec(build=build, forward=forward, loss=loss, size=(side, side), least=least, note=note)
