"""Rotary position embedding for images: models with every position embedding of the paper, and their weights."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

#: Name -> the module that has it; loaded when it is asked for, as torch alone takes seconds.
PLACES = {
    "add_rope": "ropevit.integrations.retrofit",
    **dict.fromkeys(("list_models", "parameter_groups"), "ropevit.models"),
    **dict.fromkeys(("WeightsError", "create_model", "load_model", "load_weights", "save_model"), "ropevit.weights"),
}
#: Packages that are there after `import ropevit`.
PACKAGES = ("integrations", "kernels", "models", "rope", "weights")


def __getattr__(name: str) -> Any:
    if name in PACKAGES:
        return import_module(f"ropevit.{name}")
    if name not in PLACES:
        raise AttributeError(f"module 'ropevit' has no attribute {name!r}")
    value = getattr(import_module(PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *PLACES, *PACKAGES})
