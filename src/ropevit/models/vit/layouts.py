"""Names of a ViT's weights in the layouts of the paper's authors, timm, transformers and other families' authors."""

from ropevit.models.state_dict import JoinedPattern, KeyMapping, KeyPattern, SplitPattern, ZeroPattern
from ropevit.models.vit.config import ViTConfig

_BLOCK = "blocks.{}."
#: transformers' prefix of a block: in its files, and in the state dict of its model since version 5.
_TRANSFORMERS_BLOCKS = ("layer.{}.", "model.layer.{}.")

#: Layout -> key mappings by which it is recognized: the first layout of which one matches.
SIGNATURES: dict[str, tuple[KeyPattern, ...]] = {
    "published": (KeyPattern("blocks.{}.attn.rope.freqs", "freqs"),),
    "dinov3": (KeyPattern("register_tokens", "storage_tokens"),),
    "eva02": (KeyPattern("blocks.{}.mlp.fc2.weight", "blocks.{}.mlp.w3.weight"),),
    "pe": (KeyPattern("patch_embed.proj.weight", "conv1.weight"),),
    "timm": (
        KeyPattern("blocks.{}.attn.rope.freqs", "rope.freqs"),
        KeyPattern("register_tokens", "reg_token"),
        KeyPattern("norm.weight", "fc_norm.weight"),
        KeyPattern("pre_norm.weight", "norm_pre.weight"),
        KeyPattern("blocks.{}.attn.qkv.weight", "blocks.{}.attn.q_proj.weight"),
    ),
    "transformers": (KeyPattern("cls_token", "embeddings.cls_token"),),
}


def key_mappings(config: ViTConfig, layout: str) -> tuple[KeyMapping, ...]:
    """Return the key mappings of a layout for a model's config: only keys or shapes that differ from ropevit's."""
    return _ROWS[layout](config) if layout in _ROWS else ()


def _published(config: ViTConfig) -> tuple[KeyMapping, ...]:
    """Key mappings of the paper's official checkpoints."""
    del config
    return (KeyPattern("blocks.{}.attn.rope.freqs", "freqs", flat=True),)  # (2, depth, A P)


def _timm(config: ViTConfig) -> tuple[KeyMapping, ...]:
    """Key mappings of timm's checkpoints."""
    rows: list[KeyMapping] = [
        KeyPattern("blocks.{}.attn.rope.freqs", "rope.freqs"),  # (2, depth, A, P)
        KeyPattern("register_tokens", "reg_token"),
    ]
    if config.pooled_norm:
        rows += _renamed("norm", "fc_norm")
    if config.pre_norm:
        rows += _renamed("pre_norm", "norm_pre")
    if config.embed_prefix:
        rows.append(SplitPattern(("prefix_embed", "pos_embed"), "pos_embed", config.num_prefix_tokens))
    if config.mlp == "swiglu_norm":  # EVA-02 B and L, whose projections are three layers
        parts = tuple(f"{_BLOCK}attn.{name}_proj.weight" for name in "qkv")
        biases = (f"{_BLOCK}attn.q_proj.bias", None, f"{_BLOCK}attn.v_proj.bias")
        rows += [JoinedPattern(f"{_BLOCK}attn.qkv.weight", parts), JoinedPattern(f"{_BLOCK}attn.qkv.bias", biases)]
    elif not config.key_bias:
        rows.append(JoinedPattern(f"{_BLOCK}attn.qkv.bias", (f"{_BLOCK}attn.q_bias", None, f"{_BLOCK}attn.v_bias")))
    if config.mlp == "swiglu_norm" or (
        config.mlp == "swiglu" and config.layer_scale is not None
    ):  # not EVA-02 Ti and S
        rows += _joined(f"{_BLOCK}mlp.fc1", (f"{_BLOCK}mlp.fc1_g", f"{_BLOCK}mlp.fc1_x"))
    return tuple(rows)


def _dinov3(config: ViTConfig) -> tuple[KeyMapping, ...]:
    """Key mappings of DINOv3's official checkpoints."""
    rows: list[KeyMapping] = [
        KeyPattern("register_tokens", "storage_tokens"),
        KeyPattern(f"{_BLOCK}gamma_1", f"{_BLOCK}ls1.gamma"),
        KeyPattern(f"{_BLOCK}gamma_2", f"{_BLOCK}ls2.gamma"),
    ]
    if config.mlp == "swiglu":
        rows += _joined(f"{_BLOCK}mlp.fc1", (f"{_BLOCK}mlp.w1", f"{_BLOCK}mlp.w2"))
        rows += _renamed(f"{_BLOCK}mlp.fc2", f"{_BLOCK}mlp.w3")
    return tuple(rows)


def _eva02(config: ViTConfig) -> tuple[KeyMapping, ...]:
    """Key mappings of EVA-02's official checkpoints: of pre-training, classifiers and CLIP models."""
    rows: list[KeyMapping] = [
        SplitPattern(("prefix_embed", "pos_embed"), "pos_embed", config.num_prefix_tokens),
        JoinedPattern(f"{_BLOCK}attn.qkv.bias", (f"{_BLOCK}attn.q_bias", None, f"{_BLOCK}attn.v_bias")),
        *_renamed(f"{_BLOCK}mlp.fc2", f"{_BLOCK}mlp.w3"),
        KeyPattern("mask_token", "mask_token", unsqueezed=True),
    ]
    if config.pooled_norm:
        rows += _renamed("norm", "fc_norm")
    if config.attn_norm:
        rows += _renamed(f"{_BLOCK}attn.norm", f"{_BLOCK}attn.inner_attn_ln")
    if config.mlp == "swiglu":  # Ti and S
        return (*rows, *_renamed(f"{_BLOCK}mlp.fc1", f"{_BLOCK}mlp.w12"))
    parts = tuple(f"{_BLOCK}attn.{name}_proj.weight" for name in "qkv")
    rows += [JoinedPattern(f"{_BLOCK}attn.qkv.weight", parts), *_renamed(f"{_BLOCK}mlp.norm", f"{_BLOCK}mlp.ffn_ln")]
    return (*rows, *_joined(f"{_BLOCK}mlp.fc1", (f"{_BLOCK}mlp.w1", f"{_BLOCK}mlp.w2")))


