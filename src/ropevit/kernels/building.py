"""Build a shared library with the machine's C compiler and cache it; the cache may be damaged, full or read-only."""

import ctypes
import hashlib
import logging
import os
import signal
import struct
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ropevit.cache import cache_folder
from ropevit.kernels import variants
from ropevit.text import printable

log = logging.getLogger(__name__)

#: Time limits in seconds for a compiler to print its version, and to build.
VERSION_SECONDS, BUILD_SECONDS = 20.0, 120.0

#: Age in seconds from which an unfinished file is the leftover of a killed process.
STALE_SECONDS = 3600.0

#: Bytes of a compiler's output that are read.
_OUTPUT_BYTES = 1 << 16


class BuildError(RuntimeError):
    """The library cannot be built here; one line says why."""


class TimedOutError(BuildError):
    """The compiler ran into the time limit; it is not run a second time."""


def run_compiler(command: Sequence[str], seconds: float) -> tuple[int, str]:
    """Run a compiler, and kill it with its child processes after a time limit.

    Returns:
        The exit status (negative: the signal that ended it), and the start of its output, whatever the encoding.

    Raises:
        BuildError: If it cannot be started, or exceeds the time limit.
    """
    try:
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
            try:
                status = process.wait(seconds)
            finally:
                if process.poll() is None:
                    _kill_group(process)
            output.seek(0)
            return status, output.read(_OUTPUT_BYTES).decode("utf-8", "replace")
    except subprocess.TimeoutExpired:
        raise TimedOutError(f"{command[0]} did not end within {seconds:g} s") from None
    except OSError as error:
        raise BuildError(f"{command[0]} cannot be run ({error.strerror or error})") from None


def _kill_group(process: subprocess.Popen) -> None:
    """Kill a process and its child processes."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()


def load_or_build(command: str, sources: Sequence[Path], facts: str, functions: Sequence[str]) -> ctypes.CDLL:
    """Load a library from the user's cache, or build it there; if the cache is unusable, in a temporary directory.

    Args:
        command: The C compiler.
        sources: The C files; the library has the name of the first.
        facts: Everything that a build depends on; the cached library is reused if all of it is the same.
        functions: Functions that the library must have.

    Raises:
        BuildError: If it cannot be built.
    """
    stem = f"{sources[0].stem}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}"
    try:
        folder = cache_folder()
        return _load_cached(folder, stem, functions) or build(command, sources, folder, stem, functions)
    except TimedOutError:
        raise
    except (OSError, RuntimeError) as error:  # no home, or a folder that is read-only, full or noexec
        unusable = error
    try:
        with tempfile.TemporaryDirectory(prefix="ropevit-", ignore_cleanup_errors=True) as temporary:
            library = build(command, sources, Path(temporary), stem, functions)  # stays loaded without its file
    except OSError as error:
        raise BuildError(f"the library that {command} built cannot be stored or loaded: {printable(error)}") from error
    log.warning(
        "the C kernel cannot be cached, so each process builds it again (%s); set ROPEVIT_CACHE to another folder",
        printable(unusable),
    )
    return library


def _load_cached(folder: Path, stem: str, functions: Sequence[str]) -> ctypes.CDLL | None:
    """Load a cached library, if there is an intact one.

    File names end with a digest of the content: loading a truncated file would kill the process.
    """
    with suppress(OSError):
        for path in sorted(folder.glob(f"{stem}-*.so")):
            with suppress(OSError):
                if path.is_file() and path.name == _keep_name(stem, path):
                    return load(path, functions)
    return None


def _keep_name(stem: str, path: Path) -> str:
    """Return the file name of a library: what it was built from, and a digest of its content."""
    return f"{stem}-{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}.so"


def load(path: Path, functions: Sequence[str]) -> ctypes.CDLL:
    """Load a library.

    Raises:
        OSError: If it is not a library, is truncated, lacks a function, or may not be loaded from its folder.
    """
    if path.stat().st_size < _elf_size(path.read_bytes()):
        raise OSError(f"{path.name} is truncated")
    library = ctypes.CDLL(str(path.absolute()))
    missing = [name for name in functions if not hasattr(library, name)]
    if missing:
        raise OSError(f"{path.name} lacks {', '.join(missing)}")
    return library


def _elf_size(content: bytes) -> int:
    """Return the size in bytes that a 64-bit ELF file must have by its headers; 0 for other files.

    The system's loader maps all segments without checking: a truncated file kills the process.

    Source: System V ABI, chapters 4 and 5 (ELF header, program header).
    """
    if content[:6] != b"\x7fELF\x02\x01" or len(content) < 64:
        return 0
    segments, sections = struct.unpack_from("<2Q", content, 32)
    segment_size, segment_count, section_size, section_count = struct.unpack_from("<4H", content, 54)
    ends = [segments + segment_size * segment_count, sections + section_size * section_count]
    for start in range(segments, min(ends[0], len(content) - 55), segment_size or 1):
        offset, (size,) = struct.unpack_from("<Q", content, start + 8)[0], struct.unpack_from("<Q", content, start + 32)
        ends.append(offset + size)
    return max(ends)


def build(command: str, sources: Sequence[Path], folder: Path, stem: str, functions: Sequence[str]) -> ctypes.CDLL:
    """Build into a temporary file, flush it, load it, and move it into place for other processes.

    Raises:
        BuildError: If the compiler fails.
        OSError: If the folder cannot be written, or the library cannot be loaded from it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _remove_stale(folder, sources[0].stem)
    handle, name = tempfile.mkstemp(prefix=f".{stem}.", suffix=".part", dir=folder)
    part = Path(name)
    try:
        os.close(handle)
        _compile_sources(command, sources, part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        library, path = load(part, functions), folder / _keep_name(stem, part)
        with suppress(OSError):  # e.g. a folder of that name; the library is loaded already
            part.replace(path)
            log.info("built %s with %s", path, command)
        return library
    finally:
        part.unlink(missing_ok=True)


def _remove_stale(folder: Path, stem: str) -> None:
    """Remove the unfinished files of processes that were killed while building."""
    for part in folder.glob(f".{stem}-*.part"):
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > STALE_SECONDS:
                part.unlink()


def _compile_sources(command: str, sources: Sequence[Path], target: Path) -> None:
    """Compile source files into a library, with OpenMP where it is available.

    Raises:
        BuildError: If the compiler fails, or writes nothing.
    """
    status, output = 0, ""
    for extra in (variants.OPENMP, ()):
        flags = *variants.FLAGS, *variants.NATIVE, *extra
        status, output = run_compiler(
            [command, *flags, "-o", str(target), *map(str, sources), *variants.LIBRARIES], BUILD_SECONDS
        )
        if status == 0 and target.is_file() and target.stat().st_size:
            return
    raise BuildError(f"{command} could not build {sources[0].name} ({_explain(status, output)})")


def _explain(status: int, output: str) -> str:
    """Describe in one line why a compiler failed."""
    if status < 0:
        return f"ended by signal {-status}"
    lines = [line for line in output.splitlines() if line.strip()]
    if lines:
        return printable(next((line for line in lines if "error" in line), lines[0]).strip()[:200])
    return "it wrote no file" if status == 0 else f"exit status {status}, without a message"
