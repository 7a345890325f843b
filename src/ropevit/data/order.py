"""Order of training images: a pure function of seed and step, independent of processes and resumption."""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int

from ropevit.data.rng import derive_seed, make_generator

#: Shards that are shuffled together: enough to mix images, few enough to be read almost sequentially.
BLOCK = 16


class SampledIndex(NamedTuple):
    """Index of a training image, and the seed of its augmentation."""

    index: int  # pyright: ignore[reportIncompatibleMethodOverride]
    seed: int


@dataclass(frozen=True)
class TrainOrder:
    """Indices and augmentation seeds of the images of each training step.

    A step's global batch depends on the seed and the step alone, not on the number of processes or micro-batches.
    Each of them takes a slice from the front of the global batch and the mirrored slice from the back, so that
    reversing the slices reverses the batch: pairing an image with its counterpart in the reversed batch (as timm's
    Mixup does) gives the same pairs for every number of processes and micro-batches.

    With repeats, each image is drawn that many times in a row, with different seeds, before the batch is shuffled: an
    epoch has fewer distinct images, and copies are in the same batch, except at its boundaries.
    Source: Hoffer et al. 2020 (arXiv:1901.09335), in the order that DeiT III (arXiv:2204.07118) takes.
    """

    length: int
    """Number of images in the data set."""
    batch_size: int
    """Images per step, over all processes and micro-batches."""
    seed: int
    """Seed of the order."""
    repeats: int = 1
    """Repeated augmentation: how often each image of an epoch is drawn."""
    world: int = 1
    """Number of processes."""
    rank: int = 0
    """Rank of this process."""
    micro_batches: int = 1
    """Micro-batches per process and step (gradient accumulation)."""
    blocks: tuple[int, ...] = ()
    """Lengths of the shards, if any: images of a shard are then read close together."""

    def __post_init__(self) -> None:
        if min(self.length, self.batch_size, self.repeats, self.world, self.micro_batches) < 1:
            raise ValueError(f"got {self}; expected lengths, sizes and counts of 1 or more")
        if not 0 <= self.rank < self.world:
            raise ValueError(f"got rank {self.rank} of {self.world}; expected 0 to {self.world - 1}")
        if self.total_micro_batches > 1 and self.batch_size % (2 * self.total_micro_batches):
            raise ValueError(
                f"got a batch of {self.batch_size} for {self.world} processes with {self.micro_batches} micro-batches "
                f"each; expected a multiple of {2 * self.total_micro_batches}"
            )
        if not self.steps_per_epoch:
            raise ValueError(
                f"got {self.length} images for batches of {self.batch_size}; expected no batch larger than the set; "
                f"lower the batch size: --batch-size {self.length} at most"
            )
        if self.blocks and sum(self.blocks) != self.length:
            raise ValueError(f"got blocks of {sum(self.blocks)} images in all; expected {self.length}")

    @property
    def total_micro_batches(self) -> int:
        """Parts of a global batch: processes times micro-batches."""
        return self.world * self.micro_batches

    @property
    def steps_per_epoch(self) -> int:
        """Steps per epoch; the incomplete last batch is dropped, with different images in each epoch."""
        return self.repeats * (self.length // self.repeats) // self.batch_size

    def batch(self, step: int, micro_batch: int = 0) -> list[SampledIndex]:
        """Return the images of a micro-batch of this process.

        Args:
            step: Number of the step since the start of the training, from 0.
            micro_batch: Which of the step's micro-batches, from 0.

        Raises:
            ValueError: If there is no such step or micro-batch.
        """
        if step < 0 or not 0 <= micro_batch < self.micro_batches:
            raise ValueError(
                f"got step {step}, micro-batch {micro_batch}; expected 0 or more, and less than {self.micro_batches}"
            )
        epoch, step = divmod(step, self.steps_per_epoch)
        images = epoch_order(self.length, self.blocks, self.seed, epoch)
        shuffled = torch.randperm(
            self.batch_size, generator=make_generator("order", self.seed, "batch", epoch, step)
        ).numpy()
        drawn = step * self.batch_size + shuffled[self.indices(micro_batch)]
        return [
            SampledIndex(
                int(images[position // self.repeats]), derive_seed("order", self.seed, "draw", epoch, position)
            )
            for position in drawn.tolist()
        ]

    def indices(self, micro_batch: int) -> Int[np.ndarray, "b"]:
        """Return the positions of a micro-batch in the global batch; the mirror of position i is batch - 1 - i."""
        if self.total_micro_batches == 1:
            return np.arange(self.batch_size)
        half = self.batch_size // (2 * self.total_micro_batches)
        front = np.arange(half) + half * (self.rank * self.micro_batches + micro_batch)
        return np.concatenate([front, self.batch_size - 1 - front[::-1]])


@lru_cache(maxsize=2)
def epoch_order(length: int, blocks: tuple[int, ...], seed: int, epoch: int) -> Int[np.ndarray, "N"]:
    """Shuffle the images of an epoch; with blocks, shuffle the blocks, then the images of a few blocks together."""
    generator = make_generator("order", seed, "epoch", epoch)
    if not blocks:
        return torch.randperm(length, generator=generator).numpy()
    starts = np.concatenate([[0], np.cumsum(blocks)[:-1]])
    shuffled = torch.randperm(len(blocks), generator=generator).tolist()
    groups = []
    for first in range(0, len(blocks), BLOCK):
        group = np.concatenate([starts[b] + np.arange(blocks[b]) for b in shuffled[first : first + BLOCK]])
        groups.append(group[torch.randperm(len(group), generator=generator).numpy()])
    return np.concatenate(groups)
