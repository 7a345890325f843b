"""Config fields that files without a config imply for a ViT: one row for each family and layout."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from ropevit.models.vit.config import ViTConfig
from ropevit.rope import ROPE_FAMILIES, RopeConvention

#: All models of the paper's authors have a class token, which they pool, and take images.
_PAPER = {"pooling": "token", "class_token": True, "frames": None, "pairs": None}


def _family_fields(family: str, **fields: Any) -> dict[str, Any]:
    """Return fields that all models of a family share, with the base of its frequencies."""
    return {"theta": ROPE_FAMILIES[family].theta, **fields}


def _with_convention(family: str, **fields: Any) -> dict[str, Any]:
    """Return fields that all models of a family share, with its convention, the same in all of them."""
    return _family_fields(family, rope_convention=ROPE_FAMILIES[family].convention, **fields)


_DINOV3 = _with_convention("dinov3", norm_eps=1e-5, class_token=True)
_EVA02 = _with_convention("eva02", norm_eps=1e-6, key_bias=False)
_PE = _family_fields("pe", norm_eps=1e-5, pre_norm=True)
_POOLED = {"norm_eps": 1e-6, "pooling": "avg", "pooled_norm": True}

#: Family of `ROPE_FAMILIES` -> layout that stores its models -> config fields (or theta) that such a file implies.
IMPLIED: dict[str, dict[str, dict[str, Any]]] = {
    "rope_vit": {"published": _PAPER | {"num_registers": 0}, "timm": _PAPER},
    "dinov3": {"timm": _DINOV3, "dinov3": _DINOV3, "transformers": _DINOV3},
    "eva02": {"timm": _EVA02, "eva02": _EVA02},
    "timm_rope": {"timm": _with_convention("timm_rope", **_POOLED)},
    "pe": {"timm": _PE, "pe": _PE},
}

#: Family of several kinds of models -> the config field that distinguishes them, inferred from names of weights, and
#: for each of its values the further fields that files imply: EVA-02 and its CLIP towers; Perception Encoder lang and
#: spatial, and core.
_SUBFAMILIES: dict[str, tuple[str, dict[bool, dict[str, Any]]]] = {
    "eva02": ("attn_norm", {False: _POOLED, True: {"pooling": "token", "pooled_norm": False}}),
    "pe": ("final_norm", {False: {"pooling": "avg"}, True: {"pooling": "map"}}),
}


class KeyHints(NamedTuple):
    """Suffixes of keys from which config fields are inferred that ropevit's own keys do not determine."""

    bias: str
    """Suffix of the bias of the queries."""
    unused: str
    """Suffix of an entry that is present where the biases of the keys are not used; empty: files never have them."""
    gate: str
    """Suffix of the gate of a SwiGLU MLP."""


#: Layout of a single family -> the suffixes by which biases and gates are inferred from its files.
KEY_HINTS: dict[str, KeyHints] = {
    "dinov3": KeyHints("attn.qkv.bias", "attn.qkv.bias_mask", "mlp.w1.weight"),
    "transformers": KeyHints("attention.q_proj.bias", "", "mlp.gate_proj.weight"),
}


def family_of(config: ViTConfig) -> str | None:
    """Return the family whose convention a config has, a key of `ROPE_FAMILIES`; None if no family has it.

    Models of a family may differ in the reference grid and the offset. Of families with the same convention, it is the
    one whose models have an absolute embedding as this one.
    """
    own = _without_offsets(config.rope_convention)
    same = [name for name, family in ROPE_FAMILIES.items() if _without_offsets(family.convention) == own]
    return next((name for name in same if (name in _ABSOLUTE) == config.absolute), same[0] if same else None)


#: Families whose models have an absolute embedding beside the rotation.
_ABSOLUTE = ("eva02", "pe")


def _without_offsets(convention: RopeConvention) -> RopeConvention:
    """Return a convention without what differs between models of a family."""
    grid = None if convention.reference_grid is None else (1, 1)
    return replace(convention, reference_grid=grid, offset=0.0)


def implied_fields(config: ViTConfig, layout: str) -> dict[str, Any]:
    """Return the config fields that a layout implies, with their values.

    Raises:
        ValueError: If the layout cannot represent the model.
    """
    if config.position == "none":
        raise ValueError(f"has no position embedding, which the {layout} layout cannot store; keep the ropevit layout")
    family = family_of(config)
    implied = IMPLIED.get(family or "", {}).get(layout)
    if implied is None:
        raise ValueError(
            f"has {config.rope_convention}, which the {layout} layout cannot store; keep the ropevit layout"
        )
    sizes: dict[str, Any] = {}
    if family in _SUBFAMILIES:
        field, kinds = _SUBFAMILIES[family]
        sizes |= kinds[getattr(config, field)]
    if family == "rope_vit":
        sizes["rope_convention"] = RopeConvention()
        if config.rope == "axial":
            sizes["theta"] = replace(config, rope_theta=None).theta
    if config.absolute or layout == "published":
        sizes["grid"] = (config.grid[0],) * 2
    return implied | sizes


def fields_from_keys(layout: str, keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config fields that a layout of one family shows by its names, besides those of shapes.

    Args:
        layout: Name of the layout; empty fields for those that several families share.
        keys: The weights.
    """
    signs = KEY_HINTS.get(layout)
    if signs is None:
        return {}
    implied = next(layouts[layout] for layouts in IMPLIED.values() if layout in layouts)
    biased, unused, gated = (any(key.endswith(end) for key in keys) for end in signs)
    return {name: value for name, value in implied.items() if name not in ("theta", "class_token")} | {
        "qkv_bias": biased,
        "key_bias": not (biased and unused),
        "mlp": "swiglu" if gated else "gelu",
    }
