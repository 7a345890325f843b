"""Our models in timm: after `import ropevit.integrations.timm`, `timm.create_model("ropevit_<name>")` builds each.

<name> is a name of `ropevit.list_models()`. The models have the methods that timm's tools and scripts call, with timm's
signatures (`models`); options are spelled as timm does (`ropevit`); `pretrained=True` loads the published weights
strictly (`pretrained`). They are still our models: weights keep our names, so `ropevit.load_weights`, `save_model` and
`convert` take them, and files go both ways.
"""

from ropevit.integrations.timm.models import TimmSwin, TimmViT
from ropevit.integrations.timm.ropevit import CLASHES, PREFIX

__all__ = ["CLASHES", "PREFIX", "TimmSwin", "TimmViT"]
