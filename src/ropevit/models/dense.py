"""Backbones for detection and segmentation: ViT and Swin that turn images of any size into maps at several strides."""

from ropevit.models.backbone import Backbone, Maps
from ropevit.models.pyramid import PyramidConfig, SimpleFeaturePyramid
from ropevit.models.swin.dense import DenseSwin, DenseSwinConfig
from ropevit.models.vit.dense import DenseViT, DenseViTConfig

__all__ = [
    "Backbone",
    "DenseSwin",
    "DenseSwinConfig",
    "DenseViT",
    "DenseViTConfig",
    "Maps",
    "PyramidConfig",
    "SimpleFeaturePyramid",
]
