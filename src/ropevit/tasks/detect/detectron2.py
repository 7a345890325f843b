"""Convert the weights of a detector's backbone between ropevit's and detectron2's names, bit for bit.

The detectors of detrex use detectron2's ViT (in its SimpleFeaturePyramid) and Swin. Neither has rotary position
embeddings, and the ViT has no LayerScale.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ropevit.models.backbone import Backbone
from ropevit.models.dense import DenseSwin, DenseSwinConfig, DenseViT, DenseViTConfig
from ropevit.models.swin.attention import relative_index
from ropevit.text import join_names
from ropevit.weights.errors import WeightsError

#: (Our prefix, their prefix); the first match is used. "{}" stands for the index of a block; what follows is equal.
VIT = (
    ("body.blocks.{}.attn.relative.rows", "net.blocks.{}.attn.rel_pos_h"),
    ("body.blocks.{}.attn.relative.columns", "net.blocks.{}.attn.rel_pos_w"),
    ("body.", "net."),
)

#: Their entries without an equivalent in our layout: pattern -> reason for dropping.
DERIVED = {r"layers\.\d+\.blocks\.\d+\.attn\.relative_position_index": "a table, computed for every window"}

#: The position embedding, which has one more position in detectron2.
_EMBEDDING = "net.pos_embed"
_CLASS_TOKEN = "its first position belongs to a class token that neither uses; zeros in the other direction"

#: Scale of a pyramid level -> number of resizing layers before its two convolutions.
_BEFORE = {4.0: 4, 2.0: 1, 1.0: 0, 0.5: 1}


def unsupported_features(config: Any) -> list[str]:
    """Return the features of a backbone that detectron2's lacks."""
    body = config.body
    found = [f"position {body.position}"] if body.rope or body.distance else []
    if isinstance(config, DenseViTConfig):
        found += ["LayerScale"] if config.body.layer_scale is not None else []
        return found + [name for name in ("final_norm",) if getattr(config, name)]
    if isinstance(config, DenseSwinConfig):
        return found + ["no position bias"] * (not body.rope and not body.bias)
    return [type(config).__name__]


def _detectron2_names(backbone: Backbone[Any]) -> dict[str, str]:
    """Return detectron2's names of the weights of a backbone, without its prefix `backbone.`: ours -> theirs."""
    if isinstance(backbone, DenseSwin):
        table = tuple((f"norms.{i}.", f"norm{stage}.") for i, stage in enumerate(backbone.config.output_stages))
        table += (("body.", ""),)
    elif isinstance(backbone, DenseViT):
        table = VIT + tuple(
            row for level in range(len(backbone.config.pyramid.scales)) for row in _pyramid_names(backbone, level)
        )
    else:
        raise WeightsError(f"got a {type(backbone).__name__}; expected a ViT or a Swin, the backbones of detectron2")
    return {key: _to_detectron2_name(key, table) for key in backbone.state_dict()}


def _pyramid_names(backbone: DenseViT, level: int) -> list[tuple[str, str]]:
    """Return (our prefix, their prefix) for the layers of one pyramid level."""
    scale, stride = backbone.config.pyramid.scales[level], backbone.strides[level]
    ours, own, first = f"pyramid.levels.{level}.", f"simfp_{stride.bit_length() - 1}.", _BEFORE[scale]
    if scale == 4:
        parts = [(f"resize.{i}.{'norm.' * (i == 1)}", f"{i}.") for i in (0, 1, 3)]
    else:
        parts = [("resize.", "0.")] * (scale == 2)
    for number, name in ((first, "reduce"), (first + 1, "smooth")):
        parts += [(f"{name}.0.", f"{number}."), (f"{name}.1.norm.", f"{number}.norm.")]
    return [(ours + mine, own + other) for mine, other in parts]


def _to_detectron2_name(key: str, table: tuple[tuple[str, str], ...]) -> str:
    """Return detectron2's name of a ropevit weight."""
    for ours, other in table:
        pattern = re.escape(ours).replace(r"\{\}", r"(\d+)")
        if match := re.fullmatch(pattern + "(.*)", key):
            *numbers, rest = match.groups()
            return other.format(*numbers) + rest
    raise AssertionError(f"{key} has no name in detectron2")


def to_detectron2(backbone: Backbone[Any], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of a backbone to detectron2's names.

    Args:
        backbone: The backbone, for its config and names; it may be on the meta device.
        state: Weights of the backbone.
    """
    found = {other: state[own] for own, other in _detectron2_names(backbone).items()}
    if _EMBEDDING in found:
        pos_embed = found[_EMBEDDING]
        found[_EMBEDDING] = torch.cat([torch.zeros_like(pos_embed[:, :1]), pos_embed], dim=1)
    if isinstance(backbone, DenseSwin):
        index = relative_index(backbone.config.body.window_size)
        tables = [name for name in found if name.endswith(".relative_position_bias_table")]
        found |= {name.replace("bias_table", "index"): index.clone() for name in tables}
    return found


def from_detectron2(backbone: Backbone[Any], state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Rename detectron2's weights of a backbone to our names.

    Args:
        backbone: The backbone, for its names and shapes; it may be on the meta device.
        state: Entries of the checkpoint below `backbone.`, without that prefix.

    Returns:
        Weights by our names, and the dropped entries: name -> reason.

    Raises:
        WeightsError: If an entry is missing, unknown or of another shape.
    """
    derived = {key: why for key in state for pattern, why in DERIVED.items() if re.fullmatch(pattern, key)}
    given = {key: value for key, value in state.items() if key not in derived}
    if _EMBEDDING in given and given[_EMBEDDING].ndim == 3:
        given[_EMBEDDING] = given[_EMBEDDING][:, 1:]
        derived[f"{_EMBEDDING}[:, 0]"] = _CLASS_TOKEN
    wanted, found = _detectron2_names(backbone), {}
    problems = {
        "missing": [other for other in wanted.values() if other not in given],
        "unknown": sorted(set(given) - set(wanted.values())),
        "of another shape": [],
    }
    for (own, other), like in zip(wanted.items(), backbone.state_dict().values(), strict=True):
        if other in given:
            found[own] = given[other]
            if given[other].shape != like.shape:
                problems["of another shape"].append(f"{other} {list(given[other].shape)}, expected {list(like.shape)}")
    mismatch = "; ".join(f"{what}: {join_names(entries)}" for what, entries in problems.items() if entries)
    if mismatch:
        raise WeightsError(f"the weights do not fit detectron2's backbone: {mismatch}")
    return found, derived
