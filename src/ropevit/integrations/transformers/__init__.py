"""The models of this package in transformers: importing this module registers them with its Auto classes.

>>> import ropevit.integrations.transformers
>>> model = AutoModelForImageClassification.from_pretrained("my_folder")
"""

from ropevit.extras import MissingExtraError, how_to_install, require

# before the imports below, so that the error names the extra to install
installed = require("transformers", "dense").__version__
if tuple(int(part) for part in installed.split(".")[:2]) < (5, 4):
    raise MissingExtraError(f"transformers {installed} is too old, 5.4 or newer is needed; {how_to_install('dense')}")

from transformers import AutoConfig  # noqa: E402

from ropevit.integrations.transformers.config import RopeConfig, RopeSwinConfig, RopeViTConfig  # noqa: E402
from ropevit.integrations.transformers.conversion import from_published, from_ropevit, image_processor  # noqa: E402
from ropevit.integrations.transformers.modeling import (  # noqa: E402
    CLASSES,
    RopeBackbone,
    RopeForImageClassification,
    RopeModel,
    RopePreTrainedModel,
    RopeSwinBackbone,
    RopeSwinForImageClassification,
    RopeSwinModel,
    RopeViTBackbone,
    RopeViTForImageClassification,
    RopeViTModel,
)

__all__ = [
    "RopeBackbone",
    "RopeConfig",
    "RopeForImageClassification",
    "RopeModel",
    "RopePreTrainedModel",
    "RopeSwinBackbone",
    "RopeSwinConfig",
    "RopeSwinForImageClassification",
    "RopeSwinModel",
    "RopeViTBackbone",
    "RopeViTConfig",
    "RopeViTForImageClassification",
    "RopeViTModel",
    "from_published",
    "from_ropevit",
    "image_processor",
]

for config in (RopeViTConfig, RopeSwinConfig):
    AutoConfig.register(config.model_type, config, exist_ok=True)
for auto, models in CLASSES.items():
    for model in models:
        auto.register(model.config_class, model, exist_ok=True)
