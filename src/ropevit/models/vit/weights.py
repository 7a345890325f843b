"""State dicts of a ViT: the published layout, timm's, and inference of the config from shapes."""

import math
import re
from collections.abc import Mapping

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
from ropevit.models.vit.families import FILE_NAMES
from ropevit.models.vit.implied import KEY_HINTS, family_of, fields_from_keys, implied_fields
from ropevit.models.vit.layouts import SIGNATURES, key_mappings, prefix
from ropevit.models.vit.variants import TIMM_NAMES
from ropevit.rope import grid_positions

_BLOCKS = r"blocks\.(\d+)\."
#: Name of the periods in files of DINOv3's authors.
PERIODS = "rope_embed.periods"
#: Layouts of one family alone.
_AUTHORS = ("dinov3", "transformers", "eva02", "pe")
#: Any config with a gate in its MLPs.
_GATED = ViTConfig(position="rope_axial", width=4, depth=1, heads=1, mlp="swiglu")


def _infer_vit(tensors: Mapping[str, Tensor]) -> InferredModel | None:
    """Infer the config of a ViT from the shapes of its weights, in any layout."""
    shapes = _own_names({key: tuple(value.shape) for key, value in tensors.items()})
    common = infer_common(shapes)
    if common is None:
        return None
    width, frequencies = common["width"], _frequencies(shapes)
    family = fields_from_keys(_layout_of_one_family(tensors), tensors)
    return InferredModel(
        architecture="vit",
        fields=common
        | {
            "depth": count_layers(shapes, _BLOCKS),
            "mlp_ratio": (axis_length(shapes, "blocks.0.mlp.fc2.weight", 1) or 4 * width) / width,
            "class_token": "cls_token" in shapes,
            "num_registers": axis_length(shapes, "register_tokens", 1) or axis_length(shapes, "reg_token", 1) or 0,
        }
        | family,
        suggested={"layer_scale": 1e-4 if "blocks.0.gamma_1" in shapes else None}
        | ({"mask_token": True} if "mask_token" in shapes else {}),
        positions=positions_with(VIT_EMBEDDINGS, rope_parameters(bool(frequencies)), "pos_embed" in shapes),
        heads=axis_length(shapes, frequencies, -2) if frequencies.count(".") else None,
        patches=_embedded_patches(shapes) or axis_length(shapes, "freqs_t_x", 0),
        unnamed_family=not family and _of_unnamed_family(tensors, shapes),
    )


def _frequencies(shapes: Shapes) -> str:
    """Return the name of the first learned frequencies; empty without any."""
    return next((key for key in shapes if re.fullmatch(r"(.*\.)?freqs", key)), "")


def _of_unnamed_family(tensors: Mapping[str, Tensor], shapes: Shapes) -> bool:
    """Return whether weights are of another family than the published models and do not determine their config."""
    layouts = {layout for layout in ("eva02", "pe") for row in SIGNATURES[layout] if match_keys(row.theirs, tensors)}
    usual = {"cls_token", "blocks.0.attn.qkv.bias"} <= shapes.keys()
    of_others = {"norm_pre.weight", "pre_norm.weight"}
    if not _frequencies(shapes):  # fixed ones, and the file does not hold them: may be DINOv3
        of_others |= {"register_tokens", "reg_token"}
    return bool(layouts) or not usual or bool(of_others & shapes.keys())


def _embedded_patches(shapes: Shapes) -> int | None:
    """Return the patches of an absolute embedding, which also has the class token where that makes it a square grid."""
    count = axis_length(shapes, "pos_embed", 1)
    if not count or square_side(count) or not square_side(count - 1):
        return count
    return count - 1


def square_side(patches: int) -> int | None:
    """Return the side of a square grid of this many patches; None if they do not form a square."""
    side = math.isqrt(patches)
    return side if side * side == patches else None


def _own_names(shapes: Shapes) -> Shapes:
    """Rename weights of other families' layouts to ours, those alone that have one name in theirs."""
    renamed = dict(shapes)
    for row in (row for layout in _AUTHORS for row in key_mappings(_GATED, layout)):
        if not isinstance(row, KeyPattern):
            continue
        for numbers in match_keys(row.theirs, renamed):
            shape = (1,) * row.squeezed + renamed.pop(row.theirs.format(*numbers))
            renamed[row.ours.format(*numbers)] = shape[::-1] if row.transposed else shape
    return renamed


