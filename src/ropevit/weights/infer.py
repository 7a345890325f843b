"""Infers the architecture and config fields of weights from names and shapes, and explains mismatches."""

import math
import re
from collections.abc import Mapping, Sequence
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


def similar_names(inferred: InferredModel, convention: RopeConvention | None = None) -> list[str]:
    """Return the names of models with such weights, those with published weights if there are any.

    Args:
        inferred: The model inferred from its shapes.
        convention: That of its family, where the weights do not show it; None for the paper's.
    """
    same = [field for field in ("width", "depth", "depths", "patch_size", "num_registers") if field in inferred.fields]
    paper = RopeConvention()
    convention = inferred.fields.get(_CONVENTION, convention or paper)
    names = [
        name
        for name, config in MODELS.items()
        if architecture(config) == inferred.architecture
        and getattr(config, _CONVENTION, paper) == convention
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
    names = similar_names(inferred, getattr(config, _CONVENTION, None))
    label = ARCHITECTURES[inferred.architecture].label
    if inferred.architecture != architecture(config):
        named = " or ".join(names) or f"{label} with position {' or '.join(inferred.positions)}"
        return f"it looks like {named}, while the model is {ARCHITECTURES[architecture(config)].label}"
    theirs, own = _differences(inferred, config, names)
    if head_alone and list(theirs) == ["num_classes"]:
        return (
            f"only the head differs (num_classes {theirs['num_classes']}, the model's {config.num_classes}): pass "
            f"replace_head=True, or build the model with num_classes={inferred.fields['num_classes']}"
        )
    if not theirs:
        others = join_names((name for name in names if MODELS[name] != config), 3)
        other = f", or of another with these sizes: {others}" if others else ""
        return f"it looks like a checkpoint of this model with missing or additional entries{other}"
    named = f"{' or '.join(names[:3])}, with " if names else f"{label} with "
    differing, ours = (", ".join(f"{name} {text}" for name, text in side.items()) for side in (theirs, own))
    return f"it looks like {named}{differing}, while the model has {ours}"


def _differences(
    inferred: InferredModel, config: Config, names: Sequence[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the fields in which a checkpoint differs from a model, each as text: the checkpoint's, and the model's."""
    theirs = {field: str(value) for field, value in inferred.fields.items() if value != getattr(config, field)}
    own = {field: str(getattr(config, field)) for field in theirs}
    if theirs.pop(_CONVENTION, None) is not None:
        theirs["the rotation"], own["the rotation"] = "of another family of models", "of its own"
        del own[_CONVENTION]
    if config.position not in inferred.positions:
        likely = dict.fromkeys(MODELS[name].position for name in names) or inferred.positions
        theirs = {"position": " or ".join(likely)} | theirs
        own = {"position": config.position} | own
    return theirs, own
