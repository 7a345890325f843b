"""Canvases of the `field` panel: items of a fixed scale on a background; larger canvases hold more items."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from ropevit.data.labelled import LabelledImages
from ropevit.data.rng import uniform

#: With `cutout`, pixels of an item darker than this (0 to 255) are its background.
_DARK = 20
#: Distance in pixels between random values of the background's brightness, interpolated between them.
_SHADE_CELL = 16


@dataclass(frozen=True, kw_only=True)
class CanvasSettings:
    """How canvases are filled, independent of their size."""

    item_size: int = 16
    """Side of an item in pixels, before random scaling."""
    jitter: float = 1.25
    """Items are scaled by a random factor from 1/jitter to jitter."""
    turn: float = 15.0
    """Maximum random rotation of an item, in degrees to either side."""
    density: float = 0.8
    """Items per item_size x item_size pixels; later ones hide earlier ones."""
    noise: float = 0.06
    """Standard deviation of the pixel noise; white is 1."""
    cutout: bool = True
    """Paste only an item's own pixels (dark ones are its background); False pastes the whole square."""

    def __post_init__(self) -> None:
        if self.item_size < 2 or self.density <= 0 or self.noise < 0:
            raise ValueError(
                f"got item_size={self.item_size}, density={self.density}, noise={self.noise}; "
                "expected item_size of 2 or more, a positive density and a noise of 0 or more"
            )
        if self.jitter < 1 or not 0 <= self.turn <= 180:
            raise ValueError(f"got jitter={self.jitter}, turn={self.turn}; expected jitter >= 1 and 0 to 180 degrees")

    @property
    def tile(self) -> int:
        """Side in pixels of a square that holds an item at any scale and rotation."""
        return math.ceil(self.item_size * self.jitter * 1.2)

    def items(self, size: int) -> int:
        """Return the number of items on a canvas; centres may lie half an item outside, to fill the edges evenly."""
        return max(1, round(self.density * (size / self.item_size + 1) ** 2))


def pixel_labels(data: LabelledImages) -> tuple[tuple[str, ...], Tensor]:
    """Return the names of the pixel labels, and the label of each image's foreground.

    Label 0 is the background; then come the groups of the classes, or the classes where the set has no groups.
    """
    groups = data.groups or data.classes
    names = tuple(dict.fromkeys(groups))
    label = torch.tensor([1 + names.index(group) for group in groups], device=data.labels.device)
    return ("background", *names), label[data.labels]


def paint_canvases(
    images: UInt8[Tensor, "M c s s"],
    labels: Int[Tensor, "M"],
    size: int,
    count: int,
    settings: CanvasSettings,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "B c size size"], Int[Tensor, "B size size"]]:
    """Scatter random items over canvases.

    Args:
        images: Items to choose from, not much larger than they are pasted (bilinear sampling would skip pixels);
            each label is drawn equally often.
        labels: Label of each item's pixels, from 1; 0 is the background.
        size: Side of a canvas in pixels.
        count: Number of canvases, B.
        settings: How canvases are filled.
        generator: Source of every random choice, on the CPU.

    Returns:
        Pixels from 0 to 255, and the label of each pixel.
    """
    number, tile, device = settings.items(size), settings.tile, images.device
    rarity = 1 / labels.bincount().cpu()[labels.cpu()]  # every label is drawn equally often
    chosen = torch.multinomial(rarity, count * number, replacement=True, generator=generator).to(device)
    colours, cover = (x.unflatten(0, (count, number)) for x in _crop_items(images[chosen], settings, generator))
    chosen_labels = labels[chosen].unflatten(0, (count, number))
    margin = settings.item_size // 2  # largest distance of an item's centre from the canvas
    offset = torch.randint(-margin, size + margin, (count, number, 2), generator=generator).to(device) + tile // 2
    canvas = (
        background(count, images.shape[1], size + 2 * tile, settings, generator).to(device).movedim(1, -1).contiguous()
    )
    truth = torch.zeros(count, size + 2 * tile, size + 2 * tile, dtype=torch.long, device=device)
    each, reach = torch.arange(count, device=device)[:, None, None], torch.arange(tile, device=device)
    for item in range(number):
        at = each, offset[:, item, 0, None, None] + reach[:, None], offset[:, item, 1, None, None] + reach
        canvas[at] = canvas[at] * (1 - cover[:, item, :, :, None]) + colours[:, item].movedim(1, -1)
        truth[at] = torch.where(cover[:, item] > 0.5, chosen_labels[:, item, None, None], truth[at])
    inside = slice(tile, tile + size)
    return canvas[:, inside, inside].movedim(-1, 1).contiguous() * 255, truth[:, inside, inside]


def _crop_items(
    images: UInt8[Tensor, "M c s s"], settings: CanvasSettings, generator: torch.Generator
) -> tuple[Float[Tensor, "M c t t"], Float[Tensor, "M t t"]]:
    """Scale, rotate, mirror and darken items at random, each in the middle of an empty tile.

    Returns:
        Colours from 0 to 1, premultiplied by the cover (alpha), and the cover: 1 on the item, 0 elsewhere.
    """
    count = len(images)
    side = settings.item_size * uniform(count, -math.log(settings.jitter), math.log(settings.jitter), generator).exp()
    angle = torch.deg2rad(uniform(count, -settings.turn, settings.turn, generator))
    mirror = 1 - 2 * torch.randint(2, (count,), generator=generator)
    light = uniform(count, 0.6, 1.0, generator).to(images.device)
    matrix = torch.stack([mirror * angle.cos(), -mirror * angle.sin(), angle.sin(), angle.cos()], 1).unflatten(
        1, (2, 2)
    )
    transform = F.pad(matrix * (settings.tile / side)[:, None, None], (0, 1)).to(images.device)
    pixels = images.float()
    solid = (pixels.amax(1, keepdim=True) > _DARK).float() if settings.cutout else torch.ones_like(pixels[:, :1])
    grid = F.affine_grid(transform, [count, 1, settings.tile, settings.tile], align_corners=False)
    samples = F.grid_sample(torch.cat([pixels / 255 * solid, solid], 1), grid, align_corners=False)
    return samples[:, :-1] * light[:, None, None, None], samples[:, -1]


def background(
    count: int, channels: int, size: int, settings: CanvasSettings, generator: torch.Generator
) -> Float[Tensor, "B c size size"]:
    """Draw a smoothly shaded, noisy background whose statistics do not depend on its size; values about 0.1 to 0.7."""
    cells = math.ceil(size / _SHADE_CELL) + 1
    coarse = 0.1 + 0.6 * torch.rand(count, channels, cells, cells, generator=generator)
    shade = F.interpolate(coarse, scale_factor=_SHADE_CELL, mode="bilinear", align_corners=False)[..., :size, :size]
    return shade + settings.noise * torch.randn(count, channels, size, size, generator=generator)
