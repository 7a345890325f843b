"""Build a shared library with the machine's C compiler, and keep it in a cache that may be damaged, full or closed."""

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
from ropevit.text import printable

log = logging.getLogger(__name__)

#: Seconds that a compiler may take to tell its version, and to build.
VERSION_SECONDS, BUILD_SECONDS = 20.0, 120.0

#: Seconds after which an unfinished file belongs to a process that was killed.
STALE_SECONDS = 3600.0

#: What is read of a compiler's output, in bytes.
OUTPUT_BYTES = 1 << 16

FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared", "-lm")


class BuildError(RuntimeError):
    """The library cannot be built here; one line says why."""


class TimedOutError(BuildError):
    """A compiler that hangs, which is not asked a second time."""


def run_compiler(command: Sequence[str], seconds: float) -> tuple[int, str]:
    """Run a compiler, and kill it with its own child processes if it takes too long.

    Returns:
        The exit status (below 0: the signal that ended it), and the start of what it wrote, whatever the encoding.

    Raises:
        BuildError: If it cannot be started, or takes longer.
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
                    kill_group(process)
            output.seek(0)
            return status, output.read(OUTPUT_BYTES).decode("utf-8", "replace")
    except subprocess.TimeoutExpired:
        raise TimedOutError(f"{command[0]} did not end within {seconds:g} s") from None
    except OSError as error:
        raise BuildError(f"{command[0]} cannot be run ({error.strerror or error})") from None


def kill_group(process: subprocess.Popen) -> None:
    """Kill a process and those that it has started."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()


def load_or_build(command: str, source: Path, facts: str, functions: Sequence[str]) -> ctypes.CDLL:
    """Load a library from the user's cache, or build it there; where the cache cannot be used, in a temporary folder.

    Args:
        command: The C compiler.
        source: The C file.
        facts: What a build depends on; a library is used again where all of it is the same.
        functions: Names that the library must have.

    Raises:
        BuildError: If it can be built nowhere.
    """
    stem = f"{source.stem}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}"
    try:
        folder = cache_folder()
        return load_cached(folder, stem, functions) or build(command, source, folder, stem, functions)
    except TimedOutError:
        raise
    except (OSError, RuntimeError) as error:  # no home, or a folder that is closed, full or must not hold programs
        unusable = error
    try:
        with tempfile.TemporaryDirectory(prefix="ropevit-", ignore_cleanup_errors=True) as temporary:
            library = build(command, source, Path(temporary), stem, functions)  # stays loaded without its file
    except OSError as error:
        raise BuildError(f"what {command} built cannot be loaded, or kept anywhere: {printable(error)}") from error
    log.warning(
        "the cache cannot keep the C kernel, which each process builds anew (%s); set ROPEVIT_CACHE to another folder",
        printable(unusable),
    )
    return library


def load_cached(folder: Path, stem: str, functions: Sequence[str]) -> ctypes.CDLL | None:
    """Load a library that was built before, if there is a whole one.

    Its name ends with the digest of its content: loading a file that was cut short would end the process.
    """
    with suppress(OSError):
        for path in sorted(folder.glob(f"{stem}-*.so")):
            with suppress(OSError):
                if path.is_file() and path.name == keep_name(stem, path):
                    return load(path, functions)
    return None


def keep_name(stem: str, path: Path) -> str:
    """Name a library by what it was built from, and by its content."""
    return f"{stem}-{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}.so"


def load(path: Path, functions: Sequence[str]) -> ctypes.CDLL:
    """Load a library.

    Raises:
        OSError: If it is none or not whole, lacks a function, or may not be loaded from where it is.
    """
    if path.stat().st_size < elf_size(path.read_bytes()):
        raise OSError(f"{path.name} is cut short")
    library = ctypes.CDLL(str(path.absolute()))
    missing = [name for name in functions if not hasattr(library, name)]
    if missing:
        raise OSError(f"{path.name} lacks {', '.join(missing)}")
    return library


def elf_size(content: bytes) -> int:
    """Tell the bytes that a 64-bit ELF file must have, by its tables and segments; 0 for another file.

    The system's loader maps what should be there: a file that is cut short ends the process.

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


def build(command: str, source: Path, folder: Path, stem: str, functions: Sequence[str]) -> ctypes.CDLL:
    """Build into a file of this process, flush it, load it, and move it into place for others.

    Raises:
        BuildError: If the compiler fails.
        OSError: If the folder cannot be written, or what was built there cannot be loaded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_stale(folder, source.stem)
    handle, name = tempfile.mkstemp(prefix=f".{stem}.", suffix=".part", dir=folder)
    part = Path(name)
    try:
        os.close(handle)
        compile_source(command, source, part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        library, path = load(part, functions), folder / keep_name(stem, part)
        with suppress(OSError):  # such as a folder of that name: it is loaded all the same
            part.replace(path)
            log.info("built %s with %s", path, command)
        return library
    finally:
        part.unlink(missing_ok=True)


def remove_stale(folder: Path, stem: str) -> None:
    """Remove what processes have left that were killed while they built."""
    for part in folder.glob(f".{stem}-*.part"):
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > STALE_SECONDS:
                part.unlink()


def compile_source(command: str, source: Path, target: Path) -> None:
    """Compile, with OpenMP where there is one.

    Raises:
        BuildError: If the compiler fails, or writes nothing.
    """
    status, output = 0, ""
    for extra in (("-fopenmp",), ()):
        status, output = run_compiler([command, *FLAGS, *extra, "-o", str(target), str(source)], BUILD_SECONDS)
        if status == 0 and target.is_file() and target.stat().st_size:
            return
    raise BuildError(f"{command} could not build {source.name} ({explain(status, output)})")


def explain(status: int, output: str) -> str:
    """Say in one line why a compiler has built nothing."""
    if status < 0:
        return f"ended by signal {-status}"
    lines = [line for line in output.splitlines() if line.strip()]
    if lines:
        return printable(lines[0].strip()[:200])
    return "it wrote no file" if status == 0 else f"exit status {status}, without a message"
