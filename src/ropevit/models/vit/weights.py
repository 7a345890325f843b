"""State dicts of a ViT: the published layout, timm's, and inference of the config from shapes."""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ropevit.models.positions import VIT_EMBEDDINGS
from ropevit.models.state_dict import (
    InferredModel,
    KeyPattern,
    Shapes,
    StateDictAdapter,
    axis_length,
    count_layers,
    infer_common,
    match_keys,
    positions_with,
    rope_parameters,
)
from ropevit.models.vit.config import ViTConfig
from ropevit.models.vit.layouts import SIGNS, layout_rows
from ropevit.models.vit.variants import TIMM_NAMES
from ropevit.rope import ROPE_FAMILIES, RopeConvention, grid_positions

_BLOCKS = r"blocks\.(\d+)\."
#: Name of the periods in files of DINOv3's authors.
PERIODS = "rope_embed.periods"
#: Conventions of the families that timm's layout stores besides DINOv3's.
_TIMM_CONVENTIONS = [ROPE_FAMILIES[name].convention for name in ("eva02", "timm_rope")]
#: Any config with a gate in its MLPs.
_GATED = ViTConfig(position="rope_axial", width=4, depth=1, heads=1, mlp="swiglu")

#: Config fields that other layouts imply, except theta and the grid.
_IMPLIED = {
    "published": {"pooling": "token", "class_token": True, "num_registers": 0, "frames": None, "pairs": None},
    "timm": {"pooling": "token", "class_token": True, "frames": None, "pairs": None},
}


def _infer_vit(tensors: Mapping[str, Tensor]) -> InferredModel | None:
    """Infer the config of a ViT from the shapes of its weights, in any layout."""
    shapes = _own_names({key: tuple(value.shape) for key, value in tensors.items()})
    common = infer_common(shapes)
    if common is None:
        return None
    frequencies = next((key for key in shapes if re.fullmatch(r"(.*\.)?freqs", key)), "")
    width, dinov3 = common["width"], _infer_dinov3(tensors)
    return InferredModel(
        architecture="vit",
        fields=common
        | {
            "depth": count_layers(shapes, _BLOCKS),
            "mlp_ratio": (axis_length(shapes, "blocks.0.mlp.fc2.weight", 1) or 4 * width) / width,
            "class_token": "cls_token" in shapes,
            "num_registers": axis_length(shapes, "register_tokens", 1) or axis_length(shapes, "reg_token", 1) or 0,
        }
        | dinov3,
        start={"layer_scale": 1e-4 if "blocks.0.gamma_1" in shapes else None}
        | ({"mask_token": True} if "mask_token" in shapes else {}),
        positions=positions_with(VIT_EMBEDDINGS, rope_parameters(bool(frequencies)), "pos_embed" in shapes),
        heads=axis_length(shapes, frequencies, -2) if frequencies.count(".") else None,
        patches=_embedded_patches(shapes) or axis_length(shapes, "freqs_t_x", 0) or 14 * 14,
        unnamed_family=not dinov3 and not {"cls_token", "blocks.0.attn.qkv.bias"} <= shapes.keys(),
    )


def _embedded_patches(shapes: Shapes) -> int | None:
    """Return the patches of an absolute embedding, which also has the class token where that makes it a square grid."""
    count = axis_length(shapes, "pos_embed", 1)
    if not count or square_side(count) or not square_side(count - 1):
        return count
    return count - 1


def square_side(patches: int) -> int | None:
    """Return the side of a square grid of this many patches; None if they are no square."""
    side = math.isqrt(patches)
    return side if side * side == patches else None


def _own_names(shapes: Shapes) -> Shapes:
    """Rename weights of DINOv3's layouts to ours, those alone that have one name in theirs."""
    renamed = dict(shapes)
    for row in (*layout_rows(_GATED, "dinov3"), *layout_rows(_GATED, "transformers")):
        if not isinstance(row, KeyPattern):
            continue
        for numbers in match_keys(row.theirs, renamed):
            renamed[row.ours.format(*numbers)] = renamed.pop(row.theirs.format(*numbers))
    return renamed


