"""Base class of segmenters, and the pixel loss."""

from typing import ClassVar

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from ropevit.data.ade import IGNORED
from ropevit.models.dense import Backbone
from ropevit.tasks.segment.inference import resize

#: Strides of the feature maps that the heads take.
STRIDES = (4, 8, 16, 32)


class SegmentationModel(nn.Module):
    """Base class of segmenters: a backbone with feature maps, and its parameter groups.

    Args:
        backbone: A `DenseViT` or `DenseSwin`.

    Raises:
        ValueError: If its maps have other strides than the head expects: 4, 8, 16 and 32.
    """

    expected_strides: ClassVar[tuple[int, ...] | None] = STRIDES
    """Strides of the maps that the head takes; None for any."""

    def __init__(self, backbone: Backbone):
        super().__init__()
        expected = self.expected_strides
        if expected is not None and tuple(backbone.strides) != expected:
            raise ValueError(f"got a backbone with maps of strides {backbone.strides}; the head expects {expected}")
        self.backbone = backbone

    def logits(self, images: Float[Tensor, "B c H W"]) -> Float[Tensor, "B K H W"]:
        """Return class logits at the resolution of the images, in eval mode, for `segment`."""
        raise NotImplementedError

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block of the backbone in the backward pass: less memory, more time."""
        self.backbone.set_grad_checkpointing(enable)

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters without weight decay, besides biases and norms."""
        return {f"backbone.{name}" for name in self.backbone.no_weight_decay()}

    def layer_index(self, name: str) -> int:
        """Return the depth of a parameter for layer-wise learning rate decay; heads come after all blocks."""
        return self.backbone.layer_index(name.removeprefix("backbone."))


def resize_logits(scores: Float[Tensor, "B K h w"], stride: int, size: tuple[int, int]) -> Float[Tensor, "B K H W"]:
    """Resize logits of a feature map to the pixels of the image.

    The backbone pads images to multiples of its stride, so a map may cover more than the image: it is resized to the
    padded size, then cropped.

    Args:
        scores: Logits of a feature map.
        stride: Stride of the map in pixels.
        size: Height and width of the image.
    """
    covered = scores.shape[2] * stride, scores.shape[3] * stride
    return resize(scores, covered)[:, :, : size[0], : size[1]]


def pixel_loss(logits: Float[Tensor, "B K h w"], labels: Shaped[Tensor, "B H W"], stride: int) -> Float[Tensor, ""]:
    """Compute the cross-entropy of logits that are resized to the labels.

    The sum is divided by the number of all pixels, ignored ones included, as in mmseg; without labeled pixels it is 0.

    Args:
        logits: Logits of a feature map.
        labels: Class of each pixel, from 0, or IGNORED.
        stride: Stride of the map in pixels.
    """
    logits = resize_logits(logits.float(), stride, (labels.shape[1], labels.shape[2]))
    return F.cross_entropy(logits, labels.long(), ignore_index=IGNORED, reduction="sum") / labels.numel()


def present_classes(labels: Shaped[Tensor, "H W"]) -> Int[Tensor, "n"]:
    """Return the classes of an image in ascending order, without IGNORED; the labels are best on the CPU."""
    narrow = labels.dtype == torch.uint8  # counting bytes is a hundred times as fast as sorting them
    classes = labels.flatten().bincount().nonzero().flatten() if narrow else labels.unique().long()
    return classes[classes != IGNORED]
