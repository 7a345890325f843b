"""RoPE for pretrained vision transformers of other libraries; `ropevit.add_rope(model)` leaves their outputs unchanged.

Queries and keys are rotated between their projection and the attention, whichever attention implementation the library
uses (`attention.py`, `multihead.py`). Positions come from the patch grid of the current images (`grid.py`). Each
supported class of models is a row of the table in `towers.py`.
"""

from ropevit.integrations.retrofit.add import ROPE_FACTORIES, add_rope, rope_parameters
from ropevit.integrations.retrofit.scaling import set_scaling

__all__ = ["ROPE_FACTORIES", "add_rope", "rope_parameters", "set_scaling"]
