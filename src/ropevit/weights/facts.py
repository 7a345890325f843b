"""What the shapes of a checkpoint tell about the model it was saved from."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from torch import Tensor

from ropevit.models.registry import MODELS, PUBLISHED, VIT_NAMES
from ropevit.models.vit import POSITION_EMBEDDINGS, ViTConfig
from ropevit.weights.errors import few

#: How timm spells the position embedding in vit_<size>_patch16_<...>_224.
TIMM_POSITIONS = {
    "rope": "rope_axial",
    "rope_mixed": "rope_mixed",
    "rope_ape": "rope_axial_ape",
    "rope_mixed_ape": "rope_mixed_ape",
}

#: timm's name -> ours, for the published models that both have.
TIMM_NAMES = {
    f"vit_{size}_patch16_{theirs}_224": VIT_NAMES[position].format(size=size)
    for size in ("small", "base", "large")
    for theirs, position in TIMM_POSITIONS.items()
}


@dataclass(frozen=True)
class Facts:
    """A ViT as its weights show it. Fixed (axial) frequencies leave no trace, so several embeddings may fit."""

    fields: dict[str, Any]
    """Fields of `ViTConfig` that shapes tell, position apart."""
    positions: tuple[str, ...]
    """Position embeddings with such weights."""
    heads: int | None
    """Heads, where the layout tells them."""
    patches: int | None
    """Patches for which tables were made, where there are any."""
    layer_scale: bool
    """Whether there is LayerScale."""


def read_facts(state: Mapping[str, Any]) -> Facts | None:
    """Infer what the weights of any layout tell; None if they are no ViT's."""
    shapes = {key: tuple(value.shape) for key, value in state.items() if isinstance(value, Tensor)}
    kernel = shapes.get("patch_embed.proj.weight", ())
    layers = {int(match[1]) for key in shapes if (match := re.match(r"blocks\.(\d+)\.", key))}
    if len(kernel) != 4 or not layers:
        return None
    frequencies = next((key for key in shapes if re.fullmatch(r"(.*\.)?freqs", key)), "")
    fields = {
        "width": kernel[0],
        "depth": max(layers) + 1,
        "patch_size": kernel[-1],
        "in_channels": kernel[1],
        "num_classes": length(shapes, "head.weight", 0) or 0,
        "mlp_ratio": (length(shapes, "blocks.0.mlp.fc1.weight", 0) or 4 * kernel[0]) / kernel[0],
        "class_token": "cls_token" in shapes,
        "num_registers": length(shapes, "register_tokens", 1) or length(shapes, "reg_token", 1) or 0,
    }
    return Facts(
        fields=fields,
        positions=positions_with(mixed=bool(frequencies), absolute="pos_embed" in shapes),
        heads=length(shapes, frequencies, -2) if frequencies.count(".") else None,
        patches=length(shapes, "pos_embed", 1) or length(shapes, "freqs_t_x", 0),
        layer_scale="blocks.0.gamma_1" in shapes,
    )


def length(shapes: Mapping[str, tuple[int, ...]], key: str, axis: int) -> int | None:
    """Return the length of an axis of a weight, if there is one."""
    shape = shapes.get(key, ())
    return shape[axis] if -len(shape) <= axis < len(shape) else None


def positions_with(mixed: bool, absolute: bool) -> tuple[str, ...]:
    """List the position embeddings that have, or lack, learned frequencies and an absolute embedding."""
    table = POSITION_EMBEDDINGS.items()
    return tuple(name for name, kind in table if (kind.rope == "mixed") == mixed and kind.absolute == absolute)


def square_grid(patches: int) -> tuple[int, int] | None:
    """Return the rows and columns of a square with so many patches, if there is one."""
    side = math.isqrt(patches)
    return (side, side) if side * side == patches else None


def claimed_name(source: str) -> str | None:
    """Return the model of the registry that a hub id or a file name names, ours or timm's spelling."""
    stem = PurePath(source).name
    for candidate in (stem, stem.rpartition(".")[0]):
        if (name := TIMM_NAMES.get(candidate, candidate)) in MODELS:
            return name
    return None


def lookalikes(facts: Facts) -> list[str]:
    """Name the models that have these weights, those with published weights if there are any."""
    same = ("width", "depth", "patch_size")
    names = [
        name
        for name, config in MODELS.items()
        if config.position in facts.positions and all(getattr(config, field) == facts.fields[field] for field in same)
    ]
    return [name for name in names if name in PUBLISHED] or names


def hint(facts: Facts | None, state: Mapping[str, Any], config: ViTConfig) -> str:
    """Say in a clause what a checkpoint that does not fit probably is."""
    if facts is None:
        swin = any(key.startswith("layers.0.blocks.") for key in state)
        return "it looks like a Swin transformer" if swin else f"it is no vision transformer (it has {few(state)})"
    differing = [f"{field} {value}" for field, value in facts.fields.items() if value != getattr(config, field)]
    names = lookalikes(facts)
    if config.position not in facts.positions:
        likely = dict.fromkeys(MODELS[name].position for name in names) or facts.positions
        differing.insert(0, f"position {' or '.join(likely)}")
    if [name.split()[0] for name in differing] == ["num_classes"]:
        return (
            f"only the head differs ({differing[0]}, the model's {config.num_classes}): pass replace_head=True, or "
            f"build the model with num_classes={facts.fields['num_classes']}"
        )
    if not differing:
        return "it looks like a file of this very model, but incomplete or with additions"
    fields = [name.split()[0] for name in differing]
    own = ", ".join(f"{field} {getattr(config, field)}" for field in fields)
    named = f"{' or '.join(names)}, with " if names else "a ViT with "
    return f"it looks like {named}{', '.join(differing)}, while the model has {own}"
