"""Names of output directories where none is given: NAME, NAME-2, NAME-3, ..."""

from itertools import count, takewhile
from pathlib import Path

from ropevit.files import unused_path
from ropevit.locks import is_empty


def numbered_folders(first: Path) -> list[Path]:
    """Return NAME, NAME-2, ... up to the first that does not exist; NAME itself may be missing.

    Args:
        first: The directory named NAME.
    """
    others = (first.with_name(f"{first.name}-{number}") for number in count(2))
    return [*([first] if first.exists() else []), *takewhile(Path.exists, others)]


def choose_folder(first: Path, resume: bool) -> Path:
    """Return the first of NAME, NAME-2, ... that is not taken; on resuming the last one that is, if there is any.

    Args:
        first: The directory named NAME.
        resume: Whether to continue what is in a directory.
    """
    if resume:
        return (numbered_folders(first) or [first])[-1]
    return first if first.is_dir() and is_empty(first) else unused_path(first)
