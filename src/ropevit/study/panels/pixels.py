"""Labels every pixel of images: the model's output, prediction whole, in tiles or resized, and mean IoU."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from ropevit.data.canvas import CanvasSettings
from ropevit.data.crops import premultiply, resample
from ropevit.models.vit import ViT
from ropevit.study.panels.base import Transform
from ropevit.tasks.evaluation.inference_modes import InferenceMode, window_spans


def pixel_logits(model: ViT, images: Float[Tensor, "B c H W"]) -> Float[Tensor, "B L H W"]:
    """Apply the head to every patch token, and rearrange its outputs to the pixels of the patch."""
    patch = model.config.patch_size
    tokens = model.forward_features(images)[:, model.num_prefix_tokens :]
    h, w = images.shape[2] // patch, images.shape[3] // patch
    return F.pixel_shuffle(model.head(tokens).transpose(1, 2).unflatten(2, (h, w)), patch)


def predict_pixels(model: ViT, images: Float[Tensor, "B c S S"], mode: InferenceMode = "whole") -> Int[Tensor, "B S S"]:
    """Predict the label of every pixel of square images.

    Args:
        model: A model of `pixel_logits`.
        images: Normalized images.
        mode: `whole`, in `tiles` of the training size, or after a `resize` to it, whose logits are resized back.
    """
    size, side = images.shape[-1], model.config.img_size[0]
    if mode == "tiles" and size > side:
        return predict_tiles(images, side, lambda tiles: pixel_logits(model, tiles).argmax(1))
    if mode == "resize" and size != side:
        small = F.interpolate(images, (side, side), mode="bicubic", antialias=True, align_corners=False)
        logits = F.interpolate(pixel_logits(model, small), (size, size), mode="bilinear", align_corners=False)
        return logits.argmax(1)
    return pixel_logits(model, images).argmax(1)


def predict_tiles(images: Float[Tensor, "B c H H"], side: int, label: Transform) -> Int[Tensor, "B H H"]:
    """Label images tile by tile; if a side is not a multiple of the tile's, the last tile overlaps and overrides.

    Args:
        images: Square images, no smaller than a tile.
        side: Side of a tile in pixels.
        label: Labels the pixels of images.
    """
    size = images.shape[-1]
    spans = list(window_spans(size, side, side))
    tiles = [(y, x) for y in spans for x in spans]
    labeled = torch.empty(len(images), size, size, dtype=torch.long, device=images.device)
    found = label(torch.cat([images[:, :, y, x] for y, x in tiles])).split(len(images))
    for (y, x), tile in zip(tiles, found, strict=True):
        labeled[:, y, x] = tile
    return labeled


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


def downsample_items(images: Tensor, settings: CanvasSettings) -> Tensor:
    """Downsample items to the largest size at which they are pasted, so that pasting does not alias.

    Items with an alpha channel are premultiplied by it.
    """
    near = round(settings.item_size * settings.jitter)
    images = premultiply(images) if images.shape[1] == 4 else images
    if images.shape[-1] <= near:
        return images
    return torch.cat([resample(part, near).round().to(torch.uint8) for part in images.split(512)])
