"""The attention layers of a model: what turns their heads, and on which grid."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from ropevit.models.backbone import Backbone
from ropevit.models.base import BaseModel
from ropevit.models.layers import Attention
from ropevit.models.windows import WindowAttention
from ropevit.rope import grid_positions

#: Rows and columns of tokens.
Grid = tuple[int, int]


class NothingToDrawError(ValueError):
    """A model does not have what a figure shows; not an error where all figures are drawn."""


class Layer(NamedTuple):
    """One attention layer."""

    name: str
    """Path of the attention module in the model, such as `blocks.3.attn`."""
    frequencies: Float[Tensor, "2 A P"] | None
    """Radians per patch of every head, row 0 for x, row 1 for y; None where nothing is rotated."""
    heads: int
    """Number of heads, A."""


def attention_layers(model: nn.Module) -> list[Layer]:
    """List the attention layers of a model, first to last, with the frequencies of every head.

    Frequencies that all heads or all layers share are repeated for each, so that every layer reads alike.

    Args:
        model: A model of this package, or one that holds a single one, such as a backbone.

    Raises:
        ValueError: If the model has no attention layer of this package, or is one of videos.
    """
    if any(isinstance(body, BaseModel) and body.config.is_video for body in model.modules()):
        raise NothingToDrawError("got a video model; the analyses are of images, x and y")
    layers = []
    for name, attention, shared in walk_attention(model, None):
        own = attention.rope
        found = own.freqs if own is not None else shared.frequencies()[:2] if shared is not None else None
        if found is not None:
            found = found.detach().float().cpu()
            found = found if found.ndim == 3 else found.unsqueeze(1)
            found = found.expand(-1, attention.heads, -1)
        layers.append(Layer(name, found, attention.heads))
    if not layers:
        raise NothingToDrawError(
            f"got {type(model).__name__}, which has no attention layer of this package; nothing to look at"
        )
    return layers


class RotatedLayer(NamedTuple):
    """An attention layer that rotates."""

    name: str
    frequencies: Float[Tensor, "2 A P"]
    """Radians per patch, as `Layer.frequencies`."""


def rotated_layers(model: nn.Module) -> list[RotatedLayer]:
    """List the attention layers that rotate, first to last.

    Raises:
        ValueError: If there is none.
    """
    layers = attention_layers(model)
    rotated = [RotatedLayer(layer.name, layer.frequencies) for layer in layers if layer.frequencies is not None]
    if not rotated:
        raise NothingToDrawError(
            f"none of its {len(layers)} attention layers rotates; this figure is for models with RoPE"
        )
    return rotated


def frequencies_at(model: nn.Module, grid: Grid) -> list[RotatedLayer]:
    """List the layers that rotate, with the frequencies that the rules of the model's config make on a grid.

    Args:
        model: A model of this package, or one that holds a single one.
        grid: Rows and columns of tokens that attend to each other.

    Raises:
        ValueError: If no layer rotates.
    """
    layers, rules = rotated_layers(model), find_body(model).config.scaling_methods
    if rules is None:
        return layers
    positions = grid_positions(*grid)
    return [layer._replace(frequencies=rules(positions, layer.frequencies).frequencies) for layer in layers]


def find_body(model: nn.Module) -> BaseModel[Any]:
    """Find the only model of this package in a module: itself, or a backbone's.

    Raises:
        ValueError: If there is none.
    """
    found = next((module for module in model.modules() if isinstance(module, BaseModel)), None)
    if found is None:
        raise NothingToDrawError(
            f"got {type(model).__name__}, which holds no model of this package; nothing to look at"
        )
    return found


def trained_grid(model: nn.Module) -> Grid:
    """Tell rows and columns of the tokens that attended to each other in a model's training, as its config says.

    Raises:
        ValueError: If they differ from layer to layer, as in a backbone with windows in some layers.
    """
    if any(isinstance(module, Backbone) and module.mixes_grids for module in model.modules()):
        raise NothingToDrawError(
            "some of its layers attend in windows, others everywhere; this figure is for one trained grid"
        )
    config = find_body(model).config
    return config.trained_grid or config.attention_grid


def walk_attention(
    module: nn.Module, shared: Any, prefix: str = ""
) -> Iterator[tuple[str, Attention | WindowAttention, Any]]:
    """Find attention layers, and for each the rotation that the nearest module around it shares out."""
    shared = getattr(module, "rope", None) or shared
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        if isinstance(child, Attention | WindowAttention):
            yield path, child, shared
        else:
            yield from walk_attention(child, shared, f"{path}.")
