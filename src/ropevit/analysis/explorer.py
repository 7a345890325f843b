"""Data of the page's interactive explorer: frequencies of every head, on each grid and with each RoPE scaling."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ropevit.analysis.grouping import short_name
from ropevit.analysis.layers import Grid, RotatedLayer, find_body, rotated_layers, trained_grid
from ropevit.models.swin.attention import WindowAttention
from ropevit.rope import axial_frequencies, grid_positions
from ropevit.rope.scaling import parse_scaling

#: Scaling methods that change frequencies on larger grids; `yarn` has the frequencies of `parts`.
_EXPLORED_SCALING = ("pi", "ntk", "parts")

#: Decimals of a frequency in the page: the angle of an offset of 100 patches is then accurate to 1e-4.
_DECIMALS = 6

#: For each scaling method and grid, in the order of `ExplorerData`: index of each layer in `frequencies`.
Tables = list[list[list[int]]]


@dataclass(frozen=True)
class ExplorerData:
    """Data of the explorer; frequencies that several layers, grids or scaling methods share are stored once."""

    layers: list[str]
    """Names of the layers with RoPE, in order."""
    heads: list[int]
    """Number of heads of each layer."""
    grids: list[Grid]
    """Rows and columns of tokens that attend to each other; the first are those of training."""
    scalings: list[str]
    """Names of scaling methods; the first is "none", the unscaled frequencies."""
    scaling: int
    """Index in `scalings` of the model's own RoPE scaling."""
    tables: Tables
    """Index of each layer in `frequencies`."""
    axial: Tables | None
    """Index of RoPE-Axial's in `frequencies`; None if the model is axial itself."""
    frequencies: list[list[list[list[float]]]]
    """Radians per patch: x, then y; for each head, or once if all heads are identical; for each pair."""
    windows: bool
    """Whether the model uses window attention, so that a grid is a window."""


def explorer(model: nn.Module, grids: Sequence[Grid] = ()) -> ExplorerData:
    """Collect the data of the explorer.

    Args:
        model: A ViT or Swin of this package, or a module that contains one.
        grids: Rows and columns of the other grids; default: 2 and 4 times the trained one.

    Raises:
        ValueError: If no layer has RoPE, or layers differ in their trained grid.
    """
    layers, (rows, columns) = rotated_layers(model), trained_grid(model)
    grids = grids or [(2 * rows, 2 * columns), (4 * rows, 4 * columns)]
    config = find_body(model).config
    scalings = list(dict.fromkeys(["none", *_EXPLORED_SCALING, config.scaling or "none"]))
    pool, theta = FrequencyPool(scalings, [(rows, columns), *grids]), config.default_theta("axial")
    return ExplorerData(
        layers=[short_name(layer.name) for layer in layers],
        heads=[layer.frequencies.shape[1] for layer in layers],
        grids=pool.grids,
        scalings=scalings,
        scaling=scalings.index(config.scaling or "none"),
        tables=pool.tables([layer_frequencies(layer) for layer in layers]),
        axial=None if config.rope == "axial" else pool.tables([_axial_like(layer, theta) for layer in layers]),
        frequencies=pool.found,
        windows=any(isinstance(module, WindowAttention) for module in model.modules()),
    )


def layer_frequencies(layer: RotatedLayer) -> Float[Tensor, "2 A P"]:
    """Return a layer's frequencies, those of one head if all are identical."""
    first = layer.frequencies[:, :1]
    return first if bool((layer.frequencies == first).all()) else layer.frequencies


def _axial_like(layer: RotatedLayer, theta: float) -> Float[Tensor, "2 1 P"]:
    """Return the frequencies of RoPE-Axial for heads of a layer's size."""
    return axial_frequencies(2 * layer_frequencies(layer).shape[-1], theta).float().unsqueeze(1)


class FrequencyPool:
    """Deduplicated store of rounded frequencies.

    Args:
        scalings: Names of scaling methods; "none" for unscaled frequencies.
        grids: Rows and columns; the first are those of training.
    """

    def __init__(self, scalings: Sequence[str], grids: Sequence[Grid]):
        self.scalings, self.grids = scalings, list(dict.fromkeys(grids))
        self.found: list[Any] = []
        self.indices: dict[tuple[torch.Size, bytes], int] = {}

    def tables(self, layers: Sequence[Float[Tensor, "2 _ _"]]) -> Tables:
        """Add the frequencies of layers for every scaling method and grid, and return their indices."""
        return [
            [[self.add(self.scaled(layer, scaling, grid)) for layer in layers] for grid in self.grids]
            for scaling in self.scalings
        ]

    def scaled(self, frequencies: Float[Tensor, "2 A P"], scaling: str, grid: Grid) -> Float[Tensor, "2 A P"]:
        """Return frequencies after RoPE scaling on a grid."""
        if scaling == "none":
            return frequencies
        return parse_scaling(scaling, self.grids[0])(grid_positions(*grid), frequencies).frequencies

    def add(self, frequencies: Float[Tensor, "2 A P"]) -> int:
        """Return the index of frequencies, which are added if they are new."""
        key = frequencies.shape, frequencies.numpy().tobytes()
        if key not in self.indices:
            self.indices[key] = len(self.found)
            self.found.append([[[round(f, _DECIMALS) for f in head] for head in axis] for axis in frequencies.tolist()])
        return self.indices[key]
