"""Backbones for detection and segmentation: ViT and Swin that turn images of any size into maps at several strides."""

from ropevit.models.dense.backbone import Backbone, Maps
from ropevit.models.dense.pyramid import PyramidConfig, SimpleFeaturePyramid
from ropevit.models.dense.swin import DenseSwin, DenseSwinConfig
from ropevit.models.dense.vit import DenseViT, DenseViTConfig

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
