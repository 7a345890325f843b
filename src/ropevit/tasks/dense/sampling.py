"""Deformable attention over several maps: their tokens and centers of cells, and weighted means of points of them."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


def cell_centers(height: int, width: int, device: torch.device) -> Float[Tensor, "N 2"]:
    """Return the center (x, y) of each cell of a map, in cells, row-major."""
    y, x = (torch.arange(count, device=device) + 0.5 for count in (height, width))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1)


def flatten_maps(maps: Sequence[Tensor]) -> Float[Tensor, "B N C"]:
    """Concatenate the tokens of maps (B, C, h, w), each row-major."""
    return torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1)


def sample_levels(
    values: Float[Tensor, "B N A D"],
    shapes: Sequence[tuple[int, int]],
    places: Float[Tensor, "B Q A L M 2"],
    weights: Float[Tensor, "B Q A L M"],
) -> Float[Tensor, "B Q C"]:
    """Return the weighted sum of M points of each of L maps for every query and head, interpolated bilinearly.

    A traced program takes any number of images and maps of any size.

    Args:
        values: Tokens of all maps, one map after the other, each row-major.
        shapes: Rows and columns of each map.
        places: (x, y) of each point, as fractions of width and height; outside, values are zero.
        weights: Weight of each point.

    Source: Zhu et al. 2020 (arXiv:2010.04159), Eq. 3.
    """
    heads = values.shape[2]
    maps = values.permute(0, 2, 3, 1).flatten(0, 1).split([h * w for h, w in shapes], dim=2)
    grids = (2 * places - 1).transpose(1, 2).flatten(0, 1)
    sampled = [
        F.grid_sample(x.unflatten(2, shape), grids[:, :, level], align_corners=False)
        for level, (x, shape) in enumerate(zip(maps, shapes, strict=True))
    ]
    flat = weights.transpose(1, 2).flatten(0, 1).flatten(2)[:, None]
    summed = (torch.stack(sampled, dim=-2).flatten(-2) * flat).sum(-1)
    return summed.unflatten(0, (-1, heads)).flatten(1, 2).transpose(1, 2)


class LevelSampling(nn.Module):
    """`sample_levels` as a module that replaces the `attn` of transformers' deformable attention in an export."""

    def forward(
        self,
        values: Tensor,
        _shapes: Tensor,
        shapes: Sequence[tuple[int, int]],
        _starts: Tensor,
        places: Tensor,
        *weights_and_step: Any,
    ) -> Tensor:
        """Return the samples (B, Q, C); arguments as transformers gives them."""
        return sample_levels(values, shapes, places, weights_and_step[0])
