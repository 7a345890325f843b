"""Tiny vision transformers of other libraries, for the tests of `add_rope`."""

from collections.abc import Callable

import torch
from open_clip.transformer import VisionTransformer as OpenClipViT
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer as TorchvisionViT
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    DeiTConfig,
    DeiTModel,
    Dinov2Backbone,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    ViTConfig,
    ViTModel,
)

HEADS, CHANNELS = 2, 8

TIMM = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": HEADS, "num_classes": 3}
HUGGING = {"image_size": 16, "patch_size": 4, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": HEADS}
HUGGING |= {"intermediate_size": 32, "initializer_range": 0.5}


def timm_vit(**options) -> VisionTransformer:
    return make_peaked(VisionTransformer(**TIMM | {"dynamic_img_size": True} | options))


def torchvision_vit() -> TorchvisionViT:
    return make_peaked(TorchvisionViT(16, 4, 2, HEADS, 16, 32, num_classes=3))


def open_clip_vit(**options) -> OpenClipViT:
    given = {"image_size": 16, "patch_size": 4, "width": 16, "layers": 2, "heads": HEADS, "mlp_ratio": 2}
    return make_peaked(OpenClipViT(**given | {"output_dim": 3} | options))


def make_peaked(model: nn.Module) -> nn.Module:
    """Draw large weights, so that attention is far from uniform and shows every rotation; set eval mode."""
    for parameter in model.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.5)
    return model.eval()


#: name -> (function that builds the model, path of its attention layers, number of prefix tokens)
MODELS: dict[str, tuple[Callable[[], nn.Module], str, int]] = {
    "timm": (timm_vit, "blocks.{}.attn", 1),
    "timm normed": (lambda: timm_vit(qk_norm=True, reg_tokens=2), "blocks.{}.attn", 3),
    "timm distilled": (
        lambda: make_peaked(VisionTransformerDistilled(**TIMM, dynamic_img_size=True)),
        "blocks.{}.attn",
        2,
    ),
    "vit": (lambda: make_peaked(ViTModel(ViTConfig(**HUGGING))), "layers.{}.attention", 1),
    "deit": (lambda: make_peaked(DeiTModel(DeiTConfig(**HUGGING))), "layers.{}.attention", 2),
    "clip": (lambda: make_peaked(CLIPVisionModel(CLIPVisionConfig(**HUGGING))), "encoder.layers.{}.self_attn", 1),
    "dinov2": (lambda: make_peaked(Dinov2Model(Dinov2Config(**HUGGING))), "encoder.layer.{}.attention", 1),
    "dinov2 backbone": (lambda: make_peaked(Dinov2Backbone(Dinov2Config(**HUGGING))), "encoder.layer.{}.attention", 1),
    "dinov2 registers": (
        lambda: make_peaked(Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**HUGGING, num_register_tokens=3))),
        "encoder.layer.{}.attention",
        4,
    ),
    "open_clip": (open_clip_vit, "transformer.resblocks.{}.attn", 1),
    "open_clip custom": (lambda: open_clip_vit(block_type="custom"), "transformer.resblocks.{}.attn", 1),
    "open_clip normed": (lambda: open_clip_vit(qk_norm=True, pool_type="avg"), "transformer.resblocks.{}.attn", 1),
    "torchvision": (torchvision_vit, "encoder.layers.encoder_layer_{}.self_attention", 1),
}


def run(model: nn.Module, images: Tensor, **options) -> Tensor:
    """Run a model of any library and return one output tensor."""
    if isinstance(model, ViTModel | DeiTModel | CLIPVisionModel):
        options["interpolate_pos_encoding"] = True
    out = model(images, **options)
    if isinstance(out, Tensor):
        return out
    return out.feature_maps[-1] if "feature_maps" in out else out.last_hidden_state


def sizes(name: str) -> list[tuple[int, int]]:
    """Return image sizes that a model accepts; models of torchvision and open_clip accept one."""
    return [(16, 16)] if name.startswith(("torchvision", "open_clip")) else [(16, 16), (12, 24), (28, 8)]


def images(height: int, width: int) -> Tensor:
    return torch.randn(2, 3, height, width)
