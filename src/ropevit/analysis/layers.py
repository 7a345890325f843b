"""Attention layers of a model, with the RoPE frequencies of every head and the trained grid."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from ropevit.models.backbone import Backbone
from ropevit.models.base import BaseModel
from ropevit.models.layers import Attention
from ropevit.models.swin.attention import WindowAttention
from ropevit.rope import RopeConvention, grid_positions

#: Rows and columns of tokens.
Grid = tuple[int, int]


class NothingToDrawError(ValueError):
    """A figure does not apply to a model; skipped when all figures are drawn."""


class Layer(NamedTuple):
    """One attention layer."""

    name: str
    """Path of the attention module in the model, such as `blocks.3.attn`."""
    frequencies: Float[Tensor, "2 A P"] | None
    """Radians per patch of every head, row 0 for x, row 1 for y; None without RoPE."""
    heads: int
    """Number of heads, A."""


def attention_layers(model: nn.Module) -> list[Layer]:
    """Return the attention layers of a model, in order, with the frequencies of every head.

    Frequencies that all heads or all layers share are repeated for each.

    Args:
        model: A model of this package, or a module that contains one, such as a backbone.

    Raises:
        ValueError: If the model has no attention layer of this package, or is a video model.
    """
    if any(isinstance(body, BaseModel) and body.config.is_video for body in model.modules()):
        raise NothingToDrawError("got a video model; analyses support image models only")
    layers, step = [], _step(model)
    for name, attention, shared in _walk_attention(model, None):
        own = attention.rope
        found = own.freqs if own is not None else shared.frequencies()[:2] if shared is not None else None
        if found is not None:
            found = found.detach().float().cpu()
            found = found if found.ndim == 3 else found.unsqueeze(1)
            found = found.expand(-1, attention.heads, -1) * step
        layers.append(Layer(name, found, attention.heads))
    if not layers:
        raise NothingToDrawError(f"got {type(model).__name__}, which has no attention layer of this package")
    return layers


def _step(model: nn.Module) -> Float[Tensor, "2 1 1"]:
    """Return the positions from a patch to the next on the grid of `img_size`: 1 in the paper's convention."""
    config = next((body.config for body in model.modules() if isinstance(body, BaseModel)), None)
    convention = getattr(config, "rope_convention", RopeConvention())
    return convention.step((1, 1) if config is None else config.grid)[:, None, None]


class RotatedLayer(NamedTuple):
    """An attention layer with RoPE."""

    name: str
    frequencies: Float[Tensor, "2 A P"]
    """Radians per patch, as `Layer.frequencies`."""


def rotated_layers(model: nn.Module) -> list[RotatedLayer]:
    """Return the attention layers with RoPE, in order.

    Raises:
        ValueError: If there is none.
    """
    layers = attention_layers(model)
    rotated = [RotatedLayer(layer.name, layer.frequencies) for layer in layers if layer.frequencies is not None]
    if not rotated:
        raise NothingToDrawError("no attention layer of the model has RoPE, which this figure needs")
    return rotated


def frequencies_at(model: nn.Module, grid: Grid) -> list[RotatedLayer]:
    """Return the layers with RoPE, with their frequencies on a grid after the model's RoPE scaling.

    Args:
        model: A model of this package, or a module that contains one.
        grid: Rows and columns of tokens that attend to each other.

    Raises:
        ValueError: If no layer has RoPE.
    """
    layers, config = rotated_layers(model), find_body(model).config
    scaling, convention = config.scaling_methods, getattr(config, "rope_convention", RopeConvention())
    if convention.transforms_positions:
        used = grid if scaling is None else config.trained_grid or config.attention_grid
        ratio = (convention.step(used) / convention.step(config.grid))[:, None, None]
        layers = [layer._replace(frequencies=layer.frequencies * ratio) for layer in layers]
    if scaling is None:
        return layers
    positions = grid_positions(*grid)
    return [layer._replace(frequencies=scaling(positions, layer.frequencies).frequencies) for layer in layers]


def find_body(model: nn.Module) -> BaseModel[Any]:
    """Return the model of this package in a module: itself, or a backbone's body.

    Raises:
        ValueError: If there is none.
    """
    found = next((module for module in model.modules() if isinstance(module, BaseModel)), None)
    if found is None:
        raise NothingToDrawError(f"got {type(model).__name__}, which contains no model of this package")
    return found


def trained_grid(model: nn.Module) -> Grid:
    """Return rows and columns of the tokens that attended to each other in training, from the config.

    Raises:
        ValueError: If they differ between layers, as in a backbone with windows in some layers.
    """
    if any(isinstance(module, Backbone) and module.mixes_grids for module in model.modules()):
        raise NothingToDrawError(
            "some of its layers use windows, others global attention; this figure needs one trained grid"
        )
    config = find_body(model).config
    return config.trained_grid or config.attention_grid


def _walk_attention(
    module: nn.Module, shared: object, prefix: str = ""
) -> Iterator[tuple[str, Attention | WindowAttention, Any]]:
    """Yield attention layers, each with the shared RoPE of the nearest module around it."""
    shared = getattr(module, "rope", None) or shared
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        if isinstance(child, Attention | WindowAttention):
            yield path, child, shared
        else:
            yield from _walk_attention(child, shared, f"{path}.")
