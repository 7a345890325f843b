"""Which rotation a model has: the modules of a kind, and rules for larger grids set on all its layers."""

from dataclasses import replace

from torch import nn

from ropevit.models.classifier import Classifier
from ropevit.models.config import ModelConfig
from ropevit.rope import AxialRope, FixedRope, LearnedRope, MixedRope, PolarRope, pairs_per_axis
from ropevit.rope.families import FIXED


def shared_rope(config: ModelConfig, channels: int, heads: int) -> AxialRope | FixedRope | None:
    """Build the rotation that all blocks share, where its frequencies are fixed."""
    if config.rope == "axial":
        return AxialRope(channels, config.theta, count_axes(config), config.budget)
    return FixedRope(config.rope, channels, heads, config.theta) if config.rope in FIXED else None


def count_axes(config: ModelConfig) -> int:
    """Count the axes of a rotation: x and y, and t where the pairs are shared out among three."""
    return 2 if config.budget is None else len(config.budget)


def check_rotation(config: ModelConfig, channels: int, heads: int) -> None:
    """Refuse heads that a kind of rotation cannot turn."""
    if config.rope in ("axial", "mixed"):
        pairs_per_axis(channels, count_axes(config), config.budget)  # the modules themselves would draw random numbers
    else:
        shared_rope(config, channels, heads)
        own_rope(config, channels, heads)


def own_rope(config: ModelConfig, channels: int, heads: int) -> LearnedRope | None:
    """Build the rotation of one block, where its frequencies are learned."""
    if config.rope == "mixed":
        return MixedRope(channels, heads, config.theta, count_axes(config), config.budget)
    return PolarRope(channels, heads, config.theta) if config.rope == "polar" else None


def set_scaling(model: nn.Module, scaling: str | None, trained_grid: tuple[int, int] | None = None) -> None:
    """Choose rules for grids larger than the trained one; at the trained grid they change nothing.

    >>> set_scaling(model, "parts+log")

    Args:
        model: A model of this package, or one that holds some, such as a backbone; also compiled.
        scaling: Names of rules (`ropevit.rope.scaling.RULES`) with + between them; None for none.
        trained_grid: Rows and columns of tokens that attended to each other in training; None keeps what the model's
            config says.

    Raises:
        ValueError: If there is no such rule, or no model of ours with a rotation.
    """
    bodies = [module for module in model.modules() if isinstance(module, Classifier)]
    if not bodies:
        raise ValueError(f"got {type(model).__name__}, which holds no model of this package; nothing to set")
    for body in bodies:
        grid = body.config.trained_grid if trained_grid is None else trained_grid
        body.config = replace(body.config, scaling=scaling, trained_grid=grid)
        apply_scaling(body)


def apply_scaling(body: Classifier) -> None:
    """Give every attention layer of a model the rules of its config."""
    rules = body.config.rules
    for module in body.modules():
        if hasattr(module, "scaling"):
            module.scaling = rules
