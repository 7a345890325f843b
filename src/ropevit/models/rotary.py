"""Which rotation a model has: the modules of a kind, and rules for larger grids set on all its layers."""

from dataclasses import replace
from typing import cast

from torch import nn

from ropevit.models.base import BaseModel
from ropevit.models.config import ModelConfig
from ropevit.rope import ROPE_TYPES, LearnedRope, Rope, RopeSpec


def make_shared_rope(config: ModelConfig, channels: int, heads: int) -> Rope | None:
    """Build the rotary embedding that all blocks share, where its frequencies are fixed."""
    if config.rope is None or config.learns_rope:
        return None
    return ROPE_TYPES[config.rope].make(rope_spec(config, channels, heads))


def make_block_rope(config: ModelConfig, channels: int, heads: int) -> LearnedRope | None:
    """Build the rotary embedding of one block, where its frequencies are learned."""
    if config.rope is None or not config.learns_rope:
        return None
    return cast("LearnedRope", ROPE_TYPES[config.rope].make(rope_spec(config, channels, heads)))


def rope_spec(config: ModelConfig, channels: int, heads: int) -> RopeSpec:
    """Collect what the rotary embedding of a config is built of; t is an axis where the config gives it pairs."""
    return RopeSpec(
        channels,
        heads,
        config.theta,
        2 if config.pairs_per_axis is None else len(config.pairs_per_axis),
        config.pairs_per_axis,
    )


def check_rotation(config: ModelConfig, channels: int, heads: int) -> None:
    """Refuse heads that a rope type cannot rotate."""
    if config.rope is not None:
        rope_type = ROPE_TYPES[config.rope]
        (rope_type.check or rope_type.make)(rope_spec(config, channels, heads))


def set_scaling(model: nn.Module, scaling: str | None, trained_grid: tuple[int, int] | None = None) -> None:
    """Choose rules for grids larger than the trained one; at the trained grid they change nothing.

    >>> set_scaling(model, "parts+log")

    Args:
        model: A model of this package, or one that holds some, such as a backbone; also compiled.
        scaling: Names of rules (`ropevit.rope.scaling.SCALING_METHODS`) with + between them; None for none.
        trained_grid: Rows and columns of tokens that attended to each other in training; None keeps what the model's
            config says.

    Raises:
        ValueError: If there is no such rule, or no model of ours with a rotation.
    """
    bodies = [module for module in model.modules() if isinstance(module, BaseModel)]
    if not bodies:
        raise ValueError(f"got {type(model).__name__}, which holds no model of this package; nothing to set")
    for body in bodies:
        grid = body.config.trained_grid if trained_grid is None else trained_grid
        body.config = replace(body.config, scaling=scaling, trained_grid=grid)
        apply_scaling(body)


def apply_scaling(body: BaseModel) -> None:
    """Give every attention layer of a model the rules of its config."""
    rules = body.config.scaling_methods
    for module in body.modules():
        if hasattr(module, "scaling"):
            module.scaling = rules
