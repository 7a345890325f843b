"""Shared by DETR-like detectors and segmenters: assignment, normalization of set losses, sampling in float32."""

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from ropevit.extras import require


def linear_sum_assignment(costs: np.ndarray) -> np.ndarray:
    """Assign a column to each row, minimizing the total cost.

    Args:
        costs: Finite costs (rows, columns), with at least as many columns as rows.

    Returns:
        The column of each row, in int64.
    """
    return require("scipy.optimize", "dense").linear_sum_assignment(costs)[1].astype(np.int64)


def mean_over_ranks(count: int, device: torch.device) -> Float[Tensor, ""]:
    """Average the number of objects (boxes, masks) over the processes; at least 1.

    If each process divides its losses by this, the mean of the gradients is that of one process with all objects.

    Args:
        count: Objects of this process.
        device: A device that the process group supports.
    """
    total = torch.full((), float(count), device=device)
    if dist.is_initialized():
        dist.all_reduce(total)
        total /= dist.get_world_size()
    return total.clamp(min=1)


def step_divisor(count: int | None, parts: int, device: torch.device) -> Float[Tensor, ""] | None:
    """Return the divisor of the losses of a micro-batch, so that their mean is the loss of the whole step.

    Args:
        count: Objects of all micro-batches of the step, in this process; None if they were not counted.
        parts: Number of micro-batches in a step.
        device: A device that the process group supports.
    """
    return None if count is None else mean_over_ranks(count, device) / parts


def sample_in_float32(attention: Any) -> None:
    """Make a deformable attention of transformers sample in float32 under autocast: both values and offsets.

    Args:
        attention: A module with linear layers `value_proj` and `sampling_offsets`.
    """
    for linear in (attention.value_proj, attention.sampling_offsets):
        linear.register_forward_hook(_to_float32)


def _to_float32(module: nn.Module, inputs: object, output: Tensor) -> Tensor:  # noqa: ARG001
    """Forward hook that converts an output to float32, unless it is float64."""
    return output.to(torch.promote_types(output.dtype, torch.float32))
