"""What DETR-like detectors and segmenters share: assignment, the divisor of set losses, sampling in float32."""

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from ropevit.extras import require


def linear_sum_assignment(costs: np.ndarray) -> np.ndarray:
    """Give each row a column of its own so that the sum of the costs is least.

    Args:
        costs: Finite numbers (rows, columns), with at least as many columns as rows.

    Returns:
        The column of each row, in int64.
    """
    return require("scipy.optimize", "dense").linear_sum_assignment(costs)[1].astype(np.int64)


def mean_over_ranks(count: int, device: torch.device) -> Float[Tensor, ""]:
    """Count the objects (boxes, masks) of all processes, divided by the number of processes; at least 1.

    Each process then divides its losses by this, and the mean of their gradients is that of one process with
    all objects.

    Args:
        count: Objects of this process.
        device: One that the processes can talk through.
    """
    total = torch.tensor(float(count), device=device)
    if dist.is_initialized():
        dist.all_reduce(total)
        total /= dist.get_world_size()
    return total.clamp(min=1)


def step_divisor(count: int | None, parts: int, device: torch.device) -> Float[Tensor, ""] | None:
    """Give what each part of a step divides its losses by, such that the mean over the parts is that of the whole step.

    Args:
        count: Objects of all parts of the step, of this process; None where that is not known.
        parts: Parts of the step.
        device: One that the processes can talk through.
    """
    return None if count is None else mean_over_ranks(count, device) / parts


def sample_in_float32(attention: Any) -> None:
    """Let a deformable attention of transformers read its values, and say where, in float32, also under autocast.

    Args:
        attention: With linear layers `value_proj` and `sampling_offsets`.
    """
    for linear in (attention.value_proj, attention.sampling_offsets):
        linear.register_forward_hook(_to_float32)


def _to_float32(module: nn.Module, inputs: object, output: Tensor) -> Tensor:  # noqa: ARG001
    """Give what a layer gives in float32, or in float64 where it is that."""
    return output.to(torch.promote_types(output.dtype, torch.float32))
