"""What is timed: one way to do a piece of work, ready to be called, and a group of them that is compared."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ropevit.bench.timing import Call

#: Names of the two directions of a level.
DIRECTIONS = {
    "op": ("forward", "forward + backward"),
    "layer": ("forward", "forward + backward"),
    "model": ("inference", "training step"),
}


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to do a piece of work, on data of its own."""

    forward: Call
    """Without gradients."""
    both: Call
    """Forward and backward."""
    tracked: Call
    """The forward pass that keeps what the backward pass needs."""
    check: Callable[[], float]
    """Compare with float64; gives the largest relative error or raises `WrongResultError`."""
    floor: tuple[int, int] | None = None
    """Bytes that each direction cannot avoid to move, or None where that says nothing."""


@dataclass(frozen=True, kw_only=True)
class PlannedCandidate:
    """A candidate that is still to be made, which may turn out to be impossible."""

    label: str
    family: str
    embedding: str
    compiled: bool
    make: Callable[[], Candidate]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Candidates that are timed in the same rounds."""

    level: str
    shape: str
    about: str
    """The sizes, in words."""
    base: str
    """Label of the entry with which the others are compared; compiled ones with its compiled twin, if there is one."""
    entries: Sequence[PlannedCandidate]
