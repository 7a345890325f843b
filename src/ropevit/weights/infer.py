"""What the shapes of a checkpoint tell about the model it was saved from."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from torch import Tensor

from ropevit.models.architectures import Config, architecture
from ropevit.models.positions import SWIN_EMBEDDINGS, VIT_EMBEDDINGS, PositionEmbedding
from ropevit.models.registry import MODELS, PUBLISHED, VIT_NAMES
from ropevit.weights.errors import join_names
from ropevit.weights.tables import is_fixed

#: Most stages of a Swin, each of twice the channels of the one before.
MOST_STAGES = 16

#: Position embeddings of each architecture, by name.
EMBEDDINGS: dict[str, Mapping[str, PositionEmbedding]] = {"vit": VIT_EMBEDDINGS, "swin": SWIN_EMBEDDINGS}

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
class InferredModel:
    """A model as its weights show it. Fixed frequencies mostly leave no trace, so several embeddings may fit."""

    architecture: str
    """Name of the architecture, vit or swin."""
    fields: dict[str, Any]
    """Fields of the config that shapes tell, position apart."""
    start: dict[str, Any]
    """Fields of the config that the file shows, but in which a model may differ and still have such weights."""
    positions: tuple[str, ...]
    """Position embeddings with such weights."""
    heads: int | tuple[int, ...] | None
    """Heads, where the layout tells them."""
    patches: int
    """Patches for which tables were made; those of 224 x 224 pixels, or 32 x 32 windows, if there are none."""


def infer_model(state: Mapping[str, Any]) -> InferredModel | None:
    """Infer what the weights of any layout tell; None if they are no model's of ours."""
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    kernel = shapes.get("patch_embed.proj.weight", ())
    if len(kernel) not in (4, 5):
        return None
    fields = {
        "width": kernel[0],
        "patch_size": kernel[-1],
        "in_channels": kernel[1],
        "num_classes": count_indices(shapes, "head.weight", 0) or count_indices(shapes, "head.fc.weight", 0) or 0,
        **({"tubelet": kernel[2]} if len(kernel) == 5 else {}),
    }
    if count_layers(shapes, r"blocks\.(\d+)\."):
        return infer_vit(shapes, fields)
    stages = count_layers(shapes, r"layers\.(\d+)\.blocks\.")
    return infer_swin(tensors, shapes, fields) if 0 < stages <= MOST_STAGES else None


def infer_vit(shapes: Mapping[str, tuple[int, ...]], fields: dict[str, Any]) -> InferredModel:
    """Infer what the shapes of a ViT tell besides the fields that all models have."""
    frequencies = next((key for key in shapes if re.fullmatch(r"(.*\.)?freqs", key)), "")
    return InferredModel(
        architecture="vit",
        fields=fields
        | {
            "depth": count_layers(shapes, r"blocks\.(\d+)\."),
            "mlp_ratio": (count_indices(shapes, "blocks.0.mlp.fc1.weight", 0) or 4 * fields["width"]) / fields["width"],
            "class_token": "cls_token" in shapes,
            "num_registers": count_indices(shapes, "register_tokens", 1) or count_indices(shapes, "reg_token", 1) or 0,
        },
        start={"layer_scale": 1e-4 if "blocks.0.gamma_1" in shapes else None},
        positions=positions_with("vit", rope_parameters(bool(frequencies)), "pos_embed" in shapes),
        heads=count_indices(shapes, frequencies, -2) if frequencies.count(".") else None,
        patches=count_indices(shapes, "pos_embed", 1) or count_indices(shapes, "freqs_t_x", 0) or 14 * 14,
    )


