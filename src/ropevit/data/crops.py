"""Images of the `zoom` panel: the same scene at different resolutions, and random crops for training."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from ropevit.data.canvas import muted
from ropevit.data.rng import uniform
from ropevit.device import to_device

#: Normalization of a study's images: (pixel / 255 - MEAN) / STD, the same for all channels.
MEAN, STD = 0.5, 0.25


@dataclass(frozen=True, kw_only=True)
class CropSettings:
    """Distribution of random training crops."""

    smallest: float = 0.08
    """Minimum fraction of the image's area."""
    largest: float = 1.0
    """Maximum fraction of the image's area."""
    distribution: Literal["uniform", "log"] = "log"
    """Draw the area or its logarithm uniformly; `log` gives more small crops, hence larger objects."""
    stretch: float = 4 / 3
    """Maximum ratio of width to height, and of height to width."""
    flip: bool = True
    """Flip half of the crops horizontally."""

    def __post_init__(self) -> None:
        if not 0 < self.smallest <= self.largest <= 1:
            raise ValueError(
                f"got crops of {self.smallest} to {self.largest} of the area; expected 0 < smallest <= largest <= 1"
            )
        if self.distribution not in ("uniform", "log"):
            raise ValueError(f"got crop distribution {self.distribution!r}; choose uniform or log")
        if self.stretch < 1:
            raise ValueError(f"got stretch={self.stretch}; expected 1 or more")


def random_boxes(count: int, settings: CropSettings, generator: torch.Generator) -> Float[Tensor, "B 4"]:
    """Draw random crop boxes inside the image.

    Returns:
        Center x, center y, half width, half height, in units in which the image spans -1 to 1; a negative half width
        means a flipped crop.
    """
    if settings.distribution == "log":
        area = uniform(count, math.log(settings.smallest), math.log(settings.largest), generator).exp()
    else:
        area = uniform(count, settings.smallest, settings.largest, generator)
    ratio = uniform(count, -math.log(settings.stretch), math.log(settings.stretch), generator).exp()
    half = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], dim=1).clamp(max=1)
    center = (1 - half) * (2 * torch.rand(count, 2, generator=generator) - 1)
    if settings.flip:
        half[:, 0] *= 1 - 2 * torch.randint(2, (count,), generator=generator)
    return torch.cat([center, half], dim=1)


def crop_and_resize(
    images: UInt8[Tensor, "B c H W"], boxes: Float[Tensor, "B 4"], size: int
) -> Float[Tensor, "B c size size"]:
    """Crop boxes out of images and resize them, by sampling at least twice as densely and averaging.

    Args:
        images: One image for each box.
        boxes: From `random_boxes`.
        size: Side of the result in pixels.

    Returns:
        Pixels from 0 to 255 in float32.
    """
    dense = max(2, math.ceil(max(images.shape[2:]) / size))
    boxes = to_device(boxes, images.device)
    transform = torch.zeros(len(boxes), 2, 3, device=images.device)
    transform[:, 0, 0], transform[:, 1, 1] = boxes[:, 2], boxes[:, 3]
    transform[:, :, 2] = boxes[:, :2]
    grid = F.affine_grid(transform, [len(boxes), 1, dense * size, dense * size], align_corners=False)
    samples = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    return F.avg_pool2d(samples, dense)


def random_crops(
    images: UInt8[Tensor, "B c H W"], size: int, settings: CropSettings, generator: torch.Generator
) -> Float[Tensor, "B c size size"]:
    """Take one random crop of each image, resized to `size` x `size` pixels, with values from 0 to 255."""
    return crop_and_resize(images, random_boxes(len(images), settings, generator), size)


def resample(images: Tensor, size: int) -> Float[Tensor, "B c size size"]:
    """Resize images to `size` x `size` pixels (bicubic, antialiased), with values from 0 to 255."""
    if images.shape[2:] == (size, size):
        return images.float()
    resized = F.interpolate(images.float(), (size, size), mode="bicubic", antialias=True, align_corners=False)
    return resized.clamp(0, 255)


def normalize(images: Tensor) -> Tensor:
    """Normalize pixels from 0 to 255 with MEAN and STD."""
    return (images.float() / 255 - MEAN) / STD


def premultiply(images: UInt8[Tensor, "N 4 H W"]) -> UInt8[Tensor, "N 4 H W"]:
    """Multiply the colors by the alpha channel, after which images may be resized and pasted linearly."""
    colors = (images[:, :3].float() * images[:, 3:].float() / 255).round().to(torch.uint8)
    return torch.cat([colors, images[:, 3:]], 1)


def draw_gradients(count: int, generator: torch.Generator) -> Float[Tensor, "B 3 3 3"]:
    """Draw the colors of smooth backgrounds at 3 x 3 points, from 0 to 255."""
    return 255 * (0.1 + 0.6 * muted(torch.rand(count, 3, 3, 3, generator=generator)))


def on_gradients(images: Float[Tensor, "B 4 s s"], colors: Float[Tensor, "B 3 3 3"]) -> Float[Tensor, "B 3 s s"]:
    """Put premultiplied images on smooth color gradients, which look the same at every resolution.

    Args:
        images: Colors multiplied by alpha, and alpha, from 0 to 255.
        colors: Of the background at the corners, the middles of the sides and the center.

    Returns:
        Pixels from 0 to 255.
    """
    size = images.shape[-2:]
    shade = F.interpolate(to_device(colors, images.device), size, mode="bilinear", align_corners=True)
    return images[:, :3] + (1 - images[:, 3:] / 255) * shade
