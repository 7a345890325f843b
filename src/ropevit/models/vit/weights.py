"""State dicts of a ViT: the published layout, timm's, and inference of the config from shapes."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ropevit.models.positions import VIT_EMBEDDINGS
from ropevit.models.state_dict import (
    InferredModel,
    KeyPattern,
    StateDictAdapter,
    axis_length,
    count_layers,
    infer_common,
    positions_with,
    rope_parameters,
)
from ropevit.models.vit.config import ViTConfig
from ropevit.models.vit.variants import TIMM_NAMES
from ropevit.rope import RopeConvention, grid_positions

_BLOCKS = r"blocks\.(\d+)\."

#: Config fields that other layouts imply, except theta and the grid.
_IMPLIED = {
    "published": {"pooling": "token", "class_token": True, "num_registers": 0, "frames": None, "pairs": None},
    "timm": {"pooling": "token", "class_token": True, "frames": None, "pairs": None},
}


def _infer_vit(tensors: Mapping[str, Tensor]) -> InferredModel | None:
    """Infer the config of a ViT from the shapes of its weights."""
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    common = infer_common(shapes)
    if common is None:
        return None
    frequencies = next((key for key in shapes if re.fullmatch(r"(.*\.)?freqs", key)), "")
    width = common["width"]
    return InferredModel(
        architecture="vit",
        fields=common
        | {
            "depth": count_layers(shapes, _BLOCKS),
            "mlp_ratio": (axis_length(shapes, "blocks.0.mlp.fc1.weight", 0) or 4 * width) / width,
            "class_token": "cls_token" in shapes,
            "num_registers": axis_length(shapes, "register_tokens", 1) or axis_length(shapes, "reg_token", 1) or 0,
        },
        start={"layer_scale": 1e-4 if "blocks.0.gamma_1" in shapes else None},
        positions=positions_with(VIT_EMBEDDINGS, rope_parameters(bool(frequencies)), "pos_embed" in shapes),
        heads=axis_length(shapes, frequencies, -2) if frequencies.count(".") else None,
        patches=axis_length(shapes, "pos_embed", 1) or axis_length(shapes, "freqs_t_x", 0) or 14 * 14,
    )


def derived_tables(config: ViTConfig) -> dict[str, Tensor]:
    """Compute the positions that the published code stores beside learned frequencies."""
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
    if config.rope_convention != RopeConvention():
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


ADAPTER = StateDictAdapter(
    blocks=_BLOCKS,
    infer=_infer_vit,
    layouts={
        "published": (KeyPattern("blocks.{}.attn.rope.freqs", "freqs", flat=True),),  # (2, depth, A P)
        "timm": (
            KeyPattern("blocks.{}.attn.rope.freqs", "rope.freqs"),  # (2, depth, A, P)
            KeyPattern("register_tokens", "reg_token"),
        ),
    },
    own_keys=("blocks.{}.attn.rope.freqs", "register_tokens"),
    derived={r"(.+\.)?(freqs|rope)_t_[xy]": "positions, recomputed for every image"},
    written=("published", "timm"),
    derived_tables=derived_tables,
    implied_fields=implied_fields,
    reorders=lambda config: config.rope_convention.reorders,
    reorder=reorder,
    aliases=TIMM_NAMES,
)
