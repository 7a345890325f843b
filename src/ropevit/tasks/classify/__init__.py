"""Image classification."""

from typing import TYPE_CHECKING

from ropevit.lazy import lazy_attributes

if TYPE_CHECKING:
    from ropevit.tasks.classify.config import ClassifierConfig, TrainConfig
    from ropevit.tasks.classify.eval_model import open_eval_model
    from ropevit.tasks.classify.recipes import RECIPES, find_recipe

__all__ = ["RECIPES", "ClassifierConfig", "TrainConfig", "find_recipe", "open_eval_model"]

#: Public name -> its module, loaded on first access.
MODULES = {
    "RECIPES": "recipes",
    "ClassifierConfig": "config",
    "TrainConfig": "config",
    "find_recipe": "recipes",
    "open_eval_model": "eval_model",
}

__getattr__, __dir__ = lazy_attributes(__name__, MODULES)
