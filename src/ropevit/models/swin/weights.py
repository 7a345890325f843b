"""State dicts of a Swin: the published layout with its derived tables, timm's, and the config inferred from shapes."""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ropevit.arithmetic import ceil_div
from ropevit.kernels.windows import make_mask
from ropevit.models.positions import SWIN_EMBEDDINGS
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
from ropevit.models.swin.attention import relative_index
from ropevit.models.swin.config import SwinConfig
from ropevit.rope import axial_frequencies, grid_positions

_BLOCKS = r"layers\.(\d+)\.blocks\."

#: Most stages of a Swin that inference accepts; each has twice the channels of the one before.
_MOST_STAGES = 16

#: Key of the learned frequencies of a block in the ropevit layout.
FREQUENCIES = "layers.{}.blocks.{}.attn.rope.freqs"

#: Weights of patch merging.
_MERGING = ("norm.weight", "norm.bias", "reduction.weight")


def _infer_swin(tensors: Mapping[str, Tensor]) -> InferredModel | None:
    """Infer the config of a Swin from its weights."""
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    common, stages = infer_common(shapes), range(count_layers(shapes, _BLOCKS))
    if common is None or not 0 < len(stages) <= _MOST_STAGES:
        return None
    frequencies = [key for key in tensors if re.fullmatch(r"layers\.\d+\.blocks\.\d+\.attn\.rope[._]freqs", key)]
    fixed = bool(frequencies) and all(_is_fixed(tensors[key]) for key in frequencies)
    bias = axis_length(shapes, "layers.0.blocks.0.attn.relative_position_bias_table", 0)
    heads = [_infer_heads(shapes, stage) for stage in stages]
    width, window = common["width"], _infer_window(shapes, bias)
    return InferredModel(
        architecture="swin",
        fields=common
        | {
            "depths": tuple(count_layers(shapes, rf"layers\.{stage}\.blocks\.(\d+)\.") for stage in stages),
            "mlp_ratio": (axis_length(shapes, "layers.0.blocks.0.mlp.fc1.weight", 0) or 4 * width) / width,
        },
        suggested={"window_size": window},
        positions=positions_with(
            SWIN_EMBEDDINGS,
            {"axial"} if fixed else rope_parameters(bool(frequencies)),
            "pos_embed" in shapes,
            bias is not None,
        ),
        heads=tuple(heads) if all(heads) else None,
        patches=axis_length(shapes, "pos_embed", 1)
        or (axis_length(shapes, "layers.0.blocks.1.attn_mask", 0) or 8 * 8) * window**2,
    )


def _infer_window(shapes: Shapes, bias: int | None) -> int:
    """Infer the window size in tokens from a bias table or positions, or return the published one."""
    if bias:
        return (math.isqrt(bias) + 1) // 2
    return math.isqrt(axis_length(shapes, "layers.0.blocks.0.attn.rope_t_x", 0) or 49)


def _infer_heads(shapes: Shapes, stage: int) -> int:
    """Infer the heads of a stage, which are axis 1 of several weights; 0 if none of them exists."""
    names = ("rope.freqs", "rope_freqs", "relative_position_bias_table")
    return next((n for name in names if (n := axis_length(shapes, f"layers.{stage}.blocks.0.attn.{name}", 1))), 0)


