"""Predictions of a classifier in tiles of the training size, or of images resized to it."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from ropevit.data.crops import resample
from ropevit.models.architectures import Config
from ropevit.tasks.evaluation.inference_modes import InferenceMode, patch_tokens, window_spans

#: Maps images (b, c, H, W) to logits (b, K).
Classifier = Callable[[Tensor], Tensor]


def predict_by(
    mode: InferenceMode, classifier: Classifier, side: int, average: Callable[[Tensor], Tensor] | None = None
) -> Classifier:
    """Return a classifier of uint8 images that predicts them whole, in tiles, or resized.

    Args:
        mode: How.
        classifier: Returns logits; for tiles and resized images, at the training size.
        side: The training size in pixels.
        average: Averages the outputs (T, b, K) of T tiles; by default probabilities, see `average_logits`.
    """
    if mode == "tiles":
        return lambda images: (average or average_logits)(tile_outputs(classifier, images, side))
    if mode == "resize":
        return lambda images: classifier(resize_images(images, side))
    return classifier


def tile_outputs(classifier: Classifier, images: Tensor, side: int) -> Float[Tensor, "T b K"]:
    """Return the outputs of each tile of the images.

    Args:
        classifier: Maps tiles to outputs.
        images: Images (b, c, H, W). Where the side of a tile does not divide theirs, the last tile overlaps.
        side: Side of a tile in pixels.
    """
    height, width = images.shape[-2:]
    rows, columns = (list(window_spans(length, side, side)) for length in (height, width))
    return torch.stack([classifier(images[..., y, x]).float() for y in rows for x in columns])


def average_logits(logits: Float[Tensor, "T b K"]) -> Float[Tensor, "b K"]:
    """Return the logarithm of the class probabilities, averaged over tiles."""
    return logits.log_softmax(-1).logsumexp(0) - math.log(len(logits))


def tile_logits(classifier: Classifier, images: Tensor, side: int) -> Float[Tensor, "b K"]:
    """Return the logarithm of the class probabilities, averaged over the tiles of each image.

    Args:
        classifier: Returns logits of a tile.
        images: Images (b, c, H, W); see `tile_outputs`.
        side: Side of a tile in pixels.
    """
    return average_logits(tile_outputs(classifier, images, side))


class TiledClassifier(nn.Module):
    """Classifies images in tiles; see `tile_logits`.

    Args:
        model: Returns logits of a tile.
        side: Side of a tile in pixels.
    """

    def __init__(self, model: nn.Module, side: int):
        super().__init__()
        self.model, self.side = model, side

    def forward(self, images: Float[Tensor, "b c H W"]) -> Float[Tensor, "b K"]:
        """Return the logarithm of the averaged class probabilities."""
        return tile_logits(self.model, images, self.side)


def resize_images(images: UInt8[Tensor, "b c _ _"], side: int) -> UInt8[Tensor, "b c side side"]:
    """Resize images to a square (bicubic, antialiased), rounded to bytes as a file would hold them."""
    return resample(images, side).round().to(torch.uint8)


def tokens_per_image(config: Config, size: int, mode: InferenceMode, side: int) -> int:
    """Return the patch tokens that a model attends over for an image, of all its tiles together.

    Args:
        config: Config of the model.
        size: Side of the image in pixels.
        mode: How it is predicted.
        side: The training size in pixels.
    """
    seen = size if mode == "whole" else side if mode == "resize" else min(size, side)
    passes = len(list(window_spans(size, side, side))) ** 2 if mode == "tiles" else 1
    return passes * patch_tokens(seen, seen, config.patch_size)
