"""Progress events of a command that evaluates images several times, for the command line or another front end."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PassesStarted:
    """The passes begin: of which model, over which images."""

    name: str
    notes: tuple[str, ...]
    """Further lines for the user."""


@dataclass(frozen=True, kw_only=True)
class PassProgress:
    """`done` of `total` images of a pass are evaluated."""

    text: str
    """Description of the pass."""
    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class PassSkipped:
    """Images of a pass could not be read."""

    names: tuple[str, ...]
    """Some of them, with the reason."""


Event = PassesStarted | PassProgress | PassSkipped
Report = Callable[[Event], None]
