"""Batches: the order of the training images, how they are read, unreadable ones replaced, and normalised."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from ropevit.data.annotation_faults import RefusedError
from ropevit.data.decoding import UNREADABLE, reason
from ropevit.data.imagenet import MEAN, STD
from ropevit.data.loading import Failure, Readable, SkippedIndex, TooManyBadError, read_next_readable, seeded
from ropevit.data.order import SampledIndex, TrainOrder


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
        micro_batches=config.run.accumulate,
        **more,
    )


def mean_and_std(device: torch.device) -> tuple[Float[Tensor, "3 1 1"], Float[Tensor, "3 1 1"]]:
    """Give mean and standard deviation of ImageNet's pixels, from 0 to 1, for each colour."""
    mean, spread = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (MEAN, STD))
    return mean, spread


BatchT = TypeVar("BatchT")

#: Turns an image and what is known of it into a sample.
Prepare = Callable[[Any, Any], Any]


def read_train_batch(
    source: Readable, draws: Iterable[SampledIndex], prepare: Prepare, collate: Callable[[list, list[int]], BatchT]
) -> BatchT | Failure:
    """Read a training batch; an image that cannot be read is replaced by the next one.

    Args:
        source: Training images.
        draws: Which, and the seed of each one's augmentation.
        prepare: Makes a sample of what was read, with random numbers of its own.
        collate: Makes a batch of the samples and the indices that could not be read.

    Returns:
        The batch, or why there is none.
    """
    samples, bad = [], []
    for draw in draws:
        try:
            found, missed = read_next_readable(source, draw.index)
        except (TooManyBadError, RefusedError) as error:
            return Failure(str(error))
        bad += missed
        with seeded(draw.seed):
            samples.append(prepare(*found))
    return collate(samples, bad)


def read_eval_batch(
    source: Readable, indices: Iterable[int], prepare: Prepare, collate: Callable[[list, list[int]], BatchT]
) -> BatchT | Failure:
    """Read a batch to measure on, without the images that cannot be read; arguments as of `read_train_batch`."""
    samples, bad = [], []
    for index in indices:
        try:
            found = source.read(index)
        except RefusedError as error:
            return Failure(str(error))
        except UNREADABLE as error:
            bad.append(SkippedIndex(index, reason(error)))
        else:
            samples.append(prepare(*found))
    return collate(samples, bad)


def train_keys(order: TrainOrder, first_step: int, last_step: int) -> Iterator[list[SampledIndex]]:
    """Give the draws of each part of this process, from the first step to before the last."""
    return (order.batch(step, share) for step in range(first_step, last_step) for share in range(order.micro_batches))


def count_objects(batches: Iterator[BatchT], parts: int, count: Callable[[BatchT], int]) -> Iterator[BatchT]:
    """Tell each part of a step how many objects all parts of the step have, by which set losses are divided.

    The parts of a step are all read before the first one is given.

    Args:
        batches: The parts of all steps, in order; named tuples with a field `objects`.
        parts: Parts of a step.
        count: Counts the objects of a part.
    """
    while step := list(islice(batches, parts)):
        objects = sum(map(count, step))
        for batch in step:
            yield batch._replace(objects=objects)  # pyright: ignore[reportAttributeAccessIssue]


def eval_keys(length: int, batch_size: int, world: int = 1, rank: int = 0) -> Iterator[Sequence[int]]:
    """Give the indices of each batch of a process, such that all processes together have each image once.

    Args:
        length: Images in the source.
        batch_size: Images of a batch of this process; the last one may have fewer.
        world: Number of processes.
        rank: Which of them this one is: it takes image `rank` and every `world`-th after it.
    """
    mine = range(rank, length, world)
    return (mine[start : start + batch_size] for start in range(0, len(mine), batch_size))
