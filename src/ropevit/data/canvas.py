"""Canvases of the panels `field` and `far`: items of a fixed scale on a background; larger canvases hold more items."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from ropevit.data.labeled import LabeledImages
from ropevit.data.rng import uniform
from ropevit.device import to_device

#: With `cutout`, pixels of an item darker than this (0 to 255) are its background.
_DARK = 20
#: Distance in pixels between random values of the background's brightness, interpolated between them.
_SHADE_CELL = 16


@dataclass(frozen=True, kw_only=True)
class CanvasSettings:
    """Distribution of the items on a canvas, independent of its size."""

    item_size: int = 16
    """Side of an item in pixels, before random scaling."""
    jitter: float = 1.25
    """Items are scaled by a random factor from 1/jitter to jitter."""
    max_rotation: float = 15.0
    """Maximum random rotation of an item, in degrees to either side."""
    density: float = 0.8
    """Items per item_size x item_size pixels; later ones hide earlier ones."""
    noise: float = 0.06
    """Standard deviation of the pixel noise; white is 1."""
    cutout: bool = True
    """Paste only an item's own pixels (dark ones are its background); False pastes the whole square. Images with an
    alpha channel are always pasted by it."""

    def __post_init__(self) -> None:
        if self.item_size < 2 or self.density <= 0 or self.noise < 0:
            raise ValueError(
                f"got item_size={self.item_size}, density={self.density}, noise={self.noise}; "
                "expected item_size of 2 or more, a positive density and a noise of 0 or more"
            )
        if self.jitter < 1 or not 0 <= self.max_rotation <= 180:
            raise ValueError(
                f"got jitter={self.jitter}, max_rotation={self.max_rotation}; expected jitter >= 1 and 0 to 180 degrees"
            )

    @property
    def tile(self) -> int:
        """Side in pixels of a square that holds an item at any scale and rotation."""
        return math.ceil(self.item_size * self.jitter * 1.2)

    def items(self, size: int) -> int:
        """Return the number of items on a canvas; centers may lie half an item outside, to fill the edges evenly."""
        return max(1, round(self.density * (size / self.item_size + 1) ** 2))


def pixel_labels(data: LabeledImages) -> tuple[tuple[str, ...], Tensor]:
    """Return the names of the pixel labels, and the label of each image's foreground.

    Label 0 is the background; then come the groups of the classes, or the classes where the set has no groups. Labels
    are on the CPU, where items are drawn.
    """
    grouped = data.grouped()
    return ("background", *grouped.classes), 1 + grouped.labels.cpu()


def paint_canvases(
    images: UInt8[Tensor, "M c s s"],
    labels: Int[Tensor, "M"],
    size: int,
    count: int,
    settings: CanvasSettings,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "B k size size"], Int[Tensor, "B size size"]]:
    """Scatter random items over canvases.

    Args:
        images: Items to choose from, not much larger than they are pasted (bilinear sampling would skip pixels); each
            label is drawn equally often. With 4 channels: colors premultiplied by the alpha channel, and alpha.
        labels: Label of each item's pixels, from 1, on the CPU; 0 is the background.
        size: Side of a canvas in pixels.
        count: Number of canvases, B.
        settings: How canvases are filled.
        generator: Source of every random choice, on the CPU.

    Returns:
        Pixels from 0 to 255 (without alpha channel), and the label of each pixel.
    """
    canvas, truth = _scatter_items(images, labels, size, count, settings, generator)
    inside = slice(settings.tile, settings.tile + size)
    return canvas[:, inside, inside].movedim(-1, 1).contiguous() * 255, truth[:, inside, inside]


def paint_pairs(
    items: tuple[UInt8[Tensor, "M c s s"], Int[Tensor, "M"]],
    size: int,
    count: int,
    settings: CanvasSettings,
    generator: torch.Generator,
    apart: int = 0,
) -> tuple[Float[Tensor, "B k size size"], Int[Tensor, "B size size"], Bool[Tensor, "B size size"]]:
    """Paint canvases with two marked items among others; the mark of each has the label of the *other*.

    A mark is a bright disc behind the item. The labels of the two items are drawn independently, so a view of one of
    them gives no information about the label of its mark.

    Args:
        items: Images (uint8) and the label of each.
        size: Side of a canvas in pixels.
        count: Number of canvases, B.
        settings: How canvases are filled.
        generator: Source of every random choice, on the CPU.
        apart: Least distance of the two items' centers in pixels, along x or along y.

    Returns:
        Pixels from 0 to 255, the label of each pixel, and the visible pixels of the marks.

    Raises:
        ValueError: If the canvas is too small for two items so far apart.
    """
    (images, labels), tile, device = items, settings.tile, items[0].device
    canvas, truth = _scatter_items(images, labels, size, count, settings, generator)
    marks = torch.zeros_like(truth)
    chosen = _draw_items(labels, 2 * count, generator)
    items_drawn = images[to_device(chosen, device)]
    colors, cover = (x.unflatten(0, (count, 2)) for x in _crop_items(items_drawn, settings, generator))
    own = to_device(labels[chosen], device).unflatten(0, (count, 2))
    disc, ones = to_device(_disc(tile), device).expand(count, tile, tile), torch.ones_like(own[:, 0])
    corners = to_device(draw_pairs(size, tile, count, max(apart, tile), generator), device) + tile
    for item in range(2):
        bright = disc.unsqueeze(1).expand(-1, colors.shape[2], -1, -1)
        for color, alpha, label, mark in (
            (bright, disc, own[:, 1 - item], ones),
            (colors[:, item], cover[:, item], own[:, item], 0 * ones),
        ):
            _paste(canvas, truth, corners[:, item], color, alpha, label)
            _paste(None, marks, corners[:, item], color, alpha, mark)
    inside = slice(tile, tile + size)
    crop = canvas[:, inside, inside].movedim(-1, 1).contiguous() * 255
    return crop, truth[:, inside, inside], marks[:, inside, inside] > 0


def draw_pairs(
    size: int, tile: int, count: int, apart: int, generator: torch.Generator, tries: int = 64
) -> Int[Tensor, "B 2 2"]:
    """Draw two top left corners (y, x) of tiles inside each canvas, `apart` or more pixels apart along an axis.

    Both corners are uniform over the canvas, given that distance.

    Raises:
        ValueError: If the canvas is too small.
    """
    room = size - tile
    if room < apart:
        raise ValueError(
            f"got a canvas of {size} px for two items of {tile} px, {apart} px apart; expected at least {tile + apart}"
        )
    corners = torch.randint(room + 1, (count, tries, 2, 2), generator=generator)
    far = (corners[:, :, 0] - corners[:, :, 1]).abs().amax(-1) >= apart
    corners[:, -1] = torch.tensor([[0, 0], [room, room]])  # if no try is far enough
    far[:, -1] = True
    return corners[torch.arange(count), far.int().argmax(1)]


def _disc(tile: int) -> Float[Tensor, "t t"]:
    """Return the cover of the mark: 1 inside a circle as wide as a tile, 0 outside."""
    reach = torch.arange(tile) + 0.5 - tile / 2
    return ((reach[:, None] ** 2 + reach**2).sqrt() <= tile / 2).float()


def _draw_items(labels: Int[Tensor, "M"], count: int, generator: torch.Generator) -> Int[Tensor, "count"]:
    """Draw items such that every label is drawn equally often."""
    rarity = 1 / labels.bincount()[labels]
    return torch.multinomial(rarity, count, replacement=True, generator=generator)


def _scatter_items(
    images: Tensor, labels: Tensor, size: int, count: int, settings: CanvasSettings, generator: torch.Generator
) -> tuple[Float[Tensor, "B m m k"], Int[Tensor, "B m m"]]:
    """Paint `paint_canvases` with a margin of a tile on every side: colors from 0 to 1, and labels."""
    number, tile, device = settings.items(size), settings.tile, images.device
    chosen = _draw_items(labels, count * number, generator)
    items = images[to_device(chosen, device)]
    colors, cover = (x.unflatten(0, (count, number)) for x in _crop_items(items, settings, generator))
    chosen_labels = to_device(labels[chosen], device).unflatten(0, (count, number))
    margin = settings.item_size // 2  # largest distance of an item's center from the canvas
    offset = torch.randint(-margin, size + margin, (count, number, 2), generator=generator)
    offset = to_device(offset, device) + tile // 2
    channels = colors.shape[2]
    canvas = to_device(background(count, channels, size + 2 * tile, settings, generator), device)
    canvas = canvas.movedim(1, -1).contiguous()
    truth = torch.zeros(count, size + 2 * tile, size + 2 * tile, dtype=torch.long, device=device)
    for item in range(number):
        _paste(canvas, truth, offset[:, item], colors[:, item], cover[:, item], chosen_labels[:, item])
    return canvas, truth


def _paste(
    canvas: Float[Tensor, "B m m k"] | None,
    truth: Int[Tensor, "B m m"],
    corners: Int[Tensor, "B 2"],
    colors: Float[Tensor, "B k t t"],
    cover: Float[Tensor, "B t t"],
    labels: Int[Tensor, "B"],
) -> None:
    """Paste a tile on each canvas and its labels, in place; corners are (y, x) of the top left pixel."""
    each = torch.arange(len(truth), device=truth.device)[:, None, None]
    reach = torch.arange(cover.shape[-1], device=truth.device)
    at = each, corners[:, 0, None, None] + reach[:, None], corners[:, 1, None, None] + reach
    if canvas is not None:
        canvas[at] = canvas[at] * (1 - cover.unsqueeze(-1)) + colors.movedim(1, -1)
    truth[at] = torch.where(cover > 0.5, labels[:, None, None], truth[at])


def _crop_items(
    images: UInt8[Tensor, "M c s s"], settings: CanvasSettings, generator: torch.Generator
) -> tuple[Float[Tensor, "M k t t"], Float[Tensor, "M t t"]]:
    """Scale, rotate, mirror and darken items at random, each in the middle of an empty tile.

    Returns:
        Colors from 0 to 1, premultiplied by the cover (alpha), and the cover: 1 on the item, 0 elsewhere.
    """
    count = len(images)
    side = settings.item_size * uniform(count, -math.log(settings.jitter), math.log(settings.jitter), generator).exp()
    angle = torch.deg2rad(uniform(count, -settings.max_rotation, settings.max_rotation, generator))
    mirror = 1 - 2 * torch.randint(2, (count,), generator=generator)
    light = to_device(uniform(count, 0.6, 1.0, generator), images.device)
    matrix = torch.stack([mirror * angle.cos(), -mirror * angle.sin(), angle.sin(), angle.cos()], 1).unflatten(
        1, (2, 2)
    )
    transform = to_device(F.pad(matrix * (settings.tile / side)[:, None, None], (0, 1)), images.device)
    grid = F.affine_grid(transform, [count, 1, settings.tile, settings.tile], align_corners=False)
    samples = F.grid_sample(_with_cover(images.float(), settings.cutout), grid, align_corners=False)
    return samples[:, :-1] * light[:, None, None, None], samples[:, -1]


def _with_cover(pixels: Float[Tensor, "M c s s"], cutout: bool) -> Float[Tensor, "M planes s s"]:
    """Return premultiplied colors from 0 to 1 and their cover: the alpha channel, or 1 where a pixel is not dark."""
    if pixels.shape[1] == 4:
        return pixels / 255
    solid = (pixels.amax(1, keepdim=True) > _DARK).float() if cutout else torch.ones_like(pixels[:, :1])
    return torch.cat([pixels / 255 * solid, solid], 1)


def muted(colors: Float[Tensor, "B c h w"]) -> Float[Tensor, "B c h w"]:
    """Halve the saturation of colors, so that items stand out from a random background; gray images are unchanged."""
    return 0.5 * colors + 0.5 * colors.mean(1, keepdim=True)


def background(
    count: int, channels: int, size: int, settings: CanvasSettings, generator: torch.Generator
) -> Float[Tensor, "B c size size"]:
    """Draw a smoothly shaded, noisy background whose statistics do not depend on its size; values about 0.1 to 0.7."""
    cells = math.ceil(size / _SHADE_CELL) + 1
    coarse = 0.1 + 0.6 * muted(torch.rand(count, channels, cells, cells, generator=generator))
    shade = F.interpolate(coarse, scale_factor=_SHADE_CELL, mode="bilinear", align_corners=False)[..., :size, :size]
    return shade + settings.noise * torch.randn(count, channels, size, size, generator=generator)