def infer_swin(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], fields: dict[str, Any]
) -> InferredModel:
    """Infer what the weights of a Swin tell besides the fields that all models have."""
    stages = range(count_layers(shapes, r"layers\.(\d+)\.blocks\."))
    frequencies = [key for key in tensors if re.fullmatch(r"layers\.\d+\.blocks\.\d+\.attn\.rope[._]freqs", key)]
    fixed = bool(frequencies) and all(is_fixed(tensors[key]) for key in frequencies)
    first = "layers.0.blocks.0.attn"
    bias = count_indices(shapes, f"{first}.relative_position_bias_table", 0)
    window = (math.isqrt(bias) + 1) // 2 if bias else math.isqrt(count_indices(shapes, f"{first}.rope_t_x", 0) or 49)
    told = ("rope.freqs", "rope_freqs", "relative_position_bias_table")  # heads are axis 1 of each
    heads = [
        next((n for name in told if (n := count_indices(shapes, f"layers.{stage}.blocks.0.attn.{name}", 1))), 0)
        for stage in stages
    ]
    return InferredModel(
        architecture="swin",
        fields=fields
        | {
            "depths": tuple(count_layers(shapes, rf"layers\.{stage}\.blocks\.(\d+)\.") for stage in stages),
            "mlp_ratio": (count_indices(shapes, "layers.0.blocks.0.mlp.fc1.weight", 0) or 4 * fields["width"])
            / fields["width"],
        },
        start={"window_size": window},
        positions=positions_with(
            "swin", {"axial"} if fixed else rope_parameters(bool(frequencies)), "pos_embed" in shapes, bias is not None
        ),
        heads=tuple(heads) if all(heads) else None,
        patches=count_indices(shapes, "pos_embed", 1)
        or (count_indices(shapes, "layers.0.blocks.1.attn_mask", 0) or 8 * 8) * window**2,
    )


def count_layers(shapes: Mapping[str, tuple[int, ...]], pattern: str) -> int:
    """Count layers by the highest number in names that start with a pattern; there are no more than names."""
    found = max((int(match[1][:9]) + 1 for key in shapes if (match := re.match(pattern, key))), default=0)
    return min(found, len(shapes))


def count_indices(shapes: Mapping[str, tuple[int, ...]], key: str, axis: int) -> int | None:
    """Return the length of an axis of a weight, if there is one."""
    shape = shapes.get(key, ())
    return shape[axis] if -len(shape) <= axis < len(shape) else None


def rope_parameters(learned: bool) -> set[str | None]:
    """List the kinds of rotation that have, or lack, frequencies among their weights."""
    return {"mixed"} if learned else {None, "axial"}


def positions_with(architecture: str, rope: set[str | None], absolute: bool, bias: bool = False) -> tuple[str, ...]:
    """List the position embeddings of an architecture that have such weights; a stray absolute one does not count."""
    fitting = {name: kind for name, kind in EMBEDDINGS[architecture].items() if kind.rope in rope and kind.bias == bias}
    names = tuple(name for name, kind in fitting.items() if kind.absolute == absolute)
    return names or tuple(name for name, kind in fitting.items() if not kind.absolute)


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


def similar_names(facts: InferredModel) -> list[str]:
    """Name the models that have these weights, those with published weights if there are any."""
    same = [field for field in ("width", "depth", "depths", "patch_size") if field in facts.fields]
    names = [
        name
        for name, config in MODELS.items()
        if architecture(config) == facts.architecture
        and config.position in facts.positions
        and all(getattr(config, field) == facts.fields[field] for field in same)
    ]
    return [name for name in names if name in PUBLISHED] or names


def explain_mismatch(
    facts: InferredModel | None, state: Mapping[str, Any], config: Config, head_alone: bool = True
) -> str:
    """Say in a clause what a checkpoint that does not fit probably is.

    Args:
        facts: What its shapes tell.
        state: Its weights.
        config: The model's.
        head_alone: Whether all names and shapes but the head's are those of the model.
    """
    if facts is None:
        swin = any(key.startswith("layers.0.blocks.") for key in state)
        return (
            "it looks like a Swin transformer" if swin else f"it is no vision transformer (it has {join_names(state)})"
        )
    names = similar_names(facts)
    kind = {"vit": "a ViT", "swin": "a Swin"}
    if facts.architecture != architecture(config):
        named = " or ".join(names) or f"{kind[facts.architecture]} with position {' or '.join(facts.positions)}"
        return f"it looks like {named}, while the model is {kind[architecture(config)]}"
    differing = [f"{field} {value}" for field, value in facts.fields.items() if value != getattr(config, field)]
    if config.position not in facts.positions:
        likely = dict.fromkeys(MODELS[name].position for name in names) or facts.positions
        differing.insert(0, f"position {' or '.join(likely)}")
    if head_alone and [name.split()[0] for name in differing] == ["num_classes"]:
        return (
            f"only the head differs ({differing[0]}, the model's {config.num_classes}): pass replace_head=True, or "
            f"build the model with num_classes={facts.fields['num_classes']}"
        )
    if not differing:
        return "it looks like a file of this very model, but incomplete or with additions"
    fields = [name.split()[0] for name in differing]
    own = ", ".join(f"{field} {getattr(config, field)}" for field in fields)
    named = f"{' or '.join(names)}, with " if names else f"{kind[facts.architecture]} with "
    return f"it looks like {named}{', '.join(differing)}, while the model has {own}"
