"""Infers the architecture and config fields of weights from names and shapes, and explains mismatches."""

import math
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from torch import Tensor

from ropevit.models.architectures import ARCHITECTURES, MODELS, PUBLISHED, VARIANTS, Config, architecture
from ropevit.models.state_dict import InferredModel
from ropevit.rope import RopeConvention
from ropevit.text import join_names

#: The field of a config that says how a family rotates; too long for a message.
_CONVENTION = "rope_convention"


def infer_model(state: Mapping[str, Any]) -> InferredModel | None:
    """Infer the model of weights in any layout; None if no registered architecture matches."""
    name = _recognize_architecture(state)
    if name is None:
        return None
    return ARCHITECTURES[name].weights.infer({key: value for key, value in state.items() if isinstance(value, Tensor)})


def _recognize_architecture(state: Mapping[str, Any]) -> str | None:
    """Return the architecture whose block keys match; None if no registered one does."""
    return next(
        (name for name, row in ARCHITECTURES.items() if any(re.match(row.weights.blocks, key) for key in state)), None
    )


def square_grid(patches: int) -> tuple[int, int] | None:
    """Return the rows and columns of a square grid with this number of patches, or None."""
    side = math.isqrt(patches)
    return (side, side) if side * side == patches else None


def claimed_name(source: str) -> str | None:
    """Return the registered model that a hub id or file name denotes, as spelled here, by timm or by the authors.

    Names of DINOv3's authors go on after the model: dinov3_vits16_pretrain_lvd1689m-08c60483.pth.
    """
    stem = PurePath(source).name
    aliases = {theirs: ours for row in ARCHITECTURES.values() for theirs, ours in row.weights.aliases.items()}
    for variant_name, (_, variant) in VARIANTS.items():
        if len(variant.names) == 1:  # the name of the variant determines the model
            aliases |= dict.fromkeys((variant_name, variant_name.replace("_", "-")), *variant.names.values())
    for candidate in (stem, stem.rpartition(".")[0], re.split("[_-]pretrain", stem)[0]):
        if (name := aliases.get(candidate, candidate)) in MODELS:
            return name
    return None


def similar_names(inferred: InferredModel) -> list[str]:
    """Return the names of models with such weights, those with published weights if there are any."""
    same = [field for field in ("width", "depth", "depths", "patch_size", "num_registers") if field in inferred.fields]
    paper = RopeConvention()
    names = [
        name
        for name, config in MODELS.items()
        if architecture(config) == inferred.architecture
        and getattr(config, "rope_convention", paper) == inferred.fields.get("rope_convention", paper)
        and config.position in inferred.positions
        and all(getattr(config, field) == inferred.fields[field] for field in same)
    ]
    return [name for name in names if name in PUBLISHED] or names


def explain_mismatch(
    inferred: InferredModel | None, state: Mapping[str, Any], config: Config, head_alone: bool = True
) -> str:
    """Describe in a clause what a checkpoint that does not match probably is.

    Args:
        inferred: The model inferred from its shapes.
        state: Its weights.
        config: The model's.
        head_alone: Whether only the head differs from the model.
    """
    if inferred is None:
        name = _recognize_architecture(state)
        if name is None:
            return f"it is not a vision transformer (it has {join_names(state)})"
        return f"it looks like {ARCHITECTURES[name].label}, but not like one that this package can build"
    names, label = similar_names(inferred), ARCHITECTURES[inferred.architecture].label
    if inferred.architecture != architecture(config):
        named = " or ".join(names) or f"{label} with position {' or '.join(inferred.positions)}"
        return f"it looks like {named}, while the model is {ARCHITECTURES[architecture(config)].label}"
    differing = [
        f"{field} {value}"
        for field, value in inferred.fields.items()
        if value != getattr(config, field) and field != _CONVENTION
    ]
    if config.position not in inferred.positions:
        likely = dict.fromkeys(MODELS[name].position for name in names) or inferred.positions
        differing.insert(0, f"position {' or '.join(likely)}")
    if head_alone and [name.split()[0] for name in differing] == ["num_classes"]:
        return (
            f"only the head differs ({differing[0]}, the model's {config.num_classes}): pass replace_head=True, or "
            f"build the model with num_classes={inferred.fields['num_classes']}"
        )
    others = [name for name in names if MODELS[name] != config]
    convention = getattr(config, _CONVENTION, None)
    same_family = inferred.fields.get(_CONVENTION, convention) == convention
    if not differing and same_family:
        other = f", or of another with these sizes: {join_names(others, 3)}" if others else ""
        return f"it looks like a checkpoint of this model with missing or additional entries{other}"
    fields = [name.split()[0] for name in differing]
    own = [f"{field} {getattr(config, field)}" for field in fields]
    if not same_family:
        differing.append("the rotation of another family of models")
        own.append("the rotation of its own")
    named = f"{' or '.join(names[:3])}, with " if names else f"{label} with "
    return f"it looks like {named}{', '.join(differing)}, while the model has {', '.join(own)}"
