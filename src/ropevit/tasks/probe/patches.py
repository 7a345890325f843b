"""Frozen features of the patches of images with masks, and the classes of these patches."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

from ropevit.data.ade import IGNORED
from ropevit.data.subset import stratified_subset
from ropevit.models.architectures import Model
from ropevit.models.vit.dense import pad_to
from ropevit.tasks.evaluation.inference_modes import window_spans
from ropevit.tasks.segment.augment import Sample, resize
from ropevit.tasks.segment.inference import view_size

#: Limit on the longer side of an image, as a multiple of that on the shorter one.
LONG = 4


class PatchFeatures(NamedTuple):
    """Features of labeled patches."""

    values: Float[Tensor, "n C"]
    labels: Int[Tensor, "n"]
    """Class of each patch."""


@dataclass(frozen=True)
class TrainView:
    """Resizes an image and its mask to a size, for DataLoader workers."""

    size: int
    """The shorter side in pixels."""
    first: int | None = None
    """That of an image which is resized before."""

    def __call__(self, image: Image.Image, labels: UInt8[np.ndarray, "H W"]) -> Sample:
        """Return the pixels and labels."""
        if self.first is not None:
            pixels, truth = _resize_to(image, labels, self.first)
            image, labels = Image.fromarray(pixels.permute(1, 2, 0).numpy()), truth.numpy()
        return _resize_to(image, labels, self.size)


def _resize_to(image: Image.Image, labels: UInt8[np.ndarray, "H W"], size: int) -> Sample:
    """Resize an image and its labels so that the shorter side has a size, and the longer one at most LONG times it."""
    return resize(image, labels, view_size((image.height, image.width), size, LONG * size))


def collate_one(samples: list[Sample], unreadable: list[int]) -> tuple[Sample | None, list[int]]:
    """Return the one image of a batch, or None and its index if it cannot be read."""
    return (samples[0] if samples else None), unreadable


def patch_stride(model: Model) -> int:
    """Return the side in pixels of what a feature stands for: a patch, or a token of a Swin's last stage."""
    return max(model.attention_strides().values())


def feature_map(model: Model, images: Float[Tensor, "b c H W"], stride: int) -> Float[Tensor, "b C h w"]:
    """Return the features of the patches, after the final norm unless that follows the pooling.

    Args:
        model: The model.
        images: Normalized images; padded with zeros at the bottom and right to whole patches.
        stride: Side of a patch in pixels.
    """
    images = pad_to(images, stride)
    return model.as_map(model.forward_features(images), images).float()


def tiles_of(height: int, width: int, side: int | None) -> Iterator[tuple[slice, slice]]:
    """Yield rows and columns of the tiles of an image; None for one tile, the image."""
    for rows in window_spans(height, side or height, side or height):
        for columns in window_spans(width, side or width, side or width):
            yield rows, columns


def patch_labels(labels: UInt8[Tensor, "H W"], stride: int, num_classes: int) -> Int[Tensor, "h w"]:
    """Return the class of most labeled pixels of each patch; IGNORED for patches without any.

    Args:
        labels: Class of each pixel, from 0, or IGNORED.
        stride: Side of a patch in pixels; patches at the bottom and right may be smaller.
        num_classes: Number of classes, K.
    """
    rows, columns = (torch.arange(length) // stride for length in labels.shape)
    h, w = int(rows[-1]) + 1, int(columns[-1]) + 1
    patch = rows[:, None] * w + columns
    known = labels != IGNORED
    counts = torch.bincount(patch[known] * num_classes + labels[known].long(), minlength=h * w * num_classes)
    counts = counts.view(h * w, num_classes)
    return counts.argmax(1).where(counts.any(1), IGNORED).view(h, w)


def training_patches(
    embed: Callable[[Tensor], Tensor], sample: Sample, stride: int, num_classes: int, side: int | None
) -> PatchFeatures:
    """Return the features of all labeled patches of an image.

    Args:
        embed: Maps images (1, 3, H, W) of bytes to features (1, C, h, w).
        sample: Pixels and labels of an image.
        stride: Side of a patch in pixels.
        num_classes: Number of classes.
        side: Side of the tiles in which the image is seen, in pixels; None for the whole image.
    """
    pixels, truth = sample
    values, labels = [], []
    height, width = truth.shape
    for rows, columns in tiles_of(height, width, side):
        found = patch_labels(truth[rows, columns], stride, num_classes).flatten()
        known = (found != IGNORED).nonzero()[:, 0]
        features = embed(pixels[None, :, rows, columns])[0].flatten(1).T
        values.append(features[known.to(features.device)])
        labels.append(found[known])
    return PatchFeatures(torch.cat(values), torch.cat(labels))


def some_patches(found: PatchFeatures, most: int, *keys: str | int) -> PatchFeatures:
    """Return a random subset of the patches of an image, with their proportions of classes, and one of each if it fits.

    Args:
        found: The patches.
        most: Largest number of them.
        keys: Keys of the random stream.
    """
    chosen = stratified_subset(found.labels, most, *keys)
    return PatchFeatures(found.values[chosen.to(found.values.device)], found.labels[chosen])
