"""Hooks that copy tensors to contiguous memory, so that torch.export does not specialize on a batch of one."""

from typing import Any

import torch
from torch import Tensor, nn

from ropevit.models.backbone import Backbone
from ropevit.models.pyramid import Level


def make_inputs_contiguous(module: nn.Module) -> None:
    """Make a module take contiguous copies of its tensors, whatever their layout."""
    module.register_forward_pre_hook(_copy_given, with_kwargs=True)


def make_output_contiguous(module: nn.Module) -> None:
    """Make a module return a contiguous copy of its output, whatever its layout."""
    module.register_forward_hook(_copy_returned)


def make_maps_contiguous(backbone: Backbone) -> None:
    """Make the pyramid of a ViT take contiguous maps: those of patch tokens are channels last, except for one image."""
    for module in backbone.modules():
        if isinstance(module, Level):
            make_inputs_contiguous(module)


def _copy(x: Any) -> Any:
    """Copy a tensor to contiguous memory; `contiguous` would only do so for some sizes."""
    return x.clone(memory_format=torch.contiguous_format) if isinstance(x, Tensor) else x


def _copy_given(_module: nn.Module, inputs: tuple, options: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """Forward pre-hook of `make_inputs_contiguous`."""
    return tuple(map(_copy, inputs)), {name: _copy(value) for name, value in options.items()}


def _copy_returned(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
    """Forward hook of `make_output_contiguous`."""
    return _copy(output)
