"""Random numbers by name: what is drawn depends on what it is for, never on what was drawn before."""

import hashlib

import torch
from torch import Tensor


def make_generator(*keys: str | int) -> torch.Generator:
    """Make a generator whose numbers depend on the keys alone.

    A training that draws each step from `make_generator(panel, seed, step)` sees the same data whatever its model
    does, and continues exactly after an interruption.

    Args:
        keys: Names and numbers, such as ("zoom", 0, "step", 17).

    Returns:
        A generator on the CPU, so that every device draws the same.
    """
    return torch.Generator().manual_seed(derive_seed(*keys))


def derive_seed(*keys: str | int) -> int:
    """Give what the keys name a number of its own, a signed one of 64 bits."""
    digest = hashlib.sha256("/".join(map(str, keys)).encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Draw `count` numbers from [low, high)."""
    return low + (high - low) * torch.rand(count, generator=generator)


def batch_indices(count: int, batch_size: int, step: int, *keys: str | int) -> Tensor:
    """Say which items of a set are in a batch, when epochs in random order follow one another without a gap.

    Args:
        count: Items in the set.
        batch_size: Items in a batch.
        step: Batch number, from 0.
        keys: What the order depends on, besides the epoch.

    Returns:
        int64 indices (batch_size,).
    """
    first, last = step * batch_size // count, ((step + 1) * batch_size - 1) // count
    epochs = [
        torch.randperm(count, generator=make_generator(*keys, "epoch", epoch)) for epoch in range(first, last + 1)
    ]
    start = step * batch_size - first * count
    return torch.cat(epochs)[start : start + batch_size]
