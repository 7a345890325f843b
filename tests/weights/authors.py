"""Files of EVA-02's and Perception Encoder's authors with random weights, made from timm's state dicts by name."""

import timm
import torch
from timm.models.eva import checkpoint_filter_fn
from torch import Tensor, nn

from ropevit.weights import load_weights
from weights.families import EVA02, PE, difference_from_timm, our_model, timm_model

#: timm's part of a name -> that of EVA-02's authors, in order.
EVA02_PARTS = {
    "q_proj.bias": "q_bias",
    "v_proj.bias": "v_bias",
    "attn.norm.": "attn.inner_attn_ln.",
    "mlp.norm.": "mlp.ffn_ln.",
    "fc1_g": "w1",
    "fc1_x": "w2",
    "mlp.fc1": "mlp.w12",
    "mlp.fc2": "mlp.w3",
}
#: timm's part of a name -> that of Perception Encoder's authors, in order.
PE_PARTS = {
    "patch_embed.proj": "conv1",
    "pos_embed": "positional_embedding",
    "attn_pool.norm": "attn_pool.layernorm",
    "attn_pool.latent": "attn_pool.probe",
    "attn_pool.proj": "attn_pool.attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "norm_pre": "ln_pre",
    "norm1": "ln_1",
    "norm2": "ln_2",
    "attn.qkv.": "attn.in_proj_",
    "attn.proj": "attn.out_proj",
    "gamma_1": "ls_1.gamma",
    "gamma_2": "ls_2.gamma",
}


def renamed(name: str, parts: dict[str, str]) -> str:
    for theirs, authors in parts.items():
        name = name.replace(theirs, authors)
    return name


def eva02_file(theirs: nn.Module, classifier: bool = True) -> dict[str, Tensor]:
    """A state dict of EVA-02's authors: of a classifier with its tables, or the tower of a CLIP model."""
    state = {renamed(name, EVA02_PARTS): value for name, value in theirs.state_dict().items()}
    if not classifier:
        return {f"visual.{name}": value for name, value in state.items()}
    half, side = 8, 8  # channels of an axis, and patches along it
    frequencies = 1.0 / 10000 ** (torch.arange(0, half, 2).float() / half)
    steps = torch.arange(side) / side * 16
    angles = torch.einsum("s,f->sf", steps, frequencies).repeat_interleave(2, -1)
    grid = torch.cat([angles[:, None].expand(-1, side, -1), angles[None].expand(side, -1, -1)], -1).reshape(64, -1)
    for owner in ("", *(f"blocks.{index}.attn." for index in range(2))):
        state |= {f"{owner}rope.freqs_cos": grid.cos(), f"{owner}rope.freqs_sin": grid.sin()}
    return state


def pe_file(theirs: nn.Module) -> dict[str, Tensor]:
    """A state dict of Perception Encoder's authors: a CLIP's image tower, or an encoder without one around it."""
    state, whole = dict(theirs.state_dict()), {}
    for kind in ("weight", "bias"):
        if "attn_pool.q.weight" in theirs.state_dict():
            whole[f"attn_pool.attn.in_proj_{kind}"] = torch.cat(
                [state.pop(f"attn_pool.{part}.{kind}") for part in ("q", "kv")]
            )
    if "cls_token" in state:
        whole["class_embedding"] = state.pop("cls_token")[0, 0]
    if "head.weight" in state:
        whole["proj"] = state.pop("head.weight").T.contiguous()
        state.pop("head.bias")
        whole |= {f"ln_post.{kind}": state.pop(f"norm.{kind}") for kind in ("weight", "bias")}
    for name, value in state.items():
        name = f"transformer.resblocks.{name.removeprefix('blocks.')}" if name.startswith("blocks.") else name
        whole[renamed(name, PE_PARTS)] = value[0] if name == "pos_embed" else value
    return {f"visual.{name}": value for name, value in whole.items()} if "proj" in whole else whole


def authors_file(name: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """A model of timm, and a file of its authors from which timm loads it."""
    theirs = timm_model(name)
    if "head.bias" in theirs.state_dict() and name in PE:
        nn.init.zeros_(theirs.head.bias)  # which the authors have not
    state = pe_file(theirs) if name in PE else eva02_file(theirs, classifier="clip" not in name)
    again = checkpoint_filter_fn(dict(state), theirs)
    assert again.keys() == theirs.state_dict().keys()
    assert all(torch.equal(again[key], value) for key, value in theirs.state_dict().items())
    return theirs, state


def compare_authors_file(name: str) -> float:
    """Compare the features of a file of the authors with those that timm computes from it."""
    theirs, state = authors_file(name)
    ours = our_model(name)
    load_weights(ours, state)
    return difference_from_timm(ours, theirs)


if __name__ == "__main__":
    print(f"timm {timm.__version__}")
    for name in (*EVA02, *PE):
        print(f"{name:40} authors' file {compare_authors_file(name):.1e}")
