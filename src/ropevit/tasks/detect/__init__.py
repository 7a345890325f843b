"""Object detection: DINO on ViT and Swin backbones; training, evaluation, prediction and conversion."""

from typing import TYPE_CHECKING

from ropevit.lazy import lazy_attributes

if TYPE_CHECKING:
    from ropevit.tasks.detect.config import DinoConfig
    from ropevit.tasks.detect.dino import Dino
    from ropevit.tasks.detect.model import load_detector
    from ropevit.tasks.detect.recipes import RECIPES
    from ropevit.tasks.detect.train_config import DetectTrainConfig

__all__ = ["RECIPES", "DetectTrainConfig", "Dino", "DinoConfig", "load_detector"]

#: Public name -> its module, loaded on first access.
MODULES = {
    "RECIPES": "recipes",
    "DetectTrainConfig": "train_config",
    "Dino": "dino",
    "DinoConfig": "config",
    "load_detector": "model",
}

__getattr__, __dir__ = lazy_attributes(__name__, MODULES)
