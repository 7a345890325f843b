"""Builds the rotary embedding and distance bias of a config, and sets RoPE scaling on all layers of a model."""

from dataclasses import replace
from typing import cast

from torch import nn

from ropevit.models.base import BaseModel
from ropevit.models.config import ModelConfig
from ropevit.rope import DISTANCE_BIAS_TYPES, ROPE_TYPES, DistanceBias, DistanceSpec, LearnedRope, Rope, RopeSpec


def make_shared_rope(config: ModelConfig, channels: int, heads: int) -> Rope | None:
    """Build the rotary embedding that all blocks share, where its frequencies are fixed."""
    if config.rope is None or config.learns_rope:
        return None
    return ROPE_TYPES[config.rope].make(_rope_spec(config, channels, heads))


def make_block_rope(config: ModelConfig, channels: int, heads: int) -> LearnedRope | None:
    """Build the rotary embedding of one block, where its frequencies are learned."""
    if config.rope is None or not config.learns_rope:
        return None
    return cast("LearnedRope", ROPE_TYPES[config.rope].make(_rope_spec(config, channels, heads)))


def make_distance_bias(config: ModelConfig, heads: int, layer: int, depth: int) -> DistanceBias | None:
    """Build the distance bias of one attention layer, if any."""
    return (
        None
        if config.distance is None
        else DISTANCE_BIAS_TYPES[config.distance].make(DistanceSpec(heads, layer, depth))
    )


def _rope_spec(config: ModelConfig, channels: int, heads: int) -> RopeSpec:
    """Return the spec of a config's rotary embedding; t is an axis if the config has pairs for it."""
    return RopeSpec(
        channels,
        heads,
        config.theta,
        2 if config.pairs_per_axis is None else len(config.pairs_per_axis),
        config.pairs_per_axis,
    )


def check_rotation(config: ModelConfig, channels: int, heads: int) -> None:
    """Raise ValueError if the rope type cannot rotate heads of this size."""
    if config.rope is not None:
        rope_type = ROPE_TYPES[config.rope]
        (rope_type.check or rope_type.make)(_rope_spec(config, channels, heads))


def set_scaling(model: nn.Module, scaling: str | None, trained_grid: tuple[int, int] | None = None) -> None:
    """Set RoPE scaling for grids larger than the trained one; it changes nothing at the trained grid.

    >>> set_scaling(model, "parts+log")

    Args:
        model: A model of this package, or a module that contains some, such as a backbone; also compiled.
        scaling: Names of scaling methods (`ropevit.rope.scaling.SCALING_METHODS`) joined by +; None for none.
        trained_grid: Rows and columns of tokens that attended to each other in training; None keeps that of the
            model's config.

    Raises:
        ValueError: If a scaling method is unknown, or the module contains no model of this package with RoPE.
    """
    bodies = [module for module in model.modules() if isinstance(module, BaseModel)]
    if not bodies:
        raise ValueError(
            f"got {type(model).__name__}, which holds no model of this package; ropevit.set_scaling takes "
            "those of timm and transformers"
        )
    grids = [body.config.trained_grid if trained_grid is None else trained_grid for body in bodies]
    configs = [
        replace(body.config, scaling=scaling, trained_grid=grid) for body, grid in zip(bodies, grids, strict=True)
    ]  # all of them first: one that is refused leaves all as they are
    for body, config in zip(bodies, configs, strict=True):
        body.config = config
        apply_scaling(body)


def apply_scaling(body: BaseModel) -> None:
    """Set the RoPE scaling of a model's config on all its attention layers."""
    scaling = body.config.scaling_methods
    for module in body.modules():
        if hasattr(module, "scaling"):
            module.scaling = scaling
