"""Swin transformer."""

from ropevit.models.swin.config import SwinConfig
from ropevit.models.swin.model import Swin

__all__ = ["Swin", "SwinConfig"]
