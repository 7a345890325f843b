"""Named random streams: numbers depend on the name of the stream, never on what was drawn before."""

import hashlib

import torch
from torch import Tensor


def make_generator(*keys: str | int) -> torch.Generator:
    """Return a generator that is seeded by the keys alone.

    A training that draws each step from `make_generator(panel, seed, step)` sees the same data whatever its model
    draws, and resumes exactly.

    Args:
        keys: Names and numbers, such as ("zoom", 0, "step", 17).

    Returns:
        A generator on the CPU, so that every device draws the same.
    """
    return torch.Generator().manual_seed(derive_seed(*keys))


def derive_seed(*keys: str | int) -> int:
    """Hash keys to a signed 64-bit seed."""
    digest = hashlib.sha256("/".join(map(str, keys)).encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Draw `count` numbers from [low, high)."""
    return low + (high - low) * torch.rand(count, generator=generator)


def batch_indices(count: int, batch_size: int, step: int, *keys: str | int) -> Tensor:
    """Return the items of a batch, where shuffled epochs follow one another without a gap.

    Args:
        count: Number of items in the set.
        batch_size: Number of items in a batch.
        step: Index of the batch, from 0.
        keys: Keys of the random stream; the epoch is added.

    Returns:
        int64 indices (batch_size,).
    """
    first, last = step * batch_size // count, ((step + 1) * batch_size - 1) // count
    epochs = [
        torch.randperm(count, generator=make_generator(*keys, "epoch", epoch)) for epoch in range(first, last + 1)
    ]
    start = step * batch_size - first * count
    return torch.cat(epochs)[start : start + batch_size]
