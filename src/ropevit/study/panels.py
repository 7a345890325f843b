"""The two panels of a study, behind one interface: `zoom` (classification) and `field` (a label for every pixel)."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from ropevit.data.canvas import paint_canvases, pixel_labels
from ropevit.data.crops import normalise, random_crops, resample
from ropevit.data.labelled import LabelledImages
from ropevit.data.rng import batch_indices, make_generator
from ropevit.models.positions import split_theta
from ropevit.models.vit import ViT, ViTConfig
from ropevit.study.settings import PanelSettings

#: Tokens in one forward pass of an evaluation.
_TOKENS_PER_BATCH = 8192

CheckStop = Callable[[], None]
Transform = Callable[[Tensor], Tensor]


class FloorScore(NamedTuple):
    """Score of a prediction that ignores the image, in percent."""

    score: float
    error: float
    """Its standard error, from the test images."""


@runtime_checkable
class Panel(Protocol):
    """A task of the study: its data, model, loss and metric."""

    name: str
    metric: str
    settings: PanelSettings
    labels: tuple[str, ...]
    """Names of the classes of images, or of the labels of pixels."""
    classes: tuple[str, ...] | None
    """Names of the model's outputs, where each is one class."""
    floor_name: str
    """The prediction of a model that learned nothing."""
    baseline_name: str
    """Baseline for larger images, which runs the model at the training size (resizing or tiling)."""

    def model_config(self, position: str) -> ViTConfig:
        """Return the config of the model with a position embedding."""
        ...

    def batch(self, seed: int, step: int) -> tuple[Tensor, Tensor]:
        """Return the images and targets of a training step; they depend only on the panel, the seed and the step."""
        ...

    def loss(self, model: ViT, images: Tensor, targets: Tensor) -> Tensor:
        """Return the training loss of a batch."""
        ...

    def score(self, model: ViT, size: int, check: CheckStop) -> float:
        """Evaluate the model on the test images at a size, in percent; `check` is called between batches."""
        ...

    def baseline(self, model: ViT, size: int, check: CheckStop) -> float:
        """Evaluate the baseline on the test images at a size above the training size, in percent."""
        ...

    def floor(self, size: int) -> FloorScore:
        """Return the score of a model that learned nothing."""
        ...


