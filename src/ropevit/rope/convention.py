"""Rotation conventions of model families (positions, axes, pair layout), and reordering of their weights to ours.

Inside this package all models rotate the same pairs: channels 2p and 2p + 1, the first half of the pairs along x.
Weights of a family with other pairs or axes are reordered when they are read, and back when they are written.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

Axes = Literal["xy", "yx"]
Pairs = Literal["interleaved", "halves"]
Coordinates = Literal["index", "reference", "each_side", "longer_side", "shorter_side"]


@dataclass(frozen=True, kw_only=True)
class RopeConvention:
    """Convention of a family of models; the default is this package's own, that of the paper.

    The base of the frequencies is not part of it: it is `rope_theta` of a model's config. Class and register tokens are
    never rotated.

    Raises:
        ValueError: If a field has another value than those listed, or the reference grid does not fit the coordinates.
    """

    axes: Axes = "xy"
    """Axes of the first and of the second half of the pairs, in the family's weights; x is the column, y the row."""
    pairs: Pairs = "interleaved"
    """Channels of pair p in the family's weights: interleaved 2p and 2p + 1, halves p and p + D/2."""
    coordinates: Coordinates = "index"
    """Position of a patch along an axis: its index; its index, rescaled to a reference grid; or its center, from -1 to
    1 along each side (or along the longer or shorter one), times 2 pi."""
    offset: float = 0.0
    """Added to the index of a patch, in patches."""
    reference_grid: tuple[int, int] | None = None
    """Rows and columns of the reference grid, with coordinates="reference"."""

    def __post_init__(self):
        for field, allowed in (("axes", Axes), ("pairs", Pairs), ("coordinates", Coordinates)):
            if getattr(self, field) not in get_args(allowed):
                raise ValueError(
                    f"got {field}={getattr(self, field)!r}; expected one of {', '.join(get_args(allowed))}"
                )
        if not math.isfinite(self.offset):
            raise ValueError(f"got offset={self.offset}; expected a finite number of patches")
        grid = self.reference_grid
        if grid is not None:
            object.__setattr__(self, "reference_grid", tuple(grid))
        if (grid is not None) != (self.coordinates == "reference") or (grid and (len(grid) != 2 or min(grid) < 1)):
            raise ValueError(
                f"got reference_grid={grid} with coordinates={self.coordinates!r}; expected rows and columns, above 0, "
                "with 'reference' alone"
            )

    @property
    def permutes_channels(self) -> bool:
        """Whether the family's weights have another order of channels than ours."""
        return (self.axes, self.pairs) != ("xy", "interleaved")

    @property
    def transforms_positions(self) -> bool:
        """Whether positions differ from the indices of the patches."""
        return self.coordinates != "index" or self.offset != 0

    def rotary_positions(
        self, positions: Float[Tensor, "*B N 2"], grid: Float[Tensor, "*b 2"]
    ) -> Float[Tensor, "*B N 2"]:
        """Compute the positions that are multiplied by the frequencies.

        Args:
            positions: Column and row of each patch, counted from 0.
            grid: Columns and rows of its image, in patches.
        """
        shifted = positions + self.offset
        if self.coordinates == "index":
            return shifted if self.offset else positions
        if self.reference_grid is not None:
            rows, columns = self.reference_grid
            return shifted / grid * torch.stack([grid.new_full((), columns), grid.new_full((), rows)])
        return 2 * math.pi * (2 * ((shifted + 0.5) / self._side(grid)) - 1)

    def patch_positions(
        self, positions: Float[Tensor, "*B N 2"], grid: Float[Tensor, "*b 2"]
    ) -> Float[Tensor, "*B N 2"]:
        """Compute the positions in patches: one step from a patch to the next, with the origin of `rotary_positions`.

        Args:
            positions: Column and row of each patch, counted from 0.
            grid: Columns and rows of its image, in patches.
        """
        patches = positions + self.offset
        if self.coordinates in ("index", "reference"):
            return patches
        return patches + 0.5 - self._side(grid) / 2

    def _side(self, grid: Float[Tensor, "*b 2"]) -> Float[Tensor, "*b _"]:
        """Return the number of patches by which the centers are divided."""
        if self.coordinates == "each_side":
            return grid
        return grid.amax(-1, keepdim=True) if self.coordinates == "longer_side" else grid.amin(-1, keepdim=True)

    def step(self, grid: tuple[int, int]) -> Float[Tensor, "2"]:
        """Return by how much the position grows from a patch to the next, along x and y, on a grid of rows and columns.

        Frequencies times the step are in radians per patch.
        """
        corner = self.rotary_positions(
            torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([float(grid[1]), float(grid[0])])
        )
        return corner[1] - corner[0]

    def channel_order(self, channels: int) -> Int[Tensor, "D"]:
        """Return for each channel of a head in our order the channel in the family's.

        >>> RopeConvention(axes="yx", pairs="halves").channel_order(8).tolist()
        [2, 6, 3, 7, 0, 4, 1, 5]

        Args:
            channels: Channels of a head, D.

        Raises:
            ValueError: If they are not a multiple of 4.
        """
        if channels < 4 or channels % 4:
            raise ValueError(f"got {channels} channels a head; expected a multiple of 4, half of the pairs for x and y")
        pairs = torch.arange(channels // 2)
        if self.axes == "yx":
            pairs = pairs.roll(channels // 4)
        if self.pairs == "interleaved":
            return torch.stack([2 * pairs, 2 * pairs + 1], dim=-1).flatten()
        return torch.stack([pairs, pairs + channels // 2], dim=-1).flatten()

    def reorder(self, rows: Float[Tensor, "rows *C"], channels: int, *, back: bool = False) -> Float[Tensor, "rows *C"]:
        """Reorder the rows of a query or key projection from the family's order of channels to ours, bit for bit.

        >>> q_proj.weight.copy_(convention.reorder(theirs.q_proj.weight, channels=64))

        Args:
            rows: Weight (A D, C) or bias (A D) of the projection, or the D weights of a norm of queries or keys.
            channels: Channels of a head, D.
            back: From our order to the family's instead.

        Raises:
            ValueError: If the rows are not those of whole heads.
        """
        if rows.ndim < 1 or rows.shape[0] % channels:
            raise ValueError(f"got {tuple(rows.shape)} to reorder; expected rows of heads of {channels} channels")
        order = self.channel_order(channels)
        order = order.argsort() if back else order
        return rows.unflatten(0, (-1, channels))[:, order.to(rows.device)].flatten(0, 1)


class RopeFamily(NamedTuple):
    """Rotation of a family of models."""

    label: str
    """Name of the family in tables."""
    convention: RopeConvention
    """Convention of its positions and pairs; the reference grid is that of one of its models."""
    theta: float
    """Base of the frequencies."""


#: Families whose weights rotate queries and keys in two dimensions, by name.
#: Source: Heo et al. 2024 (arXiv:2403.13298), Siméoni et al. 2025 (arXiv:2508.10104), Fang et al. 2023
#: (arXiv:2303.11331), Bolya et al. 2025 (arXiv:2504.13181); timm's vit_*_patch16_rope_reg*_gap_256.
ROPE_FAMILIES: dict[str, RopeFamily] = {
    "rope_vit": RopeFamily("RoPE-ViT, RoPE-Axial", RopeConvention(), 100.0),
    "dinov3": RopeFamily("DINOv3", RopeConvention(axes="yx", pairs="halves", coordinates="each_side"), 100.0),
    "eva02": RopeFamily("EVA-02", RopeConvention(axes="yx", coordinates="reference", reference_grid=(16, 16)), 10000.0),
    "pe": RopeFamily(
        "Perception Encoder", RopeConvention(offset=1.0, coordinates="reference", reference_grid=(24, 24)), 10000.0
    ),
    "timm_rope": RopeFamily(
        "timm `vit_*_rope_reg*`",
        RopeConvention(axes="yx", coordinates="reference", reference_grid=(16, 16)),
        10000.0,
    ),
}
