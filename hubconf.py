"""Entry points of `torch.hub`: `create_model`, `load_model`, and each model of `ropevit.list_models()` by its name.

>>> torch.hub.load("PATH/TO/ropevit", "create_model", "rope_mixed_deit_small_patch16_LS", source="local")
>>> torch.hub.load("PATH/TO/ropevit", "rope_mixed_deit_small_patch16_LS", pretrained=True, source="local")
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

dependencies = ["torch", "numpy", "safetensors", "huggingface_hub", "filelock", "jaxtyping"]

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))  # stays: processes of a DataLoader import it again

#: Functions of the package that are entry points.
_FUNCTIONS = ("create_model", "list_models", "load_model")


def __getattr__(name: str) -> Callable[..., Any]:
    import ropevit  # here, so that torch.hub names missing dependencies first

    if name in _FUNCTIONS:
        return getattr(ropevit, name)
    if name.startswith("_") or name not in ropevit.list_models():
        raise AttributeError(f"no entry point {name!r}; see torch.hub.list, or ropevit.list_models()")
    entry = partial(ropevit.create_model, name)
    entry.__doc__ = f"`ropevit.create_model({name!r}, ...)`.\n\n{ropevit.create_model.__doc__}"
    return entry


def __dir__() -> list[str]:
    import ropevit

    return ["dependencies", *_FUNCTIONS, *ropevit.list_models()]
