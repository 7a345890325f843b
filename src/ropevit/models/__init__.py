"""Vision transformers with every position embedding of the paper, and the registry of models by name."""

from ropevit.models.architectures import ARCHITECTURES, Architecture, Config, Model, build_model, register_architecture
from ropevit.models.packed import PackedBatch, pack, random_patches
from ropevit.models.parameter_groups import parameter_groups
from ropevit.models.positions import SWIN_EMBEDDINGS, VIT_EMBEDDINGS
from ropevit.models.registry import MODELS, get_config, list_models
from ropevit.models.rotary import set_scaling
from ropevit.models.swin import Swin, SwinConfig
from ropevit.models.vit import ViT, ViTConfig
from ropevit.models.vit.video import inflate

__all__ = [
    "ARCHITECTURES",
    "MODELS",
    "SWIN_EMBEDDINGS",
    "VIT_EMBEDDINGS",
    "Architecture",
    "Config",
    "Model",
    "PackedBatch",
    "Swin",
    "SwinConfig",
    "ViT",
    "ViTConfig",
    "build_model",
    "get_config",
    "inflate",
    "list_models",
    "pack",
    "parameter_groups",
    "random_patches",
    "register_architecture",
    "set_scaling",
]
