"""The training step of a detector for `ropevit train --estimate`."""

import torch
from torch import Tensor, nn

from ropevit.tasks.detect.boxes import Target
from ropevit.tasks.detect.dino import Output
from ropevit.tasks.detect.model import Detector
from ropevit.tasks.detect.train_config import DetectTrainConfig
from ropevit.tasks.estimate import StepSpec

#: Classes of COCO, and assumed number of objects per image.
CLASSES, OBJECTS = 80, 10


def step_spec(config: DetectTrainConfig, num_classes: int | None = None) -> StepSpec:
    """Describe a training step at the largest image size.

    The outputs are summed instead of computing the losses, whose matching needs values, which the meta device lacks.

    Args:
        config: The training.
        num_classes: Number of classes; None for those of COCO.
    """
    height, width = max(config.scale.short_edge_lengths), config.scale.max_size
    patch = config.model.body_config().patch_size

    def build() -> nn.Module:
        model = Detector(config.model, num_classes or CLASSES)
        model.set_grad_checkpointing(config.run.grad_checkpointing)
        if config.freeze_backbone:
            model.backbone.freeze()
        return model

    def forward(model: nn.Module, images: int) -> Output:
        return model(torch.zeros(images, 3, height, width), [(height, width)] * images)

    def loss(model: nn.Module, images: int) -> Tensor:
        targets = [Target(torch.zeros(OBJECTS, dtype=torch.int64), torch.rand(OBJECTS, 4)) for _ in range(images)]
        found = model(torch.zeros(images, 3, height, width), [(height, width)] * images, targets)
        outputs = [*found.layers, found.encoder, *found.denoising]
        return torch.stack([each.logits.float().sum() + each.boxes.float().sum() for each in outputs]).sum()

    note = f"with {OBJECTS} objects per image; without the losses, whose matching needs values"
    return StepSpec(build=build, forward=forward, loss=loss, size=(height, width), patch_size=patch, note=note)
