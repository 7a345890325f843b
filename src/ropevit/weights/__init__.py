"""Reads, checks, converts and saves checkpoints: published ones, timm's and our own, from files or the hub.

`load_weights` runs this pipeline, one module each:

- read, `reading.py`: a path, hub id or state dict becomes entries and metadata, with the help of `hub.py`,
  `archive.py`, `plain.py` and `sharded.py`;
- parse, `parse.py`: find the weights without wrappers and prefixes, their layout, and the config of a ropevit file;
- infer, `infer.py`: infer the architecture and fields of its config from names and shapes;
- match, `match.py`: rename (`layouts.py`) and resize the weights for the model, or explain why they do not match;
- load, `loading.py`: set all weights, or none.

`create_model`, `load_model` and `convert` begin with the same steps. `saving.py` writes ropevit files, and `sharing.py`
those with a model card (`model_card.py`), to a folder or, by `upload.py`, to the hub. The parts that depend on the
architecture (names, inference, tables) are its `StateDictAdapter`, in `models/<architecture>/weights.py`.
"""

from ropevit.weights.conversion import ConvertReport, convert
from ropevit.weights.create import create_model
from ropevit.weights.dense import load_dense_weights
from ropevit.weights.errors import WeightsError
from ropevit.weights.loading import load_weights
from ropevit.weights.match import LoadReport
from ropevit.weights.reading import Checkpoint, read_checkpoint
from ropevit.weights.saving import ModelInfo, load_model, save_model
from ropevit.weights.sharing import push_to_hub, save_pretrained

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
    "push_to_hub",
    "read_checkpoint",
    "save_model",
    "save_pretrained",
]
