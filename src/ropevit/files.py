"""Files written whole or not at all, and JSON read with an error of one line."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write beside the path, flush to disk, then move into place; a crash leaves the old file or none.

    Raises:
        ValueError: If the disk refuses; the message names the file.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as file:
                watched = WatchedFile(file)
                try:
                    write(cast("BinaryIO", watched))
                except Exception:
                    if watched.error is not None:
                        raise watched.error from None
                    raise
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror or error}; choose another place") from error


class WatchedFile:
    """A file that remembers why the disk refused: libraries that write by themselves, as torch does, say less."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.error: OSError | None = None

    def write(self, content: Any) -> int:
        """Write bytes."""
        try:
            return self.file.write(content)
        except OSError as error:
            self.error = error
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, all or nothing."""
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON, all or nothing."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def parse_json(content: str | bytes, source: object) -> Any:
    """Parse JSON that somebody else may have written or damaged.

    Args:
        content: The JSON text.
        source: What the message names, such as the path.

    Raises:
        ValueError: If it is no JSON, is cut off, or is nested too deeply; one line that names the source.
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error).splitlines()[0]
        raise ValueError(f"{source} is not readable JSON ({reason}); it is damaged or was cut off") from None


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is no JSON, is cut off, or is nested too deeply; one line that names the path.
    """
    return parse_json(path.read_bytes(), path)


def unused_path(path: Path) -> Path:
    """Return the path of a file, or the first of NAME-2, NAME-3, ... (before its suffix) that does not exist."""
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return candidate
