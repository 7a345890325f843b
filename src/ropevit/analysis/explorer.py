"""What a reader can explore in the page: the frequencies of every head, on each grid and under each rule."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ropevit.analysis.grouping import short_name
from ropevit.analysis.layers import Grid, RotatedLayer, find_body, rotated_layers, trained_grid
from ropevit.models.windows import WindowAttention
from ropevit.rope import axial_frequencies, grid_positions
from ropevit.rope.scaling import parse_scaling

#: Rules that change frequencies on larger grids, each in its own way; `yarn` turns pairs as `parts` does.
EXPLORED_SCALING = ("pi", "ntk", "parts")

#: Decimals of a frequency in the page: an angle 100 patches away is then right within 1e-4.
DECIMALS = 6

#: For each rule and grid, in the order of `ExplorerData`: which of its `frequencies` a layer has.
Tables = list[list[list[int]]]


@dataclass(frozen=True)
class ExplorerData:
    """What the explorer draws from; frequencies that several layers, grids or rules share are held once."""

    layers: list[str]
    """Names of the layers that rotate, first to last."""
    heads: list[int]
    """Heads of each."""
    grids: list[Grid]
    """Rows and columns of tokens that attend to each other; first those of training."""
    rules: list[str]
    """First "none": the frequencies as they are."""
    rule: int
    """The rule that the model has: its place in `rules`."""
    tables: Tables
    """Which `frequencies` each layer has."""
    axial: Tables | None
    """Which `frequencies` RoPE-Axial would have there; None if the model is axial itself."""
    frequencies: list[list[list[list[float]]]]
    """Radians per patch: x, then y; for each head, or once where all are alike; for each pair."""
    windows: bool
    """Whether attention stays inside windows: a grid is then a window."""


def explorer(model: nn.Module, grids: Sequence[Grid] = ()) -> ExplorerData:
    """Collect what the explorer draws from.

    Args:
        model: A ViT or Swin of this package, or what holds one.
        grids: Rows and columns of the grids beside the trained one; 2 and 4 times the trained one if there are none.

    Raises:
        ValueError: If no layer rotates, or layers differ in their trained grid.
    """
    layers, (rows, columns) = rotated_layers(model), trained_grid(model)
    grids = grids or [(2 * rows, 2 * columns), (4 * rows, 4 * columns)]
    config = find_body(model).config
    rules = list(dict.fromkeys(["none", *EXPLORED_SCALING, config.scaling or "none"]))
    pool, theta = FrequencyPool(rules, [(rows, columns), *grids]), config.default_theta("axial")
    return ExplorerData(
        layers=[short_name(layer.name) for layer in layers],
        heads=[layer.frequencies.shape[1] for layer in layers],
        grids=pool.grids,
        rules=rules,
        rule=rules.index(config.scaling or "none"),
        tables=pool.tables([layer_frequencies(layer) for layer in layers]),
        axial=None if config.rope == "axial" else pool.tables([axial_like(layer, theta) for layer in layers]),
        frequencies=pool.found,
        windows=any(isinstance(module, WindowAttention) for module in model.modules()),
    )


def layer_frequencies(layer: RotatedLayer) -> Float[Tensor, "2 A P"]:
    """Give a layer's frequencies, those of one head if all are alike."""
    first = layer.frequencies[:, :1]
    return first if bool((layer.frequencies == first).all()) else layer.frequencies


def axial_like(layer: RotatedLayer, theta: float) -> Float[Tensor, "2 1 P"]:
    """Give the frequencies of RoPE-Axial for heads of a layer's size."""
    return axial_frequencies(2 * layer_frequencies(layer).shape[-1], theta).float().unsqueeze(1)


class FrequencyPool:
    """Frequencies, rounded, each held once.

    Args:
        rules: Names of rules; "none" changes nothing.
        grids: Rows and columns, first those of training.
    """

    def __init__(self, rules: Sequence[str], grids: Sequence[Grid]):
        self.rules, self.grids = rules, list(dict.fromkeys(grids))
        self.found: list[Any] = []
        self.indices: dict[tuple[torch.Size, bytes], int] = {}

    def tables(self, layers: Sequence[Float[Tensor, "2 _ _"]]) -> Tables:
        """Add the frequencies of layers under every rule on every grid, and tell their places."""
        return [
            [[self.add(self.scaled(layer, rule, grid)) for layer in layers] for grid in self.grids]
            for rule in self.rules
        ]

    def scaled(self, frequencies: Float[Tensor, "2 A P"], scaling: str, grid: Grid) -> Float[Tensor, "2 A P"]:
        """Give the frequencies that a rule makes of some on a grid."""
        if scaling == "none":
            return frequencies
        return parse_scaling(scaling, self.grids[0])(grid_positions(*grid), frequencies).frequencies

    def add(self, frequencies: Float[Tensor, "2 A P"]) -> int:
        """Tell the place of some frequencies, which are added if they are new."""
        key = frequencies.shape, frequencies.numpy().tobytes()
        if key not in self.indices:
            self.indices[key] = len(self.found)
            self.found.append([[[round(f, DECIMALS) for f in head] for head in axis] for axis in frequencies.tolist()])
        return self.indices[key]
