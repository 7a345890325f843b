"""Rotation for the vision transformers of other libraries: `ropevit.add_rope(model)` starts at the pretrained function.

The rotation stands between the projection to queries and keys and the attention, whichever implementation of attention
the library then chooses (`attention`, `packed`). The patch grid is that of the images fed (`grid`). What is supported
is a row of a table (`towers`).
"""

from ropevit.integrations.retrofit.add import ROPE_FACTORIES, add_rope, rope_parameters

__all__ = ["ROPE_FACTORIES", "add_rope", "rope_parameters"]