def derived_tables(config: SwinConfig) -> dict[str, Tensor]:
    """Compute the tables of every block: positions in the window, fixed frequencies, indices and masks."""
    window, tables = config.window_size, {}
    x, y = grid_positions(window, window).unbind(-1)
    for stage, (depth, heads) in enumerate(zip(config.depths, config.heads, strict=True)):
        side = config.grid[0] // 2**stage
        mask = make_mask(side, side, window, (window // 2, window // 2), torch.device("cpu"))
        for block in range(depth):
            name = f"layers.{stage}.blocks.{block}"
            if config.rope:
                tables |= {f"{name}.attn.rope_t_x": x.contiguous(), f"{name}.attn.rope_t_y": y.contiguous()}
            if config.rope == "axial":
                tables[f"{name}.attn.rope_freqs"] = _published_frequencies(config, stage).expand(-1, heads, -1)
            if config.bias:
                tables[f"{name}.attn.relative_position_index"] = relative_index(window)
            if block % 2 and side > window:
                tables[f"{name}.attn_mask"] = torch.zeros(mask.shape).masked_fill(~mask, -100.0)
    return tables


def _fixed_frequencies(config: SwinConfig, stage: int) -> Float[Tensor, "2 1 P"]:
    """Compute the frequencies of RoPE-Axial in a stage, which all its heads share."""
    return axial_frequencies(config.width * 2**stage // config.heads[stage], config.theta).unsqueeze(1)


def _published_frequencies(config: SwinConfig, stage: int) -> Float[Tensor, "2 1 P"]:
    """Compute them as the published code, which rotates by float32(pi / 2), whose cosine is -4e-8 instead of 0."""
    x, y = _fixed_frequencies(config, stage).unbind(0)
    return torch.stack([x + y * torch.tensor(torch.pi / 2).cos(), y])


def drop_fixed(state: dict[str, Tensor], config: SwinConfig) -> dict[str, str]:
    """Remove the fixed frequencies of a published RoPE-Axial Swin from its weights, if they equal the model's.

    Args:
        state: Weights in the ropevit layout; modified in place.
        config: The model.

    Returns:
        Removed keys and the reason: key -> reason.

    Raises:
        ValueError: If they differ, which the published code would not notice.
    """
    if config.rope != "axial":
        return {}
    dropped = {}
    for stage, block in match_keys(FREQUENCIES, state):
        name = FREQUENCIES.format(stage, block)
        theirs = state[name]
        if int(stage) >= len(config.depths) or not _is_fixed(theirs):
            continue  # of another model, or learned: left to later checks
        ours = _fixed_frequencies(config, int(stage)).expand(-1, config.heads[int(stage)], -1).to(theirs.dtype)
        if ours.shape != theirs.shape:
            continue
        if not torch.allclose(theirs, ours, rtol=torch.finfo(theirs.dtype).eps, atol=1e-5):
            raise ValueError(
                f"was made with other fixed frequencies than the model's (theta {_infer_theta(theirs):.4g} "
                f"instead of {config.theta:g}, in {name}); build the model with the file's rope_theta"
            )
        dropped[name] = "fixed frequencies, the same as the model's own"
        del state[name]
    return dropped


def _is_fixed(frequencies: Tensor) -> bool:
    """Return whether frequencies (2, A, P) are fixed: pairs rotate with x or with y but never both."""
    if frequencies.is_meta or frequencies.ndim != 3 or frequencies.shape[0] != 2 or frequencies.shape[-1] % 2:
        return False
    (x, not_x), (not_y, y) = (row.float().chunk(2, dim=-1) for row in frequencies)
    zeros = torch.cat([not_x, not_y]).abs()
    return bool((zeros < 1e-5).all() and (x > 0).all() and (y > 0).all())


def _infer_theta(frequencies: Tensor) -> float:
    """Infer theta from fixed frequencies: the second over the first is theta^(-2/P)."""
    pairs = frequencies.shape[-1]
    return float(frequencies[0, 0, min(1, pairs // 2 - 1)] / frequencies[0, 0, 0]) ** (-pairs / 2)


def implied_fields(config: SwinConfig, layout: str) -> dict[str, Any]:
    """Return the config fields that the published layout implies, with their values.

    Raises:
        ValueError: If the layout cannot represent the model.
    """
    if config.position == "none" or config.absolute:
        what = "an absolute" if config.absolute else "no"
        raise ValueError(
            f"has {what} position embedding, which the {layout} layout cannot store; keep the ropevit layout"
        )
    unit = config.window_size * config.stride  # whole windows in every stage
    implied: dict[str, Any] = {"theta": replace(config, rope_theta=None).theta} if config.rope == "axial" else {}
    return implied | {"img_size": (ceil_div(config.img_size[0], unit) * unit,) * 2}


ADAPTER = StateDictAdapter(
    blocks=_BLOCKS,
    infer=_infer_swin,
    layouts={
        "published": (KeyPattern(FREQUENCIES, "layers.{}.blocks.{}.attn.rope_freqs"),),  # (2, A, P)
        "timm-swin": (  # since timm 0.9, which counts patch merging to the following stage
            KeyPattern("head.weight", "head.fc.weight"),
            KeyPattern("head.bias", "head.fc.bias"),
            *(KeyPattern(name, name, index_offset=1) for name in (f"layers.{{}}.downsample.{end}" for end in _MERGING)),
        ),
    },
    own_keys=(FREQUENCIES,),
    derived={
        r"(.+\.)?rope_t_[xy]": "positions, recomputed for every image",
        r"(.+\.)?relative_(position_index|coords_table)": "a table, recomputed for every window size",
        r"(.+\.)?attn_mask": "a mask, recomputed for every image",
    },
    writable=("published",),
    derived_tables=derived_tables,
    drop_fixed=drop_fixed,
    implied_fields=implied_fields,
)
