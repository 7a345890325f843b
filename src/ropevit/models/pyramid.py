"""A pyramid of maps from the one resolution of a ViT."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

#: Scales that a level can have, over the map of patches.
SCALES = (4.0, 2.0, 1.0, 0.5)


@dataclass(frozen=True, kw_only=True)
class PyramidConfig:
    """Which maps are made of a ViT's, and how.

    Raises:
        ValueError: If a field is out of range.
    """

    scales: tuple[float, ...] = SCALES
    """Size of each map over that of the patches: 4, 2, 1 or 0.5, the finest first."""
    channels: int | None = 256
    """Channels of every map, by a 1x1 and a 3x3 convolution after a transposed one that halves those of the tokens at
    each doubling (ViTDet); None keeps the channels of the tokens, without these convolutions (BEiT with UperNet)."""
    norm: Literal["layer", "batch"] = "layer"
    """What follows the convolutions: a norm over the channels of each cell, or over the batch."""
    top: bool = False
    """Add a last map with every second cell of the one before (p6)."""

    def __post_init__(self):
        object.__setattr__(self, "scales", tuple(float(scale) for scale in self.scales))
        fine = [scale for scale in SCALES if scale in self.scales]
        if not self.scales or fine != list(self.scales):
            raise ValueError(f"got scales={self.scales}; expected some of {SCALES}, in this order, each once")
        if self.channels is not None and self.channels < 1:
            raise ValueError(f"got channels={self.channels}; expected at least 1, or None to keep those of the tokens")
        if self.norm not in ("layer", "batch"):
            raise ValueError(f"got norm={self.norm!r}; expected layer or batch")

    def strides(self, patch_size: int) -> tuple[int, ...]:
        """Give the stride of each map in pixels.

        Raises:
            ValueError: If it is no whole number.
        """
        if any(patch_size % scale for scale in self.scales):
            raise ValueError(f"got scales={self.scales} with patches of {patch_size}; the strides are no whole pixels")
        strides = tuple(int(patch_size / scale) for scale in self.scales)
        return (*strides, 2 * strides[-1]) if self.top else strides


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of each cell of a map.

    Args:
        channels: Channels of the map.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """Normalise each cell alone."""
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Level(nn.Module):
    """One map of the pyramid.

    Args:
        width: Channels of the tokens, C.
        scale: Size of the map over that of the patches.
        config: The pyramid.
    """

    def __init__(self, width: int, scale: float, config: PyramidConfig):
        super().__init__()
        self.resize, found = resizing(width, scale, config)
        self.reduce = self.smooth = None
        self.channels = found
        if config.channels is not None:
            self.channels = config.channels
            self.reduce = convolution(found, self.channels, 1, config)
            self.smooth = convolution(self.channels, self.channels, 3, config)

    def forward(
        self, x: Float[Tensor, "B C h w"], valid: Bool[Tensor, "B h2 w2"] | None = None
    ) -> Float[Tensor, "B C2 h2 w2"]:
        """Resize a map, and bring it to the pyramid's channels.

        Args:
            x: Map of patch tokens.
            valid: Which cells of the result are image; the convolution over neighbours sees zeros elsewhere. None
                lets it see all.
        """
        x = self.resize(x)
        if self.reduce is None or self.smooth is None:
            return x
        x = self.reduce(x)
        return self.smooth(x if valid is None else zero_padding(x, valid))


class SimpleFeaturePyramid(nn.Module):
    """The simple feature pyramid of ViTDet, from one map of a ViT or from one for each level.

    Args:
        width: Channels of the tokens, C.
        config: What to build.

    Source: Li et al. 2022 (arXiv:2203.16527), section 3; Bao et al. 2021 (arXiv:2106.08254) for `channels=None`.
    """

    def __init__(self, width: int, config: PyramidConfig):
        super().__init__()
        self.top = config.top
        levels = [Level(width, scale, config) for scale in config.scales]
        self.levels = nn.ModuleList(levels)
        found = [level.channels for level in levels]
        self.channels = (*found, found[-1]) if self.top else tuple(found)

    def forward(
        self, taps: Sequence[Float[Tensor, "B C h w"]], valid: Sequence[Bool[Tensor, "B _ _"] | None]
    ) -> list[Float[Tensor, "B _ _ _"]]:
        """Make the maps.

        Args:
            taps: Maps of patch tokens: one for each level, or one for all.
            valid: For each level, as `Level` takes it.
        """
        taps = list(taps) * len(self.levels) if len(taps) == 1 else taps
        maps = [level(x, keep) for level, x, keep in zip(self.levels, taps, valid, strict=True)]
        return [*maps, F.max_pool2d(maps[-1], 1, 2)] if self.top else maps


def zero_padding(x: Float[Tensor, "B C h w"], valid: Bool[Tensor, "B h w"]) -> Float[Tensor, "B C h w"]:
    """Set what is no image to zero."""
    return x.masked_fill(~valid.unsqueeze(1), 0.0)


def resizing(width: int, scale: float, config: PyramidConfig) -> tuple[nn.Module, int]:
    """Build what resizes a map of tokens, and say how many channels it leaves."""
    if scale < 1:
        return nn.MaxPool2d(2), width
    if scale == 1:
        return nn.Identity(), width
    twice, again = (width // 2, width // 4) if config.channels else (width, width)
    doubled = nn.ConvTranspose2d(width, twice, 2, 2)
    if scale == 2:
        return doubled, twice
    return nn.Sequential(doubled, make_norm(twice, config), nn.GELU(), nn.ConvTranspose2d(twice, again, 2, 2)), again


def convolution(before: int, after: int, side: int, config: PyramidConfig) -> nn.Sequential:
    """Build a convolution that keeps the size of a map, and its norm."""
    return nn.Sequential(
        nn.Conv2d(before, after, side, padding=side // 2, bias=False),
        make_norm(after, config),
    )


def make_norm(channels: int, config: PyramidConfig) -> nn.Module:
    """Build the norm that the config names."""
    return LayerNorm2d(channels) if config.norm == "layer" else nn.BatchNorm2d(channels)
