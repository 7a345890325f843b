"""Memory and MACs of a training step of a segmenter."""

import torch
from torch import Tensor, nn

from ropevit.tasks.estimate import StepSpec
from ropevit.tasks.segment.base import SegmentationModel, pixel_loss
from ropevit.tasks.segment.model import build_segmenter
from ropevit.tasks.segment.train_config import SegmentTrainConfig
from ropevit.tasks.segment.upernet import upernet_losses

#: Classes of ADE20K.
CLASSES = 150


def step_spec(config: SegmentTrainConfig, num_classes: int | None = None) -> StepSpec:
    """Return the training step at the crop size, for `--estimate`.

    For Mask2Former, the outputs are summed instead of computing its losses, whose matching needs real values.

    Args:
        config: The training.
        num_classes: Number of classes; None for those of ADE20K.
    """
    side, head, patch = config.augment.crop_size, config.model.head, config.model.body_config().patch_size

    def build() -> SegmentationModel:
        model = build_segmenter(config.model, num_classes or CLASSES)
        model.set_grad_checkpointing(config.run.grad_checkpointing)
        if config.freeze_backbone:
            model.backbone.freeze()
        return model

    def forward(model: nn.Module, images: int) -> object:
        return model(torch.zeros(images, 3, side, side))

    def loss(model: nn.Module, images: int) -> Tensor:
        output = model(torch.zeros(images, 3, side, side))
        labels = torch.zeros(images, side, side, dtype=torch.int64)
        if head == "linear":
            return pixel_loss(output, labels, patch)
        if head == "upernet":
            return torch.stack(list(upernet_losses(output, labels, config.model.upernet).values())).sum()
        return torch.stack([layer.classes.float().sum() + layer.masks.float().sum() for layer in output]).sum()

    note = "without the losses, whose matching needs values" if head == "mask2former" else ""
    least = 2 if head == "upernet" else 1  # batch norm needs two images
    return StepSpec(
        build=build, forward=forward, loss=loss, size=(side, side), patch_size=patch, least=least, note=note
    )
