"""The architectures: what describes each, and what builds it."""

from ropevit.models.swin import Swin, SwinConfig
from ropevit.models.vit import ViT, ViTConfig

Config = ViTConfig | SwinConfig
Model = ViT | Swin

#: name -> (config, model); the name is written into checkpoints.
ARCHITECTURES: dict[str, tuple[type[Config], type[Model]]] = {"vit": (ViTConfig, ViT), "swin": (SwinConfig, Swin)}


def architecture(config: Config) -> str:
    """Name the architecture that a config describes."""
    return next(name for name, (kind, _) in ARCHITECTURES.items() if isinstance(config, kind))


def build_model(config: Config) -> Model:
    """Build the model that a config describes."""
    return ViT(config) if isinstance(config, ViTConfig) else Swin(config)
