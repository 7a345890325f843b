"""What the tasks begin with alike: the order of their images, and what pixels are normalised by."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ropevit.data.imagenet import MEAN, STD
from ropevit.data.order import TrainOrder


def train_order(config: Any, length: int, accelerator: Any, **more: Any) -> TrainOrder:
    """Share the images of every step out among the processes and micro-batches.

    Args:
        config: The training; its batch is that of a step, all processes together.
        length: Images in the set.
        accelerator: The processes.
        **more: Further fields of the order, such as `repeats`.
    """
    return TrainOrder(
        length,
        config.batch_size,
        config.run.seed,
        world=accelerator.num_processes,
        rank=accelerator.process_index,
        shares=config.run.accumulate,
        **more,
    )


def mean_and_std(device: torch.device) -> tuple[Float[Tensor, "3 1 1"], Float[Tensor, "3 1 1"]]:
    """Give mean and standard deviation of ImageNet's pixels, from 0 to 1, for each colour."""
    mean, spread = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (MEAN, STD))
    return mean, spread
