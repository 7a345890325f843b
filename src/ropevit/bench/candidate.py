"""Benchmark candidates: one implementation of a piece of work, ready to call, and groups of them to compare."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ropevit.bench.timing import Call

#: Names of the two directions of a level.
DIRECTIONS = {
    "op": ("forward", "forward + backward"),
    "layer": ("forward", "forward + backward"),
    "attention": ("forward", "forward + backward"),
    "model": ("inference", "training step"),
    "scale": ("inference", "training step"),
}


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One implementation of a piece of work, with its own data."""

    forward: Call
    """Without gradients."""
    both: Call
    """Forward and backward."""
    tracked: Call
    """The forward pass with gradients enabled, which saves tensors for the backward pass."""
    check: Callable[[], float] | None
    """Compares with float64; returns the largest relative error or raises `WrongResultError`. None: checked at another
    size."""
    min_bytes: tuple[int, int] | None = None
    """Least bytes that each direction reads and writes, or None where that is not meaningful."""


@dataclass(frozen=True, kw_only=True)
class PlannedCandidate:
    """A candidate that is not built yet; building it may fail."""

    label: str
    library: str
    embedding: str
    compiled: bool
    make: Callable[[], Candidate]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Candidates that are timed in the same rounds."""

    level: str
    shape: str
    about: str
    """Description of the sizes."""
    images: int = 1
    """Images of a call, of the level scale."""
    pixels: int = 0
    """Pixels of an image, on average, of the level scale."""
    base: str
    """Label of the baseline entry; compiled entries are compared with its compiled twin, if there is one."""
    entries: Sequence[PlannedCandidate]