def _layout_of_one_family(tensors: Mapping[str, Tensor]) -> str:
    """Return the layout that a file has, if only one family is stored in it; else an empty name."""
    return next((layout for layout in KEY_HINTS for row in SIGNATURES[layout] if row.theirs in tensors), "")


def derived_tables(config: ViTConfig) -> dict[str, Tensor]:
    """Compute what files hold beside weights: positions of learned frequencies; tables of DINOv3 and EVA-02."""
    family = family_of(config)
    if family == "eva02":
        return {} if config.attn_norm else eva02_tables(config, config.grid)  # released CLIP models have none
    if family == "dinov3":
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


def eva02_tables(config: ViTConfig, grid: tuple[int, int]) -> dict[str, Float[Tensor, "N D"]]:
    """Compute the cosines and sines that EVA-02's files hold, once for the model and once for each block.

    Args:
        config: Config of the model.
        grid: Rows and columns of patches; positions are those of the config's reference grid.
    """
    channels = config.width // config.heads
    reference = config.rope_convention.reference_grid or grid
    frequencies = 1.0 / config.theta ** (torch.arange(0, channels // 2, 2).float() / (channels // 2))
    y, x = (
        (torch.arange(count) / count * most)[:, None] * frequencies for count, most in zip(grid, reference, strict=True)
    )
    pairs = torch.cat([y[:, None].expand(-1, grid[1], -1), x.expand(grid[0], -1, -1)], -1).flatten(0, 1)
    angles = pairs.repeat_interleave(2, -1)
    tables = {"rope.freqs_cos": angles.cos(), "rope.freqs_sin": angles.sin()}
    return tables | {
        f"blocks.{block}.attn.{name}": table for block in range(config.depth) for name, table in tables.items()
    }


#: Start of the name of an entry of files of a family -> what it is for; no model here has it.
_OF_PRETRAINING = {
    "dinov3": {
        "local_cls_norm.": "for local crops in pre-training",
        "projectors.": "for distillation in pre-training",
    },
    "eva02": {"lm_head.": "for the features of masked patches in pre-training"},
}


def drop_fixed(state: dict[str, Tensor], config: ViTConfig) -> dict[str, str]:
    """Remove what files of other families hold besides weights, after checking that the model computes the same."""
    family, dropped = family_of(config) or "", {}
    for name, table in _tables_of(state, config).items():
        found = state.pop(name).float()
        if name.endswith("bias_mask") and found.shape != table.shape:
            continue  # another width, as of the other weights, whose error says more
        if found.shape != table.shape or not torch.allclose(found, table, rtol=0.01, atol=0.01):
            raise ValueError(f"holds other {name} than those of base {config.theta:g}, which the model has")
        dropped[name] = "computed from the config"
    for start, why in _OF_PRETRAINING.get(family, {}).items():
        dropped |= {name: why for name in [*state] if name.startswith(start) and state.pop(name) is not None}
    if not config.mask_token and state.pop("mask_token", None) is not None:
        dropped["mask_token"] = "for masked patches in pre-training; mask_token=True keeps it"
    return dropped


def _tables_of(state: Mapping[str, Tensor], config: ViTConfig) -> dict[str, Tensor]:
    """Compute the tables that weights have beside them, at the image size of the file."""
    family = family_of(config)
    if family == "dinov3":
        tables = derived_tables(config)
    elif family == "eva02" and "rope.freqs_cos" in state:
        found = state["rope.freqs_cos"]
        side = square_side(len(found)) if found.ndim == 2 else None
        tables = eva02_tables(config, config.grid if side is None else (side, side))
    else:
        return {}
    return {name: table for name, table in tables.items() if name in state}


ADAPTER = StateDictAdapter(
    blocks=_BLOCKS + r"|(model\.)?layer\.\d+\.layer_scale|transformer\.resblocks\.\d+\.",
    infer=_infer_vit,
    layouts=SIGNATURES,
    key_mappings=key_mappings,
    drop_fixed=drop_fixed,
    own_keys=("blocks.{}.attn.rope.freqs", "register_tokens", "prefix_embed", "pre_norm.weight"),
    derived={r"(.+\.)?(freqs|rope)_t_[xy]": "positions, recomputed for every image"},
    writable=("published", "timm", "dinov3", "transformers", "eva02", "pe"),
    derived_tables=derived_tables,
    implied_fields=implied_fields,
    permutes_channels=lambda config: config.rope_convention.permutes_channels,
    reorder=reorder,
    prefix=prefix,
    aliases=TIMM_NAMES | FILE_NAMES,
)
