"""Groups identical layers and heads, so that figures show each group once."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ropevit.analysis.plot_grid import PlotRow


class LayerHeads(NamedTuple):
    """Values of every head of a layer."""

    name: str
    """Path of the layer's attention module in the model."""
    values: np.ndarray
    """Axis 1 is the head."""


class HeadGroup(NamedTuple):
    """Identical layers, with their distinct heads."""

    label: str
    values: np.ndarray
    """Axis 1 is the head: one if all are identical."""
    cells: tuple[str, ...]
    """Labels of these heads."""


def group_layers(layers: Sequence[LayerHeads]) -> list[HeadGroup]:
    """Group identical layers, and reduce layers with identical heads to one head."""
    joined: dict[tuple[tuple[int, ...], bytes], list[LayerHeads]] = {}
    for layer in layers:
        values = layer.values[:, :1] if _are_identical(layer.values) else layer.values
        joined.setdefault((values.shape, values.tobytes()), []).append(layer)
    return [_to_group(group) for group in joined.values()]


def _are_identical(values: np.ndarray) -> bool:
    """Return whether a layer has several heads, all identical."""
    return values.shape[1] > 1 and bool((values == values[:, :1]).all())


def _to_group(layers: Sequence[LayerHeads]) -> HeadGroup:
    """Label a group of identical layers."""
    first, last = (short_name(layer.name) for layer in (layers[0], layers[-1]))
    label = first if len(layers) == 1 else f"{len(layers)} layers alike, {first} to {last}"
    values = layers[0].values
    if _are_identical(values):
        return HeadGroup(label, values[:, :1], ("all heads",))
    return HeadGroup(label, values, tuple(f"head {head}" for head in range(values.shape[1])))


def short_name(name: str) -> str:
    """Shorten the path of an attention module: blocks.3.attn is layer 3, layers.1.blocks.0.attn is stage 1 block 0."""
    numbers = [part for part in name.split(".") if part.isdecimal()]
    if len(numbers) == 1:
        return f"layer {numbers[0]}"
    return f"stage {numbers[0]} block {numbers[1]}" if len(numbers) == 2 else name


def plot_rows(shown: Sequence[HeadGroup]) -> list[PlotRow]:
    """Return the labels of a plot grid."""
    return [PlotRow(layers.label, layers.cells) for layers in shown]
