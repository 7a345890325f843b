"""Rotary position embedding for images: models with every position embedding of the paper, and their weights."""

from ropevit.integrations.retrofit import add_rope
from ropevit.models import list_models, parameter_groups
from ropevit.weights import WeightsError, create_model, load_model, load_weights, save_model

__version__ = "0.1.0"

__all__ = [
    "WeightsError",
    "__version__",
    "add_rope",
    "create_model",
    "list_models",
    "load_model",
    "load_weights",
    "parameter_groups",
    "save_model",
]
