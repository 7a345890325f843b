"""Layers and heads that are alike: shown once, and named as what they stand for."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ropevit.analysis.plot_grid import PlotRow


class LayerHeads(NamedTuple):
    """Something of every head of a layer."""

    name: str
    """Of the layer: the path of its attention in the model."""
    values: np.ndarray
    """Axis 1 counts the heads."""


class HeadGroup(NamedTuple):
    """Layers that are alike, with their different heads."""

    label: str
    values: np.ndarray
    """Axis 1 counts the heads that differ: one, where all are alike."""
    cells: tuple[str, ...]
    """Names of these heads."""


def group_layers(layers: Sequence[LayerHeads]) -> list[HeadGroup]:
    """Join layers whose heads are alike, and heads that are all alike; whatever differs stays apart."""
    joined: dict[tuple[tuple[int, ...], bytes], list[LayerHeads]] = {}
    for layer in layers:
        values = layer.values[:, :1] if are_identical(layer.values) else layer.values
        joined.setdefault((values.shape, values.tobytes()), []).append(layer)
    return [to_group(group) for group in joined.values()]


def are_identical(values: np.ndarray) -> bool:
    """Tell whether all heads of a layer, of which there are several, are alike."""
    return values.shape[1] > 1 and bool((values == values[:, :1]).all())


def to_group(layers: Sequence[LayerHeads]) -> HeadGroup:
    """Name layers that are alike."""
    first, last = (short_name(layer.name) for layer in (layers[0], layers[-1]))
    label = first if len(layers) == 1 else f"{len(layers)} layers alike, {first} to {last}"
    values = layers[0].values
    if are_identical(values):
        return HeadGroup(label, values[:, :1], ("all heads",))
    return HeadGroup(label, values, tuple(f"head {head}" for head in range(values.shape[1])))


def short_name(name: str) -> str:
    """Shorten the path of an attention module: blocks.3.attn is layer 3, layers.1.blocks.0.attn is stage 1 block 0."""
    numbers = [part for part in name.split(".") if part.isdecimal()]
    if len(numbers) == 1:
        return f"layer {numbers[0]}"
    return f"stage {numbers[0]} block {numbers[1]}" if len(numbers) == 2 else name


def plot_rows(shown: Sequence[HeadGroup]) -> list[PlotRow]:
    """Give the lines of a mosaic."""
    return [PlotRow(layers.label, layers.cells) for layers in shown]
