"""A small detector, maps of two images of 64 x 80 pixels for it, and objects in them."""

import torch

from ropevit.tasks.detect.boxes import make_target
from ropevit.tasks.detect.config import DinoConfig
from ropevit.tasks.detect.dino import Dino

CHANNELS = (8, 12, 16)
SHAPES = ((8, 10), (4, 5), (2, 3))
CLASSES = 5


def small_config(**changes):
    sizes = {"width": 32, "heads": 4, "points": 2, "mlp_width": 48, "encoder_layers": 2, "decoder_layers": 2}
    return DinoConfig(**({"classes": CLASSES, "queries": 12, "denoising": 6} | sizes | changes))


def small_detector(stir=0.1, **changes):
    """Make a small detector, every weight moved away from where it starts, as heads start with zeros."""
    model = Dino(small_config(**changes), CHANNELS)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(stir * torch.randn_like(weight))
    return model


def small_maps(images=2):
    return [torch.randn(images, c, h, w) for c, (h, w) in zip(CHANNELS, SHAPES, strict=True)]


def objects(*labels):
    """Return an image of 64 x 80 pixels with objects of such classes, each at another place."""
    boxes = [[4 + 7 * i, 3 + 5 * i, 30 + 6 * i, 20 + 8 * i] for i in range(len(labels))]
    wanted = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return make_target(torch.tensor(labels, dtype=torch.int64), wanted, (64, 80), CLASSES)
