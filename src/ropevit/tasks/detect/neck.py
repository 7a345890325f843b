"""Neck of DINO: projects the backbone's feature maps to one width, and adds coarser ones."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ropevit.tasks.dense.config import GROUPS
from ropevit.tasks.detect.config import DinoConfig


class ConvNorm(nn.Module):
    """A convolution and a GroupNorm.

    Args:
        channels: Channels of the input.
        width: Channels of the output, C.
        size: Side of the kernel; 1 keeps the map's size, 3 halves it.
    """

    def __init__(self, channels: int, width: int, size: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, width, size, stride=1 if size == 1 else 2, padding=size // 2)
        self.norm = nn.GroupNorm(GROUPS, width)

    def forward(self, x: Float[Tensor, "B c h w"]) -> Float[Tensor, "B C h2 w2"]:
        """Return the new map.

        Raises:
            ValueError: If each group of the norm would have a single value.
        """
        x = self.conv(x)
        if x.shape[1] == GROUPS and x.shape[2] * x.shape[3] == 1:
            raise ValueError(
                f"got a map of 1 x 1 cells for width={x.shape[1]}, whose norm would be over single values; use larger "
                f"images, or a width of {2 * GROUPS} or more"
            )
        return self.norm(x)


class Neck(nn.Module):
    """Project feature maps to one width, and add coarser ones, computed from the last map.

    GroupNorm includes the padding in its statistics, as for the published weights.

    Args:
        config: Options of the detector.
        channels: Channels of each of the backbone's maps, the finest first.

    Raises:
        ValueError: If there is no map, or there are more than the detector has levels.
    """

    def __init__(self, config: DinoConfig, channels: Sequence[int]):
        super().__init__()
        if not 1 <= len(channels) <= config.levels:
            raise ValueError(f"got {len(channels)} maps; expected 1 to levels={config.levels}")
        self.channels = tuple(channels)
        extra = [channels[-1], *[config.width] * config.levels][: config.levels - len(channels)]
        self.convs = nn.ModuleList(ConvNorm(count, config.width, 1) for count in channels)
        self.extra_convs = nn.ModuleList(ConvNorm(count, config.width, 3) for count in extra)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return one map (B, C, h, w) per level.

        Args:
            maps: Maps (B, c, h, w), each half as large as the one before.

        Raises:
            ValueError: If the maps have other shapes than expected.
        """
        self.check(maps)
        levels = [conv(x) for conv, x in zip(self.convs, maps, strict=True)]
        coarse = maps[-1]
        for conv in self.extra_convs:
            coarse = conv(coarse)
            levels.append(coarse)
        return levels

    def check(self, maps: Sequence[Tensor]) -> None:
        """Raise ValueError if channels or sizes of the maps are not those expected."""
        shapes = [tuple(x.shape) for x in maps]
        found = tuple(shape[1] if len(shape) == 4 else -1 for shape in shapes)
        if found != self.channels:
            raise ValueError(f"got maps of shapes {shapes}; expected (B, c, h, w) with c = {list(self.channels)}")
        if torch.compiler.is_exporting():  # a tracer cannot prove the sizes for every image
            return
        sides = [
            (high, low) for fine, coarse in pairwise(shapes) for high, low in zip(fine[2:], coarse[2:], strict=True)
        ]
        if any(abs(2 * low - high) > 1 for high, low in sides):
            raise ValueError(f"got maps of shapes {shapes}; expected each to be half as large as the one before")
