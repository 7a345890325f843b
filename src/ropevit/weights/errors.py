"""The one error of this package, and how its one-line messages quote other errors and long lists."""

from collections.abc import Iterable


class WeightsError(ValueError):
    """A checkpoint cannot be read, written, or does not fit the model."""


def first_line(error: BaseException) -> str:
    """Quote an error of another library in one line."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def few(names: Iterable[str], most: int = 3) -> str:
    """List the first names and count the others."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