def _infer_dinov3(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the fields that the layouts of DINOv3 alone imply; empty for other layouts."""
    if "storage_tokens" not in tensors and "embeddings.register_tokens" not in tensors:
        return {}
    biased = any(key.endswith(("attn.qkv.bias", "attention.q_proj.bias")) for key in tensors)
    masked = any(key.endswith("attn.qkv.bias_mask") for key in tensors) or "storage_tokens" not in tensors
    return {
        "rope_convention": ROPE_FAMILIES["dinov3"].convention,
        "norm_eps": 1e-5,
        "qkv_bias": biased,
        "key_bias": not (biased and masked),
        "mlp": "swiglu" if any("mlp.w1." in key or "mlp.gate_proj." in key for key in tensors) else "gelu",
    }


def derived_tables(config: ViTConfig) -> dict[str, Tensor]:
    """Compute what files hold beside weights: positions of learned frequencies; DINOv3's periods and bias masks."""
    if config.rope_convention == ROPE_FAMILIES["dinov3"].convention:
        mask = torch.ones(3, config.width)
        mask[1] = 0
        masks = (
            {} if config.key_bias else {f"blocks.{i}.attn.qkv.bias_mask": mask.flatten() for i in range(config.depth)}
        )
        return {PERIODS: periods(config)} | masks
    if config.rope != "mixed":
        return {}
    x, y = grid_positions(*config.grid).unbind(-1)
    return {"freqs_t_x": x.contiguous(), "freqs_t_y": y.contiguous()}


def implied_fields(config: ViTConfig, layout: str) -> dict[str, Any]:
    """Return the config fields that a layout implies, with their values.

    Raises:
        ValueError: If the layout cannot represent the model.
    """
    if config.position == "none":
        raise ValueError(f"has no position embedding, which the {layout} layout cannot store; keep the ropevit layout")
    if config.rope_convention == ROPE_FAMILIES["dinov3"].convention and layout != "published":
        return {"theta": 100.0, "norm_eps": 1e-5, "class_token": True}
    if config.pre_norm and config.rope_convention != RopeConvention() and layout == "timm":
        return {"theta": 10000.0, "norm_eps": 1e-5, "pooling": "map"}
    if config.rope_convention in _TIMM_CONVENTIONS and layout == "timm":
        return {"theta": 10000.0, "norm_eps": 1e-6, "pooling": "avg", "pooled_norm": True}
    if config.rope_convention != RopeConvention() or layout in ("dinov3", "transformers"):
        raise ValueError(
            f"has {config.rope_convention}, which the {layout} layout cannot store; keep the ropevit layout"
        )
    implied: dict[str, Any] = {"theta": replace(config, rope_theta=None).theta} if config.rope == "axial" else {}
    if config.absolute or layout == "published":
        implied["grid"] = (config.grid[0],) * 2
    return _IMPLIED[layout] | implied


def reorder(name: str, weight: Tensor, config: ViTConfig, back: bool) -> Tensor:
    """Reorder the queries and keys of a packed projection from the family's channels to ours, or back; others as is."""
    if not re.fullmatch(_BLOCKS + r"attn\.qkv\.(weight|bias)", name) or len(weight) != 3 * config.width:
        return weight  # a wrong shape is left to later checks
    q, k, v = weight.chunk(3)
    channels = config.width // config.heads
    return torch.cat([config.rope_convention.reorder(part, channels, back=back) for part in (q, k)] + [v])


def periods(config: ViTConfig) -> Float[Tensor, "_"]:
    """Compute the periods that DINOv3's files hold: 1 over the frequencies of an axis."""
    quarter = config.width // config.heads // 4
    return config.theta ** (torch.arange(quarter, dtype=torch.float32) / quarter)


def drop_fixed(state: dict[str, Tensor], config: ViTConfig) -> dict[str, str]:
    """Remove what files of DINOv3 hold besides weights, after checking that the model computes the same."""
    is_dinov3 = config.rope_convention == ROPE_FAMILIES["dinov3"].convention
    tables, dropped = derived_tables(config) if is_dinov3 else {}, {}
    for name in [*tables, *(key for key in state if key.startswith("local_cls_norm."))]:
        if name in state:
            found = state.pop(name).float()
            if name in tables and not (
                found.shape == tables[name].shape and torch.allclose(found, tables[name], rtol=0.01)
            ):
                raise ValueError(f"holds other {name} than those of base {config.theta:g}, which the model has")
            dropped[name] = "computed from the config" if name in tables else "for local crops in pre-training"
    if not config.mask_token and state.pop("mask_token", None) is not None:
        dropped["mask_token"] = "for masked patches in pre-training; mask_token=True keeps it"
    return dropped


ADAPTER = StateDictAdapter(
    blocks=_BLOCKS + r"|(model\.)?layer\.\d+\.layer_scale",
    infer=_infer_vit,
    layouts=SIGNS,
    rows=layout_rows,
    drop_fixed=drop_fixed,
    own_keys=("blocks.{}.attn.rope.freqs", "register_tokens", "prefix_embed", "pre_norm.weight"),
    derived={r"(.+\.)?(freqs|rope)_t_[xy]": "positions, recomputed for every image"},
    written=("published", "timm", "dinov3", "transformers"),
    derived_tables=derived_tables,
    implied_fields=implied_fields,
    reorders=lambda config: config.rope_convention.reorders,
    reorder=reorder,
    aliases=TIMM_NAMES,
)
