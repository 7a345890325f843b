"""One process at a time in a folder of results."""

import errno
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

#: The file that is locked; it goes with the lock, and one that a killed process left behind locks nothing.
NAME = ".lock"

#: What file systems say that have no locks.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Keep a folder for this process while it writes there; the lock ends with the process, however that ends.

    The folder is made if it is missing, and removed again, with the parents made for it, if nothing was written.
    With several processes on one folder, such as those of torchrun, the first one alone locks it.

    Raises:
        ValueError: If another process holds it, it is a file, or the disk refuses.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"got the file {folder} for a directory; choose another --out")
    try:
        lock = acquire(folder)
        try:
            yield
        finally:
            (folder / NAME).unlink(missing_ok=True)  # while it is held: who opens it now sees that it is gone
            lock.release()
    finally:
        for path in made:
            with suppress(OSError):
                path.rmdir()  # unless something is in it


def acquire(folder: Path) -> BaseFileLock:
    """Make a folder and take its lock, without waiting.

    Raises:
        ValueError: If another process holds it, or the disk refuses.
    """
    lock = FileLock(folder / NAME, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise ValueError(
            f"another process is writing to {folder}; wait until it ends, or choose another --out"
        ) from None
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise ValueError(f"cannot write {folder}: {error.strerror or error}; choose another place") from error
        warnings.warn(f"{folder} cannot be locked; let no other process write there", stacklevel=4)
    return lock


def is_locked(folder: Path) -> bool:
    """Return whether a process holds a folder."""
    if not (folder / NAME).exists():
        return False
    lock = FileLock(folder / NAME, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return True
    except (OSError, NotImplementedError):
        return False  # who takes the lock reports it
    lock.release()
    return False


def is_empty(folder: Path) -> bool:
    """Return whether a folder is missing, or holds nothing but its lock."""
    return not folder.exists() or (folder.is_dir() and all(path.name == NAME for path in folder.iterdir()))
