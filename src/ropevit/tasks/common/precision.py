"""What stays in float32 in mixed precision."""

from typing import Any

import torch
from torch import Tensor, nn


def sample_in_float32(attention: Any) -> None:
    """Let a deformable attention of transformers read its values, and say where, in float32, also under autocast.

    Args:
        attention: With linear layers `value_proj` and `sampling_offsets`.
    """
    for linear in (attention.value_proj, attention.sampling_offsets):
        linear.register_forward_hook(to_float32)


def to_float32(module: nn.Module, inputs: object, output: Tensor) -> Tensor:  # noqa: ARG001
    """Give what a layer gives in float32, or in float64 where it is that."""
    return output.to(torch.promote_types(output.dtype, torch.float32))
