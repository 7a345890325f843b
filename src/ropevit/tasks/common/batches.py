"""Shared by the data pipelines of all tasks: order of the images, ImageNet's mean and std, objects per step."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from ropevit.data.imagenet import MEAN, STD
from ropevit.data.order import TrainOrder


def train_order(config: Any, length: int, accelerator: Any, **more: Any) -> TrainOrder:
    """Return the order of the training images, divided over processes and micro-batches.

    Args:
        config: Config of the training; its batch size is that of a step, over all processes.
        length: Number of images.
        accelerator: Accelerator of this process.
        **more: Other fields of the order, such as `repeats`.
    """
    return TrainOrder(
        length,
        config.batch_size,
        config.run.seed,
        world=accelerator.num_processes,
        rank=accelerator.process_index,
        micro_batches=config.run.grad_accum_steps,
        **more,
    )


def mean_and_std(
    device: torch.device, mean: Sequence[float] = MEAN, std: Sequence[float] = STD
) -> tuple[Float[Tensor, "3 1 1"], Float[Tensor, "3 1 1"]]:
    """Return mean and standard deviation of each channel on a device, for pixels from 0 to 1; ImageNet's by default."""
    first, second = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (mean, std))
    return first, second


BatchT = TypeVar("BatchT")


def count_objects(batches: Iterator[BatchT], parts: int, count: Callable[[BatchT], int]) -> Iterator[BatchT]:
    """Store in each micro-batch the number of objects of its whole step, by which the losses are divided.

    All micro-batches of a step are read before the first is returned.

    Args:
        batches: Micro-batches of all steps, in order; named tuples with a field `objects`.
        parts: Micro-batches per step.
        count: Counts the objects of a micro-batch.
    """
    while step := list(islice(batches, parts)):
        objects = sum(map(count, step))
        for batch in step:
            yield batch._replace(objects=objects)  # pyright: ignore[reportAttributeAccessIssue]
