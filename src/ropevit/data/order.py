"""The order of training images: a function of the seed and the step alone, whoever asks and whenever."""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int

from ropevit.data.rng import derive_seed, make_generator

#: So many shards are shuffled together: enough to mix, and few enough to be read from one place after another.
BLOCK = 16


class Draw(NamedTuple):
    """An image to train on, and the seed of its augmentation."""

    index: int  # pyright: ignore[reportIncompatibleMethodOverride]
    seed: int


@dataclass(frozen=True)
class TrainOrder:
    """Which images each step trains on.

    A step's global batch depends on the seed and the step alone, not on how many processes or micro-batches share it.
    Each of them takes a part from the front of the global batch and the part that mirrors it at the back, so that
    reversing the parts reverses the whole: mixing an image with its mirror image (as timm's Mixup does) gives the same
    pairs however the batch is shared out.

    With repeats, images come so many times in a row, each time with a seed of its own, before the batch is shuffled: an
    epoch has fewer distinct images, and copies are in one batch but where they straddle two.
    Source: Hoffer et al. 2020 (arXiv:1901.09335), in the order that DeiT III (arXiv:2204.07118) takes.
    """

    length: int
    """Images in the set."""
    batch_size: int
    """Images of a step, all processes and micro-batches together."""
    seed: int
    """Another seed, another order."""
    repeats: int = 1
    """Times that each image of an epoch is drawn."""
    world: int = 1
    """Number of processes."""
    rank: int = 0
    """Which of them asks."""
    shares: int = 1
    """Micro-batches that each process cuts its part of a step into."""
    blocks: tuple[int, ...] = ()
    """Lengths of the shards, where there are any: images that are read close together then lie close together."""

    def __post_init__(self) -> None:
        if min(self.length, self.batch_size, self.repeats, self.world, self.shares) < 1:
            raise ValueError(f"got {self}; expected lengths, sizes and counts of 1 or more")
        if not 0 <= self.rank < self.world:
            raise ValueError(f"got rank {self.rank} of {self.world}; expected 0 to {self.world - 1}")
        if self.parts > 1 and self.batch_size % (2 * self.parts):
            raise ValueError(
                f"got a batch of {self.batch_size} for {self.world} processes with {self.shares} micro-batches each; "
                f"expected a multiple of {2 * self.parts}"
            )
        if not self.steps_per_epoch:
            raise ValueError(
                f"got {self.length} images for batches of {self.batch_size}; expected no batch larger than the set; "
                f"lower the batch size: --batch-size {self.length} at most"
            )
        if self.blocks and sum(self.blocks) != self.length:
            raise ValueError(f"got blocks of {sum(self.blocks)} images in all; expected {self.length}")

    @property
    def parts(self) -> int:
        """Parts that a global batch is cut into."""
        return self.world * self.shares

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch; what does not fill a batch is dropped, and is other images in each epoch."""
        return self.repeats * (self.length // self.repeats) // self.batch_size

    def batch(self, step: int, share: int = 0) -> list[Draw]:
        """List the images of a micro-batch of this process.

        Args:
            step: Number of the step since the start of the training, from 0.
            share: Which of the step's micro-batches.

        Raises:
            ValueError: If there is no such step or share.
        """
        if step < 0 or not 0 <= share < self.shares:
            raise ValueError(f"got step {step}, share {share}; expected 0 or more, and less than {self.shares} shares")
        epoch, step = divmod(step, self.steps_per_epoch)
        images = epoch_order(self.length, self.blocks, self.seed, epoch)
        shuffled = torch.randperm(
            self.batch_size, generator=make_generator("order", self.seed, "batch", epoch, step)
        ).numpy()
        drawn = step * self.batch_size + shuffled[self.places(share)]
        return [
            Draw(int(images[place // self.repeats]), derive_seed("order", self.seed, "draw", epoch, place))
            for place in drawn.tolist()
        ]

    def places(self, share: int) -> Int[np.ndarray, "b"]:
        """Tell which places of the global batch a micro-batch has, the mirror image of place i being batch - 1 - i."""
        if self.parts == 1:
            return np.arange(self.batch_size)
        half = self.batch_size // (2 * self.parts)
        front = np.arange(half) + half * (self.rank * self.shares + share)
        return np.concatenate([front, self.batch_size - 1 - front[::-1]])


@lru_cache(maxsize=2)
def epoch_order(length: int, blocks: tuple[int, ...], seed: int, epoch: int) -> Int[np.ndarray, "N"]:
    """Shuffle all images for an epoch; where there are blocks, these, and then the images of a few blocks together."""
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
