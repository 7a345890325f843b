"""Analyses of RoPE and attention: one module per figure, which computes, draws and explains it for any model."""

from typing import TYPE_CHECKING

from ropevit.lazy import lazy_attributes

if TYPE_CHECKING:
    from ropevit.analysis.attention import attention_stats
    from ropevit.analysis.frequencies import frequency_map
    from ropevit.analysis.layers import attention_layers
    from ropevit.analysis.page import render
    from ropevit.analysis.phases import phase_coverage
    from ropevit.analysis.response import relative_response

__all__ = ["attention_layers", "attention_stats", "frequency_map", "phase_coverage", "relative_response", "render"]

#: Public name -> its module, loaded on first access.
MODULES = {
    "attention_layers": "layers",
    "attention_stats": "attention",
    "frequency_map": "frequencies",
    "phase_coverage": "phases",
    "relative_response": "response",
    "render": "page",
}

__getattr__, __dir__ = lazy_attributes(__name__, MODULES)