def _pe(config: ViTConfig) -> tuple[KeyMapping, ...]:
    """Key mappings of Perception Encoder's official checkpoints, without the prefix of the image tower."""
    theirs = "transformer.resblocks.{}."
    rows: list[KeyMapping] = [
        KeyPattern("patch_embed.proj.weight", "conv1.weight"),
        KeyPattern("cls_token", "class_embedding", squeezed=2),
        *_renamed("pre_norm", "ln_pre"),
        *_renamed("norm", "ln_post"),
        *_renamed(f"{_BLOCK}attn.proj", f"{theirs}attn.out_proj"),
        *_renamed(f"{_BLOCK}mlp.fc1", f"{theirs}mlp.c_fc"),
        *_renamed(f"{_BLOCK}mlp.fc2", f"{theirs}mlp.c_proj"),
        KeyPattern("head.weight", "proj", transposed=True),
        ZeroPattern("head.bias", "head.weight"),
        KeyPattern("attn_pool.latent", "attn_pool.probe"),
        *_renamed("attn_pool.proj", "attn_pool.attn.out_proj"),
        *_renamed("attn_pool.norm", "attn_pool.layernorm"),
        *_renamed("attn_pool.mlp.fc1", "attn_pool.mlp.c_fc"),
        *_renamed("attn_pool.mlp.fc2", "attn_pool.mlp.c_proj"),
    ]
    for number in "12":
        rows += _renamed(f"{_BLOCK}norm{number}", f"{theirs}ln_{number}")
        rows.append(KeyPattern(f"{_BLOCK}gamma_{number}", f"{theirs}ls_{number}.gamma"))
    for kind in ("weight", "bias"):
        parts = (f"attn_pool.q.{kind}", f"attn_pool.kv.{kind}")
        rows.append(KeyPattern(f"{_BLOCK}attn.qkv.{kind}", f"{theirs}attn.in_proj_{kind}"))
        rows.append(SplitPattern(parts, f"attn_pool.attn.in_proj_{kind}", config.width, axis=0))
    if config.embed_prefix:
        parts = ("prefix_embed", "pos_embed")
        rows.append(SplitPattern(parts, "positional_embedding", config.num_prefix_tokens, squeezed=True))
    else:
        rows.append(KeyPattern("pos_embed", "positional_embedding", squeezed=1))
    return tuple(rows)


def prefix(config: ViTConfig, layout: str) -> str:
    """Return the prefix of all keys in files of a layout: those of CLIP models hold the image tower beside another."""
    is_tower = (layout == "pe" and config.pooling == "map") or (layout == "eva02" and config.attn_norm)
    return "visual." if is_tower else ""


def _transformers(config: ViTConfig) -> tuple[KeyMapping, ...]:
    """Key mappings of transformers' DINOv3 ViT."""
    rows: list[KeyMapping] = [
        KeyPattern("cls_token", "embeddings.cls_token"),
        KeyPattern("register_tokens", "embeddings.register_tokens"),
        KeyPattern("mask_token", "embeddings.mask_token", unsqueezed=True),
        *_renamed("patch_embed.proj", "embeddings.patch_embeddings"),
    ]
    for theirs in _TRANSFORMERS_BLOCKS:
        attention, mlp = f"{theirs}attention.", f"{theirs}mlp."
        parts = tuple(f"{attention}{name}_proj.weight" for name in "qkv")
        biases = tuple(f"{attention}{name}_proj.bias" if name != "k" or config.key_bias else None for name in "qkv")
        rows += [JoinedPattern(f"{_BLOCK}attn.qkv.weight", parts), JoinedPattern(f"{_BLOCK}attn.qkv.bias", biases)]
        rows += _renamed(f"{_BLOCK}attn.proj", f"{attention}o_proj")
        for number in "12":
            rows += _renamed(f"{_BLOCK}norm{number}", f"{theirs}norm{number}")
            rows.append(KeyPattern(f"{_BLOCK}gamma_{number}", f"{theirs}layer_scale{number}.lambda1"))
        if config.mlp == "swiglu":
            rows += _joined(f"{_BLOCK}mlp.fc1", (f"{mlp}gate_proj", f"{mlp}up_proj"))
        else:
            rows += _renamed(f"{_BLOCK}mlp.fc1", f"{mlp}up_proj")
        rows += _renamed(f"{_BLOCK}mlp.fc2", f"{mlp}down_proj")
    return tuple(rows)


def _renamed(ours: str, theirs: str) -> list[KeyMapping]:
    """Return the key mappings of a layer's weight and bias."""
    return [KeyPattern(f"{ours}.{kind}", f"{theirs}.{kind}") for kind in ("weight", "bias")]


def _joined(ours: str, theirs: tuple[str, str]) -> list[KeyMapping]:
    """Return the key mappings of the weight and bias of a layer that is two layers in the other layout."""
    return [JoinedPattern(f"{ours}.{kind}", tuple(f"{part}.{kind}" for part in theirs)) for kind in ("weight", "bias")]


_ROWS = {
    "published": _published,
    "timm": _timm,
    "dinov3": _dinov3,
    "transformers": _transformers,
    "eva02": _eva02,
    "pe": _pe,
}
