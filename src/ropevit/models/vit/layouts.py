"""Names of a ViT's weights in the layouts of the paper's authors, timm, DINOv3's authors and transformers."""

from ropevit.models.state_dict import JoinedPattern, KeyMapping, KeyPattern, SplitPattern
from ropevit.models.vit.config import ViTConfig

_BLOCK = "blocks.{}."
#: transformers' prefix of a block: in its files, and in the state dict of its model since version 5.
_TRANSFORMERS_BLOCKS = ("layer.{}.", "model.layer.{}.")

#: Layout -> a row by which it is recognized.
SIGNATURES: dict[str, tuple[KeyMapping, ...]] = {
    "published": (KeyPattern("blocks.{}.attn.rope.freqs", "freqs"),),
    "timm": (
        KeyPattern("blocks.{}.attn.rope.freqs", "rope.freqs"),
        KeyPattern("register_tokens", "reg_token"),
        KeyPattern("norm.weight", "fc_norm.weight"),
        KeyPattern("pre_norm.weight", "norm_pre.weight"),
    ),
    "dinov3": (KeyPattern("register_tokens", "storage_tokens"),),
    "transformers": (KeyPattern("cls_token", "embeddings.cls_token"),),
}


def key_mappings(config: ViTConfig, layout: str) -> tuple[KeyMapping, ...]:
    """Return the rows in which a layout differs from ours, for a model's config."""
    return _ROWS[layout](config) if layout in _ROWS else ()


def _published(config: ViTConfig) -> tuple[KeyMapping, ...]:
    """Rows of the paper's authors."""
    del config
    return (KeyPattern("blocks.{}.attn.rope.freqs", "freqs", flat=True),)  # (2, depth, A P)


def _timm(config: ViTConfig) -> tuple[KeyMapping, ...]:
    """Rows of timm."""
    rows: list[KeyMapping] = [
        KeyPattern("blocks.{}.attn.rope.freqs", "rope.freqs"),  # (2, depth, A, P)
        KeyPattern("register_tokens", "reg_token"),
    ]
    if config.pooled_norm:
        rows += _renamed("norm", "fc_norm")
    if config.pre_norm:
        rows += _renamed("pre_norm", "norm_pre")
    if config.embed_prefix:
        first = int(config.class_token) + config.num_registers
        rows.append(SplitPattern(("prefix_embed", "pos_embed"), "pos_embed", first))
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
    """Rows of DINOv3's authors."""
    rows: list[KeyMapping] = [
        KeyPattern("register_tokens", "storage_tokens"),
        KeyPattern(f"{_BLOCK}gamma_1", f"{_BLOCK}ls1.gamma"),
        KeyPattern(f"{_BLOCK}gamma_2", f"{_BLOCK}ls2.gamma"),
    ]
    if config.mlp == "swiglu":
        rows += _joined(f"{_BLOCK}mlp.fc1", (f"{_BLOCK}mlp.w1", f"{_BLOCK}mlp.w2"))
        rows += _renamed(f"{_BLOCK}mlp.fc2", f"{_BLOCK}mlp.w3")
    return tuple(rows)


def _transformers(config: ViTConfig) -> tuple[KeyMapping, ...]:
    """Rows of transformers' DINOv3 ViT."""
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
    """Return the rows of a layer's weight and bias."""
    return [KeyPattern(f"{ours}.{kind}", f"{theirs}.{kind}") for kind in ("weight", "bias")]


def _joined(ours: str, theirs: tuple[str, str]) -> list[KeyMapping]:
    """Return the rows of the weight and bias of a layer that is two layers in the other layout."""
    return [JoinedPattern(f"{ours}.{kind}", tuple(f"{part}.{kind}" for part in theirs)) for kind in ("weight", "bias")]


_ROWS = {"published": _published, "timm": _timm, "dinov3": _dinov3, "transformers": _transformers}