class ZoomPanel:
    """Classification panel; a larger test image is the same image with more pixels.

    With user photographs this is the paper's protocol; the embedded images have 28 pixels and are upsampled.

    The metric is top-1 accuracy in percent.
    """

    name = "zoom"
    metric = "top-1 accuracy (%)"
    floor_name = "always the most frequent class"

    def __init__(self, settings: PanelSettings, train: LabelledImages, test: LabelledImages):
        self.settings, self.train, self.test = settings, train, _subsample(test, settings.test_images)
        self.labels = train.classes
        self.classes: tuple[str, ...] | None = train.classes
        self.baseline_name = f"resized to {settings.train_size} px"

    def model_config(self, position: str) -> ViTConfig:
        """Return the config of a classifier with one output per class."""
        return vit_config(self.settings, position, self.train.images.shape[1], len(self.train.classes))

    def batch(self, seed: int, step: int) -> tuple[Float[Tensor, "B c s s"], Int[Tensor, "B"]]:
        """Draw random crops; every image is used once per epoch."""
        settings = self.settings
        index = batch_indices(len(self.train), settings.batch_size, step, self.name, seed)
        crops = random_crops(
            self.train.images[index], settings.train_size, settings.crop, make_generator(self.name, seed, "step", step)
        )
        return normalise(crops), self.train.labels[index]

    def loss(self, model: ViT, images: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy."""
        return F.cross_entropy(model(images).float(), targets)

    def score(self, model: ViT, size: int, check: CheckStop) -> float:
        """Percentage of the test images, resampled to `size`, with a correct top-1 prediction."""
        return self.accuracy(model, size, check, lambda images: images)

    def baseline(self, model: ViT, size: int, check: CheckStop) -> float:
        """Like `score`, with the images of that size resized to the training size."""
        return self.accuracy(model, size, check, lambda images: resample(images, self.settings.train_size))

    def accuracy(self, model: ViT, size: int, check: CheckStop, change: Transform) -> float:
        """Return top-1 accuracy in percent on test images that were resampled to `size` and then transformed."""
        right = 0
        for part in batches(len(self.test), size, self.settings.patch_size):
            check()
            images = normalise(change(resample(self.test.images[part], size)))
            right += int((model(images).argmax(1) == self.test.labels[part]).sum())
        return 100 * right / len(self.test)

    def floor(self, size: int) -> FloorScore:  # noqa: ARG002
        """Return the score of always predicting the most frequent test class; the same at every size."""
        share = self.test.labels.bincount().max().item() / len(self.test)
        return FloorScore(100 * share, 100 * math.sqrt(share * (1 - share) / len(self.test)))


class FieldPanel:
    """Segmentation panel: label every pixel of a canvas; a larger test canvas shows more items at the same scale.

    A linear head maps each patch token to the labels of its pixels. The metric is the mean intersection over union in
    percent, the background counted as a label, over all canvases of a size together; a label that neither occurs nor is
    predicted is excluded from the mean.
    """

    name = "field"
    metric = "mean IoU (%)"
    floor_name = "everything background"

    def __init__(self, settings: PanelSettings, train: LabelledImages, test: LabelledImages):
        self.settings = settings
        self.classes: tuple[str, ...] | None = None
        self.labels, train_labels = pixel_labels(train)
        _, test_labels = pixel_labels(test)
        self.train, self.test = (
            (_downsample_items(train.images, settings), train_labels),
            (_downsample_items(test.images, settings), test_labels),
        )
        self.test_name = test.name
        self.baseline_name = f"in tiles of {settings.train_size} px"

    def model_config(self, position: str) -> ViTConfig:
        """Return the config of a model with one output for each label and pixel of a patch."""
        outputs = len(self.labels) * self.settings.patch_size**2
        return vit_config(self.settings, position, self.train[0].shape[1], outputs)

    def batch(self, seed: int, step: int) -> tuple[Float[Tensor, "B c s s"], Int[Tensor, "B s s"]]:
        """Paint new canvases."""
        settings, generator = self.settings, make_generator(self.name, seed, "step", step)
        canvases, truth = paint_canvases(
            *self.train, settings.train_size, settings.batch_size, settings.canvas, generator
        )
        return normalise(canvases), truth

    def logits(self, model: ViT, images: Float[Tensor, "B c H W"]) -> Float[Tensor, "B L H W"]:
        """Label the pixels: the head on every patch token, its outputs shuffled to the pixels of the patch."""
        patch = self.settings.patch_size
        tokens = model.forward_features(images)[:, model.num_prefix :]
        h, w = images.shape[2] // patch, images.shape[3] // patch
        return F.pixel_shuffle(model.head(tokens).transpose(1, 2).unflatten(2, (h, w)), patch)

    def loss(self, model: ViT, images: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy, averaged over all pixels."""
        return F.cross_entropy(self.logits(model, images).float(), targets)

    def score(self, model: ViT, size: int, check: CheckStop) -> float:
        """Mean IoU on test canvases of a size, the same ones for every model and seed."""
        return self.iou(size, check, lambda images: self.logits(model, images).argmax(1))

    def baseline(self, model: ViT, size: int, check: CheckStop) -> float:
        """Like `score`, with each canvas split into tiles of the training size that are labelled separately."""
        side = self.settings.train_size
        return self.iou(
            size, check, lambda images: predict_tiles(images, side, lambda x: self.logits(model, x).argmax(1))
        )

    def iou(self, size: int, check: CheckStop, label: Transform) -> float:
        """Return the mean IoU of a function that labels the pixels of normalised canvases."""
        kinds, device = len(self.labels), self.train[0].device
        confusion = torch.zeros(kinds * kinds, dtype=torch.long, device=device)
        for canvases, truth in self.canvases(size):
            check()
            predicted = label(normalise(canvases))
            confusion += (truth * kinds + predicted).flatten().bincount(minlength=kinds * kinds)
        return 100 * mean_iou(confusion.unflatten(0, (kinds, kinds)))

    def canvases(self, size: int) -> Iterator[tuple[Float[Tensor, "B c s s"], Int[Tensor, "B s s"]]]:
        """Paint the test canvases of a size, batch by batch."""
        for part in batches(self.settings.test_canvases, size, self.settings.patch_size):
            generator = make_generator(self.name, self.test_name, size, part.start)
            yield paint_canvases(*self.test, size, part.stop - part.start, self.settings.canvas, generator)

    def floor(self, size: int) -> FloorScore:
        """Return the score of labelling every pixel background, with the jackknife standard error over canvases."""
        kinds = len(self.labels)
        counts = torch.cat(
            [torch.stack([(truth == kind).sum((1, 2)) for kind in range(kinds)], 1) for _, truth in self.canvases(size)]
        )
        rest = _background_iou(counts.sum(0) - counts) if len(counts) > 1 else _background_iou(counts)
        error = ((len(rest) - 1) * rest.var(correction=0)).sqrt().item()
        return FloorScore(_background_iou(counts.sum(0, keepdim=True)).item(), error)


PANEL_CLASSES: dict[str, type[ZoomPanel] | type[FieldPanel]] = {"field": FieldPanel, "zoom": ZoomPanel}


def vit_config(settings: PanelSettings, position: str, channels: int, outputs: int) -> ViTConfig:
    """Return the config of a study's small ViT: average pooling, no class token, no LayerScale.

    `position` may name the base of the frequencies, as in `rope_axial:theta=10`.
    """
    position, theta = split_theta(position)
    return ViTConfig(
        position=position,
        rope_theta=theta,
        width=settings.width,
        depth=settings.depth,
        heads=settings.heads,
        patch_size=settings.patch_size,
        img_size=(settings.train_size, settings.train_size),
        in_channels=channels,
        num_classes=outputs,
        pooling="avg",
        class_token=False,
        layer_scale=None,
        ape_std=settings.ape_std,
    )


def batches(count: int, size: int, patch: int) -> Iterator[slice]:
    """Split `count` images into batches with about the same number of tokens for any image size."""
    step = max(1, _TOKENS_PER_BATCH // (size // patch) ** 2)
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def _subsample(data: LabelledImages, count: int) -> LabelledImages:
    """Return a fixed random subset of `count` images; all if there are no more."""
    if len(data) <= count:
        return data
    return data.subset(torch.randperm(len(data), generator=make_generator("test images"))[:count].sort().values)


def _downsample_items(images: Tensor, settings: PanelSettings) -> Tensor:
    """Downsample items to the largest size at which they are pasted, so that pasting does not alias."""
    near = round(settings.canvas.item_size * settings.canvas.jitter)
    if images.shape[-1] <= near:
        return images
    return torch.cat([resample(part, near).round().to(torch.uint8) for part in images.split(512)])


def mean_iou(confusion: Int[Tensor, "L L"]) -> float:
    """Average intersection over union over the labels that occur or are predicted.

    Args:
        confusion: Pixels counted by true label (row) and predicted label (column).

    Returns:
        A fraction from 0 to 1.
    """
    hit = confusion.diagonal()
    union = confusion.sum(0) + confusion.sum(1) - hit
    return (hit[union > 0] / union[union > 0]).mean().item()


def _background_iou(counts: Int[Tensor, "M L"]) -> Float[Tensor, "M"]:
    """Return the mean IoU in percent of labelling every pixel background, from pixel counts by label."""
    return 100 * counts[:, 0] / counts.sum(1) / (counts > 0).sum(1).clamp(min=1)


def predict_tiles(images: Float[Tensor, "B c H H"], side: int, label: Transform) -> Int[Tensor, "B H H"]:
    """Label images tile by tile; if a side is not a multiple of the tile's, the last tile overlaps and overrides.

    Args:
        images: Square images, no smaller than a tile.
        side: Side of a tile in pixels.
        label: Labels the pixels of images.
    """
    size = images.shape[-1]
    starts = [*range(0, size - side, side), size - side]
    places = [(slice(y, y + side), slice(x, x + side)) for y in starts for x in starts]
    labelled = torch.empty(len(images), size, size, dtype=torch.long, device=images.device)
    found = label(torch.cat([images[:, :, y, x] for y, x in places])).split(len(images))
    for (y, x), tile in zip(places, found, strict=True):
        labelled[:, y, x] = tile
    return labelled
