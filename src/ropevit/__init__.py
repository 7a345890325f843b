"""Rotary position embedding for images: models with every position embedding of the paper, and their weights."""

from typing import TYPE_CHECKING

from ropevit.lazy import lazy_attributes

if TYPE_CHECKING:
    from ropevit.integrations.retrofit import add_rope, set_scaling
    from ropevit.models import list_models, parameter_groups
    from ropevit.weights import (
        WeightsError,
        create_model,
        load_model,
        load_weights,
        push_to_hub,
        save_model,
        save_pretrained,
    )

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
    "push_to_hub",
    "save_model",
    "save_pretrained",
    "set_scaling",
]

#: Public name -> the package that defines it, loaded on first access.
MODULES = {
    **dict.fromkeys(("add_rope", "set_scaling"), "integrations.retrofit"),
    **dict.fromkeys(("list_models", "parameter_groups"), "models"),
    **dict.fromkeys(("WeightsError", "create_model", "load_model", "load_weights"), "weights"),
    **dict.fromkeys(("push_to_hub", "save_model", "save_pretrained"), "weights"),
}

__getattr__, __dir__ = lazy_attributes(__name__, MODULES, ("integrations", "kernels", "models", "rope", "weights"))
