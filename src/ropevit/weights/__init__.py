"""Checkpoints in and out: published, timm's and our own, from files or the hub, always checked.

`load_weights` runs this pipeline, one module each:

- read, `reading.py`: a path, hub id or state dict becomes entries and metadata; hub, archive, plain and sharded help;
- parse, `parse.py`: the weights without wrappers and prefixes, their layout, and the config that a file of ours holds;
- infer, `infer.py`: the architecture, and what names and shapes tell about its config;
- match, `match.py`: the weights by the model's names (`layouts.py`) and in its sizes, or a message why they do not fit;
- load, `loading.py`: all weights are set, or none.

`create_model`, `load_model` and `convert` begin with the same steps; `saving.py` writes files of ours. What depends on
the architecture (names, inference, tables) is its `StateDictAdapter`, in `ropevit/models/<architecture>/weights.py`.
"""

from ropevit.weights.conversion import ConvertReport, convert
from ropevit.weights.create import create_model
from ropevit.weights.dense import load_dense_weights
from ropevit.weights.errors import WeightsError
from ropevit.weights.loading import load_weights
from ropevit.weights.match import LoadReport
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
