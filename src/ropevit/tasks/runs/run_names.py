"""Names of output directories where none is given: NAME, NAME-2, NAME-3, ..."""

import re
from pathlib import Path

from ropevit.locks import is_empty, is_locked


def numbered_folders(first: Path) -> list[Path]:
    """Return those of NAME, NAME-2, NAME-3, ... that exist, the highest number last; some may be missing.

    Args:
        first: The directory named NAME.
    """
    name = re.compile(rf"{re.escape(first.name)}-([2-9]|[1-9]\d+)")
    beside = first.parent.iterdir() if first.parent.is_dir() else ()
    others = {int(found[1]): path for path in beside if (found := name.fullmatch(path.name))}
    return [*([first] if first.exists() else []), *(others[number] for number in sorted(others))]


def choose_folder(first: Path, resume: bool) -> Path:
    """Return the directory after the last of NAME, NAME-2, ... that exists; on resuming that one itself.

    Without any it is NAME. A directory that is empty, and that no other process holds, is taken again.

    Args:
        first: The directory named NAME.
        resume: Whether to continue what is in a directory.
    """
    last = (numbered_folders(first) or [first])[-1]
    if resume or (is_empty(last) and not is_locked(last)):
        return last
    number = 1 if last == first else int(last.name.rpartition("-")[2])
    return first.with_name(f"{first.name}-{number + 1}")
