"""Vision transformer (DeiT III)."""

from ropevit.models.vit.config import ViTConfig
from ropevit.models.vit.model import ViT

__all__ = ["ViT", "ViTConfig"]
