"""Convert DINO's weights between ropevit's and detrex's names, bit for bit."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ropevit.tasks.detect.dino import Dino
from ropevit.text import join_names
from ropevit.weights.errors import WeightsError

#: (Our prefix, detrex's prefix): "{}" stands for the index of a layer; what follows is equal.
NAMES = (
    ("neck.", "neck."),
    ("level_embedding", "transformer.level_embeds"),
    ("encoder_layers.{}.self_attn.", "transformer.encoder.layers.{}.attentions.0."),
    ("encoder_layers.{}.self_attn_layer_norm.", "transformer.encoder.layers.{}.norms.0."),
    ("encoder_layers.{}.mlp.fc1.", "transformer.encoder.layers.{}.ffns.0.layers.0.0."),
    ("encoder_layers.{}.mlp.fc2.", "transformer.encoder.layers.{}.ffns.0.layers.1."),
    ("encoder_layers.{}.final_layer_norm.", "transformer.encoder.layers.{}.norms.1."),
    ("decoder.layers.{}.self_attn.o_proj.", "transformer.decoder.layers.{}.attentions.0.attn.out_proj."),
    ("decoder.layers.{}.self_attn.in_proj_", "transformer.decoder.layers.{}.attentions.0.attn.in_proj_"),
    ("decoder.layers.{}.self_attn_layer_norm.", "transformer.decoder.layers.{}.norms.0."),
    ("decoder.layers.{}.encoder_attn.", "transformer.decoder.layers.{}.attentions.1."),
    ("decoder.layers.{}.encoder_attn_layer_norm.", "transformer.decoder.layers.{}.norms.1."),
    ("decoder.layers.{}.mlp.fc1.", "transformer.decoder.layers.{}.ffns.0.layers.0.0."),
    ("decoder.layers.{}.mlp.fc2.", "transformer.decoder.layers.{}.ffns.0.layers.1."),
    ("decoder.layers.{}.final_layer_norm.", "transformer.decoder.layers.{}.norms.2."),
    ("decoder.reference_head.", "transformer.decoder.ref_point_head."),
    ("decoder.norm.", "transformer.decoder.norm."),
    ("query_embedding.", "transformer.tgt_embed."),
    ("token_projection.", "transformer.enc_output."),
    ("token_norm.", "transformer.enc_output_norm."),
    ("class_heads.", "class_embed."),
    ("box_heads.", "bbox_embed."),
    ("label_embedding.", "label_enc."),
)

#: Query, key and value projections, which detrex stores in one tensor (in_proj), in this order.
IN_PROJ = ("q_proj", "k_proj", "v_proj")

#: detrex stores each head under two names for one tensor; this is the second one.
_TIED = re.compile(r"transformer\.decoder\.((?:class|bbox)_embed\..*)")


def to_detrex(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert DINO's weights to detrex's names.

    Args:
        state: The state dict of a `Dino`.

    Raises:
        WeightsError: If an entry is unknown, or a query, key or value projection is missing.
    """
    in_proj = re.compile(rf"(decoder\.layers\.\d+\.self_attn\.)({'|'.join(IN_PROJ)})\.(.+)")
    ours: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if match := in_proj.fullmatch(key):
            whole = f"{match[1]}in_proj_{match[3]}"
            if whole not in ours:
                names = [f"{match[1]}{name}.{match[3]}" for name in IN_PROJ]
                if missing := [name for name in names if name not in state]:
                    raise WeightsError(f"got {key} without {join_names(missing)}; expected all weights of a detector")
                ours[whole] = torch.cat([state[name] for name in names])
        else:
            ours[key] = tensor
    theirs = {_rename_key(key, 0): tensor for key, tensor in ours.items()}
    heads = {key: tensor for key, tensor in theirs.items() if key.startswith(("class_embed.", "bbox_embed."))}
    return theirs | {f"transformer.decoder.{key}": tensor for key, tensor in heads.items()}


def from_detrex(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert detrex's weights to our names.

    Args:
        state: Entries of a detrex checkpoint without the backbone.

    Raises:
        WeightsError: If an entry is unknown, or tied weights differ.
    """
    plain: dict[str, Tensor] = {}
    for key, tensor in state.items():
        match = _TIED.fullmatch(key)
        name = match[1] if match else key
        if name in plain and not torch.equal(plain[name], tensor):
            raise WeightsError(f"{name} and transformer.decoder.{name} differ; expected two names of one weight")
        plain[name] = tensor
    ours: dict[str, Tensor] = {}
    for key, tensor in plain.items():
        name = _rename_key(key, 1)
        start, found, suffix = name.partition("in_proj_")
        if not found:
            ours[name] = tensor
        elif len(tensor) % 3:
            raise WeightsError(f"{key} has {len(tensor)} rows; expected queries, keys and values in equal parts")
        else:
            ours |= {f"{start}{part}.{suffix}": rows for part, rows in zip(IN_PROJ, tensor.chunk(3), strict=True)}
    return ours


def _rename_key(key: str, source: int) -> str:
    """Look up a name in column `source` of `NAMES`, and return that of the other column."""
    for row in NAMES:
        pattern = re.escape(row[source]).replace(r"\{\}", r"(\d+)")
        if match := re.fullmatch(pattern + r"(.*)", key):
            *numbers, rest = match.groups()
            return row[1 - source].format(*numbers) + rest
    owner = ("this detector", "detrex's DINO without its backbone")[source]
    raise WeightsError(f"got an entry {key!r}; expected weights of {owner} only")


def load_detrex(model: Dino, state: Mapping[str, Tensor]) -> None:
    """Load weights with detrex's names into a model.

    Args:
        model: The detector to fill.
        state: Entries of a detrex checkpoint without the backbone.

    Raises:
        WeightsError: If an entry is missing, unknown or of another shape; the model is then unchanged.
    """
    ours = from_detrex(state)
    check_compatible(model, ours)
    model.load_state_dict(ours)


def check_compatible(model: Dino, ours: Mapping[str, Tensor]) -> None:
    """Check that weights fit a detector.

    Args:
        model: The detector, for its names and shapes; it may be on the meta device.
        ours: Weights by our names.

    Raises:
        WeightsError: If an entry is missing, unknown or of another shape.
    """
    expected = model.state_dict()
    problems = {
        "missing": [key for key in expected if key not in ours],
        "not in the model": [key for key in ours if key not in expected],
        "of another shape": [
            f"{key} {list(ours[key].shape)}, expected {list(value.shape)}"
            for key, value in expected.items()
            if key in ours and ours[key].shape != value.shape
        ],
    }
    found = "; ".join(f"{what}: {join_names(names)}" for what, names in problems.items() if names)
    if found:
        raise WeightsError(f"the weights do not fit the detector: {found}; use weights of the same config")
