"""Semantic segmentation by UperNet or Mask2Former on a dense backbone."""

from typing import TYPE_CHECKING

from ropevit.lazy import lazy_attributes

if TYPE_CHECKING:
    from ropevit.tasks.segment.config import PROFILES, UperNetConfig
    from ropevit.tasks.segment.inference import segment, view_size
    from ropevit.tasks.segment.mean_iou import confusion, segmentation_scores
    from ropevit.tasks.segment.model import load_segmenter
    from ropevit.tasks.segment.neck import make_vit_backbone
    from ropevit.tasks.segment.recipes import RECIPES
    from ropevit.tasks.segment.train_config import SegmentTrainConfig
    from ropevit.tasks.segment.upernet import UperNet, upernet_losses

__all__ = [
    "PROFILES",
    "RECIPES",
    "SegmentTrainConfig",
    "UperNet",
    "UperNetConfig",
    "confusion",
    "load_segmenter",
    "make_vit_backbone",
    "segment",
    "segmentation_scores",
    "upernet_losses",
    "view_size",
]

#: Public name -> its module, loaded on first access.
MODULES = {
    "PROFILES": "config",
    "RECIPES": "recipes",
    "SegmentTrainConfig": "train_config",
    "UperNet": "upernet",
    "UperNetConfig": "config",
    "confusion": "mean_iou",
    "load_segmenter": "model",
    "make_vit_backbone": "neck",
    "segment": "inference",
    "segmentation_scores": "mean_iou",
    "upernet_losses": "upernet",
    "view_size": "inference",
}

__getattr__, __dir__ = lazy_attributes(__name__, MODULES)
