"""Models of other families with random weights, beside the originals: run as a script, it prints the differences."""

import timm
import torch
from timm.models.eva import checkpoint_filter_fn
from torch import Tensor, nn
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from ropevit.models import ViT
from ropevit.models.layers import resize_embedding
from ropevit.weights import create_model, load_weights

#: Heights and widths in pixels: that of training, not square, larger, smaller.
SIZES = [(64, 64), (48, 80), (96, 112), (40, 32)]

#: Small versions of models: our options, and timm's for the same model.
SMALL = {"width": 64, "depth": 2, "heads": 4, "patch_size": 8, "img_size": (64, 64)}
TIMM_SMALL = {"embed_dim": 64, "depth": 2, "num_heads": 4, "patch_size": 8, "img_size": 64}

DINOV3 = [
    "vit_small_patch16_dinov3",
    "vit_small_patch16_dinov3_qkvb",
    "vit_small_plus_patch16_dinov3_qkvb",
    "vit_7b_patch16_dinov3",
]


@torch.no_grad()
def fill(model: nn.Module, seed: int = 0) -> nn.Module:
    """Fill all parameters with random numbers at which each of them matters."""
    torch.manual_seed(seed)
    for name, weight in model.named_parameters():
        if weight.ndim > 1 and "token" not in name and "embed" not in name.rsplit(".", 1)[-1]:
            weight.normal_(std=1.5 * weight[0].numel() ** -0.5)
        else:
            weight.normal_(std=0.5).add_(1.0 if name.endswith(("norm.weight", "norm1.weight", "norm2.weight")) else 0.0)
    return model.eval()


def timm_model(name: str, **options) -> nn.Module:
    return fill(timm.create_model(name, **TIMM_SMALL, **options))


EVA02 = ["eva02_small_patch14_336", "eva02_base_patch14_224", "eva02_base_patch16_clip_224"]
PE = [
    "vit_pe_core_tiny_patch16_384",
    "vit_pe_core_gigantic_patch14_448",
    "vit_pe_lang_large_patch14_448",
    "vit_pe_spatial_tiny_patch16_512",
    "vit_pe_spatial_gigantic_patch14_448",
]
TIMM_ROPE = ["vit_mediumd_patch16_rope_reg1_gap_256", "vit_betwixt_patch16_rope_reg4_gap_256"]


def our_model(name: str, **fields) -> ViT:
    return create_model(name, **SMALL, **fields).eval()


def dinov3_file(name: str) -> dict[str, Tensor]:
    """A state dict with the names of DINOv3's authors."""
    ours = fill(our_model(name, mask_token=True), seed=1)
    ours.mask_token.normal_()
    state = {}
    for key, value in ours.state_dict().items():
        key = key.replace("gamma_", "ls").replace("register", "storage")
        key = f"{key}.gamma" if ".ls" in key else key
        if ours.config.mlp == "swiglu" and ".mlp." in key:
            parts = {"fc1": ("w1", "w2"), "fc2": ("w3",)}["fc1" if "fc1" in key else "fc2"]
            layer, kind = key.rsplit(".", 2)[0], key.rsplit(".", 1)[1]
            state |= {
                f"{layer}.{part}.{kind}": piece for part, piece in zip(parts, value.chunk(len(parts)), strict=True)
            }
        else:
            state[key] = value
    if not ours.config.key_bias:
        mask = torch.cat([torch.ones(64), torch.zeros(64), torch.ones(64)])
        state |= {f"blocks.{index}.attn.qkv.bias_mask": mask for index in range(2)}
    periods = 100.0 ** (2 * torch.arange(4, dtype=torch.float32) / 8)  # as DINOv3 writes it
    return {key: value.clone() for key, value in state.items()} | {"rope_embed.periods": periods}


def transformers_model(ours: ViT) -> nn.Module:
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "patch_size": 8, "image_size": 64}
    kinds = {"query_bias": ours.config.qkv_bias, "value_bias": ours.config.qkv_bias, "num_register_tokens": 4}
    if ours.config.mlp == "swiglu":
        kinds |= {"use_gated_mlp": True, "hidden_act": "silu"}
    return fill(DINOv3ViTModel(DINOv3ViTConfig(**sizes, **kinds, intermediate_size=int(64 * ours.config.mlp_ratio))))


def relative(found: Tensor, wanted: Tensor) -> float:
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


@torch.no_grad()
def set_input_size(theirs: nn.Module, size: tuple[int, int], embedding: Tensor | None) -> None:
    """Resize a model of timm, and its first embedding: EVA-02's authors without antialiasing, timm with it."""
    theirs.set_input_size(size)
    if embedding is not None:
        first = embedding.shape[1] - 64
        resized = resize_embedding(embedding[:, first:], (8, 8), size[0] // 8, size[1] // 8)
        theirs.pos_embed = nn.Parameter(torch.cat([embedding[:, :first], resized], dim=1))


@torch.no_grad()
def difference_from_timm(ours: ViT, theirs: nn.Module) -> float:
    """Return the worst relative difference of the maps of all blocks, all tokens at the end, and the pooled output."""
    worst, embedding = 0.0, theirs.pos_embed
    for size in SIZES:
        images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2))
        set_input_size(theirs, size, embedding)
        features, maps = theirs.forward_intermediates(images)
        pairs = list(zip(ours.forward_intermediates(images, range(len(ours.blocks))), maps, strict=True))
        pairs += [(ours.forward_features(images), features), (ours(images), theirs(images))]
        worst = max(worst, *(relative(*pair) for pair in pairs))
    return worst


@torch.no_grad()
def difference_from_transformers(ours: ViT, theirs: nn.Module) -> float:
    """Return the worst relative difference of the tokens after each block and the pooled output."""
    worst = 0.0
    for size in SIZES:
        images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2))
        out = theirs(images, output_hidden_states=True)
        pairs = list(zip(list(ours.hidden_states(images))[:2], out.hidden_states[:2], strict=True))
        pairs += [(ours.forward_features(images), out.last_hidden_state), (ours(images), out.pooler_output)]
        worst = max(worst, *(relative(*pair) for pair in pairs))
    return worst


def compare_with_timm(name: str, **fields) -> float:
    theirs = timm_model(name)
    ours = our_model(name, **fields)
    load_weights(ours, theirs.state_dict())
    return difference_from_timm(ours, theirs)


def compare_dinov3_file(name: str) -> float:
    """Compare a file of DINOv3's authors with what timm makes of it."""
    state, theirs, ours = dinov3_file(name), timm_model(name), our_model(name, pooling="avg")
    theirs.load_state_dict(checkpoint_filter_fn(dict(state), theirs))
    load_weights(ours, state)
    return difference_from_timm(ours, theirs)


def compare_with_transformers(name: str) -> float:
    ours = our_model(name)
    theirs = transformers_model(ours)
    load_weights(ours, theirs.state_dict())
    return difference_from_transformers(ours, theirs)


if __name__ == "__main__":
    for name in DINOV3:
        print(f"{name:40} timm {compare_with_timm(name, pooling='avg'):.1e}")
        print(f"{name:40} authors' file {compare_dinov3_file(name):.1e}")
        print(f"{name:40} transformers {compare_with_transformers(name):.1e}")
    for name in (*EVA02, *TIMM_ROPE, *PE):
        print(f"{name:40} timm {compare_with_timm(name):.1e}")
