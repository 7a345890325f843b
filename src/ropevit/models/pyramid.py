"""Simple feature pyramid: feature maps at several strides from the single resolution of a ViT."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

#: Allowed scales of a level relative to the map of patches.
SCALES = (4.0, 2.0, 1.0, 0.5)


@dataclass(frozen=True, kw_only=True)
class PyramidConfig:
    """Config of a simple feature pyramid.

    Raises:
        ValueError: If a field is out of range.
    """

    scales: tuple[float, ...] = SCALES
    """Scale of each map relative to the map of patches: 4, 2, 1 or 0.5, the finest first."""
    channels: int | None = 256
    """Channels of every map, made by 1x1 and 3x3 convolutions after transposed ones that halve the channels at each
    upsampling (ViTDet); None keeps the channels of the tokens, without these convolutions (BEiT with UperNet)."""
    norm: Literal["layer", "batch"] = "layer"
    """Norm after the convolutions: LayerNorm over channels, or BatchNorm."""
    add_p6: bool = False
    """Add a last map by subsampling the one before (p6)."""

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
        """Return the stride of each map in pixels.

        Raises:
            ValueError: If a stride is not a whole number.
        """
        if any(patch_size % scale for scale in self.scales):
            raise ValueError(f"got scales={self.scales} with patches of {patch_size}; the strides are not whole pixels")
        strides = tuple(int(patch_size / scale) for scale in self.scales)
        return (*strides, 2 * strides[-1]) if self.add_p6 else strides


class LayerNorm2d(nn.Module):
    """LayerNorm over the channels of an NCHW map.

    Args:
        channels: Channels of the map.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """Normalize each position."""
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Level(nn.Module):
    """One level of the pyramid.

    Args:
        width: Channels of the tokens, C.
        scale: Scale relative to the map of patches.
        config: Config of the pyramid.
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
        self, x: Float[Tensor, "B C h w"], pixel_mask: Bool[Tensor, "B h2 w2"] | None = None
    ) -> Float[Tensor, "B C2 h2 w2"]:
        """Resize a map and project it to the pyramid's channels.

        Args:
            x: Map of patch tokens.
            pixel_mask: Mask of the image cells of the result; the 3x3 convolution sees zeros elsewhere; None: all.
        """
        x = self.resize(x)
        if self.reduce is None or self.smooth is None:
            return x
        x = self.reduce(x)
        return self.smooth(x if pixel_mask is None else zero_padding(x, pixel_mask))


class SimpleFeaturePyramid(nn.Module):
    """Simple feature pyramid of ViTDet, from one map of a ViT or from one per level.

    Args:
        width: Channels of the tokens, C.
        config: Config of the pyramid.

    Source: Li et al. 2022 (arXiv:2203.16527), section 3; Bao et al. 2021 (arXiv:2106.08254) for `channels=None`.
    """

    def __init__(self, width: int, config: PyramidConfig):
        super().__init__()
        self.add_p6 = config.add_p6
        levels = [Level(width, scale, config) for scale in config.scales]
        self.levels = nn.ModuleList(levels)
        found = [level.channels for level in levels]
        self.channels = (*found, found[-1]) if self.add_p6 else tuple(found)

    def forward(
        self, features: Sequence[Float[Tensor, "B C h w"]], pixel_masks: Sequence[Bool[Tensor, "B _ _"] | None]
    ) -> list[Float[Tensor, "B _ _ _"]]:
        """Return the maps of the pyramid.

        Args:
            features: Maps of patch tokens: one for each level, or one for all.
            pixel_masks: For each level the mask of its image cells; None for no mask.
        """
        features = list(features) * len(self.levels) if len(features) == 1 else features
        maps = [level(x, keep) for level, x, keep in zip(self.levels, features, pixel_masks, strict=True)]
        return [*maps, F.max_pool2d(maps[-1], 1, 2)] if self.add_p6 else maps


def zero_padding(x: Float[Tensor, "B C h w"], pixel_mask: Bool[Tensor, "B h w"]) -> Float[Tensor, "B C h w"]:
    """Set the cells outside the image to zero."""
    return x.masked_fill(~pixel_mask.unsqueeze(1), 0.0)


def resizing(width: int, scale: float, config: PyramidConfig) -> tuple[nn.Module, int]:
    """Return the layer that resizes a map of tokens, and its output channels."""
    if scale < 1:
        return nn.MaxPool2d(2), width
    if scale == 1:
        return nn.Identity(), width
    twice, again = (width // 2, width // 4) if config.channels else (width, width)
    doubled = nn.ConvTranspose2d(width, twice, 2, 2)
    if scale == 2:
        return doubled, twice
    return nn.Sequential(doubled, _make_norm(twice, config), nn.GELU(), nn.ConvTranspose2d(twice, again, 2, 2)), again


def convolution(before: int, after: int, side: int, config: PyramidConfig) -> nn.Sequential:
    """Return a same-padding convolution followed by a norm."""
    return nn.Sequential(
        nn.Conv2d(before, after, side, padding=side // 2, bias=False),
        _make_norm(after, config),
    )


def _make_norm(channels: int, config: PyramidConfig) -> nn.Module:
    """Return the norm of the config."""
    return LayerNorm2d(channels) if config.norm == "layer" else nn.BatchNorm2d(channels)
