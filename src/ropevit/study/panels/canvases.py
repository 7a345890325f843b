"""Base class of the panels that label the pixels of canvases: items, model and loss."""

from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from ropevit.data.canvas import pixel_labels
from ropevit.data.labeled import LabeledImages
from ropevit.models.vit import ViT, ViTConfig
from ropevit.study.panels.base import vit_config
from ropevit.study.panels.pixels import downsample_items, pixel_logits
from ropevit.study.settings import PanelSettings
from ropevit.tasks.evaluation.inference_modes import InferenceMode


class CanvasPanel:
    """Base of the panels that label every pixel of canvases on which items are pasted.

    A linear head maps each patch token to the labels of its pixels.
    """

    baselines: ClassVar[tuple[InferenceMode, ...]] = ("tiles", "resize")

    def __init__(self, settings: PanelSettings, train: LabeledImages, test: LabeledImages):
        self.settings = settings
        self.classes: tuple[str, ...] | None = None
        self.labels, train_labels = pixel_labels(train)
        _, test_labels = pixel_labels(test)
        self.train = downsample_items(train.images, settings.canvas), train_labels
        self.test = downsample_items(test.images, settings.canvas), test_labels
        self.test_name = test.name

    def model_config(self, position: str) -> ViTConfig:
        """Return the config of a model with one output for each label and pixel of a patch."""
        outputs = len(self.labels) * self.settings.patch_size**2
        return vit_config(self.settings, position, min(3, self.train[0].shape[1]), outputs)

    def loss(self, model: ViT, images: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy, averaged over all pixels."""
        return F.cross_entropy(pixel_logits(model, images).float(), targets)
