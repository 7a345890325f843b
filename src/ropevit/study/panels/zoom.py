"""Classification panel `zoom`: a larger image is the same one with more pixels."""

import math
from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from ropevit.data.crops import draw_gradients, normalize, on_gradients, premultiply, random_crops, resample
from ropevit.data.labeled import LabeledImages
from ropevit.data.rng import batch_indices, make_generator
from ropevit.device import to_device
from ropevit.models.vit import ViT, ViTConfig
from ropevit.study.panels.base import CheckStop, MajorityScore, batches, vit_config
from ropevit.study.settings import PanelSettings
from ropevit.tasks.evaluation.inference_modes import InferenceMode


class ZoomPanel:
    """Classify images; a larger test image is the same image with more pixels.

    Drawings with an alpha channel are put on smooth color gradients and classified by group, as each class has one
    drawing an artist. Larger images have more detail, up to the size of
    those that the panel was given: photographs and the embedded drawings follow the paper's protocol, the embedded
    photographs of clothing have 28 pixels and are upsampled.

    The metric is top-1 accuracy in percent.
    """

    name: ClassVar[str] = "zoom"
    title: ClassVar[str] = "higher resolution"
    metric: ClassVar[str] = "top-1 accuracy (%)"
    majority_name: ClassVar[str] = "always the most frequent class"
    baselines: ClassVar[tuple[InferenceMode, ...]] = ("resize",)

    def __init__(self, settings: PanelSettings, train: LabeledImages, test: LabeledImages):
        self.settings, self.train, self.test = settings, train, _subsample(test, settings.test_images)
        if train.images.shape[1] == 4:
            self.train = _downsample_training(_premultiplied(train.grouped()), settings)
            self.test = _premultiplied(self.test.grouped())
        self.labels = self.train.classes
        self.classes: tuple[str, ...] | None = self.train.classes

    def model_config(self, position: str) -> ViTConfig:
        """Return the config of a classifier with one output per class."""
        return vit_config(self.settings, position, min(3, self.train.images.shape[1]), len(self.train.classes))

    def batch(self, seed: int, step: int, size: int | None = None) -> tuple[Float[Tensor, "B k s s"], Int[Tensor, "B"]]:
        """Draw random crops; every image is used once per epoch."""
        settings, generator = self.settings, make_generator(self.name, seed, "step", step)
        index = batch_indices(len(self.train), settings.batch_size, step, self.name, seed)
        index = to_device(index, self.train.images.device)
        crops = random_crops(self.train.images[index], size or settings.train_size, settings.crop, generator)
        if crops.shape[1] == 4:
            crops = on_gradients(crops, draw_gradients(len(crops), generator))
        return normalize(crops), self.train.labels[index]

    def loss(self, model: ViT, images: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy."""
        return F.cross_entropy(model(images).float(), targets)

    def test_images(self, index: Tensor | slice, size: int) -> Float[Tensor, "B k size size"]:
        """Return test images at a size, with values from 0 to 255; the background of an image is always the same."""
        images = resample(self.test.images[index], size)
        if images.shape[1] < 4:
            return images
        gradients = draw_gradients(len(self.test), make_generator(self.name, "backgrounds"))
        return on_gradients(images, gradients[index])

    def score(self, model: ViT, size: int, check: CheckStop, mode: InferenceMode = "whole") -> float:
        """Percentage of the test images, resampled to `size`, with a correct top-1 prediction."""
        right, total = self.counts(model, size, check, mode).sum(0).tolist()
        return 100 * right / total

    def counts(self, model: ViT, size: int, check: CheckStop, mode: InferenceMode = "whole") -> Int[Tensor, "N 2"]:
        """Return correct and all predictions of each test image."""
        found = []
        for part in batches(len(self.test), size, self.settings.patch_size):
            check()
            images = self.test_images(part, size)
            images = resample(images, self.settings.train_size) if mode == "resize" else images
            right = model(normalize(images)).argmax(1) == self.test.labels[part]
            found.append(torch.stack([right, torch.ones_like(right)], 1).long())
        return torch.cat(found)

    def score_of(self, counts: Tensor) -> Tensor:
        """Compute accuracies."""
        return 100 * counts[:, 0] / counts[:, 1]

    def majority_score(self, size: int) -> MajorityScore:  # noqa: ARG002
        """Return the score of always predicting the most frequent test class; the same at every size."""
        share = self.test.labels.bincount().max().item() / len(self.test)
        return MajorityScore(100 * share, 100 * math.sqrt(share * (1 - share) / len(self.test)))


def _subsample(data: LabeledImages, count: int) -> LabeledImages:
    """Return a fixed random subset of `count` images; all if there are no more."""
    if len(data) <= count:
        return data
    return data.subset(torch.randperm(len(data), generator=make_generator("test images"))[:count].sort().values)


def _premultiplied(data: LabeledImages) -> LabeledImages:
    """Premultiply the colors of drawings by their alpha channel."""
    return replace(data, images=premultiply(data.images))


def _downsample_training(data: LabeledImages, settings: PanelSettings) -> LabeledImages:
    """Downsample drawings as far as no training crop is enlarged, so that cropping is fast."""
    side = math.ceil(settings.train_size / math.sqrt(settings.crop.smallest))
    if data.images.shape[-1] <= side:
        return data
    parts = [resample(part, side).round().to(torch.uint8) for part in data.images.split(512)]
    return replace(data, images=torch.cat(parts))
