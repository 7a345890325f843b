"""Registers our models with timm: after importing this module, `timm.create_model("ropevit_<name>")` builds them.

<name> is a name of `ropevit.list_models()`. The models have the methods and signatures that timm's tools and scripts
use (`models.py`, `vit.py`, `swin.py`) and options in timm's spelling (`ropevit.py`); `pretrained=True` loads the
published weights strictly (`pretrained.py`). Weights keep our names, so `ropevit.load_weights`, `save_model` and
`convert` accept these models.
"""

from ropevit.integrations.timm.ropevit import CLASHES, PREFIX
from ropevit.integrations.timm.swin import TimmSwin
from ropevit.integrations.timm.vit import TimmViT

__all__ = ["CLASHES", "PREFIX", "TimmSwin", "TimmViT"]
