"""Checkpoints in and out: published, timm's and our own, from files or the hub, always checked."""

from ropevit.weights.conversion import ConvertReport, convert
from ropevit.weights.create import create_model
from ropevit.weights.dense import load_dense_weights
from ropevit.weights.errors import WeightsError
from ropevit.weights.loading import LoadReport, load_weights
from ropevit.weights.reading import Checkpoint, read_checkpoint
from ropevit.weights.saving import ModelInfo, load_model, save_model

__all__ = [
    "Checkpoint",
    "ConvertReport",
    "LoadReport",
    "ModelInfo",
    "WeightsError",
    "convert",
    "create_model",
    "load_dense_weights",
    "load_model",
    "load_weights",
    "read_checkpoint",
    "save_model",
]
