"""A shared library is built again, elsewhere or not at all, whatever compilers and caches do; nothing crashes."""

import ctypes
import logging
import os
import shutil
import tempfile
import time
from pathlib import Path

import pytest
import torch

from ropevit.kernels import building, native, rotate_qkv
from ropevit.rope import axial_frequencies, grid_positions

CC = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
needs_compiler = pytest.mark.skipif(CC is None, reason="no C compiler here")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Return the folder in which libraries are kept, and a folder for temporary files beside it."""
    monkeypatch.setenv("ROPEVIT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "cache"


@pytest.fixture
def build(tmp_path):
    """Build a library of one function, and call it."""
    source = tmp_path / "answer.c"
    source.write_text("int answer(void) { return 42; }\n")
    return lambda command=CC: building.load_or_build(command, [source], "facts", ("answer",)).answer()


@pytest.fixture
def script(tmp_path):
    """Write a program that stands for a compiler."""

    def write(content: bytes, mode=0o755):
        path = tmp_path / "stub"
        path.write_bytes(content)
        path.chmod(mode)
        return str(path)

    return write


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"#!/bin/sh\nexit 1\n", r"stub could not build answer.c \(exit status 1, without a message\)"),
        (b"#!/bin/sh\necho 'x.c: In function f:\nx.c:3: error: bad'; exit 1\n", r"\(x.c:3: error: bad\)$"),
        (b"#!/bin/sh\nexit 0\n", r"stub could not build answer.c \(it wrote no file\)"),
        (b"#!/bin/sh\nkill -9 $$\n", r"stub could not build answer.c \(ended by signal 9\)"),
        (b"#!/bin/sh\nprintf '\\n\\377\\033[2Jbad\\nmore\\n' >&2; exit 3\n", r"\(\ufffd\\x1b\[2Jbad\)$"),
        (
            b"#!/bin/sh\nfor last; do :; done\necho text >$(echo $* | sed 's/.* -o \\([^ ]*\\) .*/\\1/')\n",
            "header|short",
        ),
        (b"#!/no/such/program\n", r"stub cannot be run \(No such file or directory\)"),
        (b"\x00\x01 no program", r"stub cannot be run \(Exec format error\)"),
    ],
    ids=[
        "fails",
        "explains",
        "writes nothing",
        "is killed",
        "is no text",
        "writes text",
        "no interpreter",
        "no program",
    ],
)
def test_a_compiler_that_fails_in_any_way_is_one_line(cache, build, script, content, message):
    with pytest.raises(building.BuildError, match=message) as error:
        build(script(content))
    assert "\n" not in str(error.value)
    assert list(cache.iterdir()) == list((cache.parent / "temporary").iterdir()) == []


@needs_compiler
@pytest.mark.parametrize("size", [40, 100, 4096, 8192, 12000])
def test_half_a_library_that_a_compiler_wrote_is_not_loaded(cache, build, script, size):
    cuts = f'#!/bin/sh\n{CC} "$@"\nfor a; do [ "$p" = -o ] && truncate -s {size} "$a"; p=$a; done\n'
    with pytest.raises(building.BuildError, match=r"cannot be stored or loaded: .*(is truncated|file too short)"):
        build(script(cuts.encode()))
    assert list(cache.iterdir()) == []


def test_a_compiler_that_hangs_is_ended_with_its_children(cache, build, script, monkeypatch, tmp_path):
    monkeypatch.setattr(building, "BUILD_SECONDS", 1.0)
    hangs = script(f"#!/bin/sh\nsleep 1000 & echo $! > {tmp_path}/child; wait\n".encode())
    with pytest.raises(building.BuildError, match=r"stub did not end within 1 s$"):
        build(hangs)
    child = Path(f"/proc/{(tmp_path / 'child').read_text().strip()}/cmdline")
    for _ in range(100):
        if not child.exists() or b"sleep" not in child.read_bytes():  # ended, or waiting to be collected
            break
        time.sleep(0.05)
    else:
        pytest.fail("the child process still runs")
    assert list(cache.iterdir()) == []


@needs_compiler
@pytest.mark.parametrize("damage", ["empty", "one byte", "100 bytes", "half", "all but one", "text", "changed", "pipe"])
def test_a_damaged_library_in_the_cache_is_built_again(cache, build, damage):
    assert build() == 42
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    path.unlink()  # it is mapped: cutting this very file would end this process
    short = {"empty": 0, "one byte": 1, "100 bytes": 100, "half": len(whole) // 2, "all but one": len(whole) - 1}
    if damage in short:
        path.write_bytes(whole[: short[damage]])
    elif damage == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(b"no library" if damage == "text" else whole[:64] + bytes([whole[64] ^ 1]) + whole[65:])
    assert build() == 42
    assert [path.read_bytes() for path in cache.iterdir()] == [whole]


@needs_compiler
def test_a_whole_library_in_the_cache_is_used_again(cache, build, script):
    assert build() == 42
    assert build(script(b"#!/bin/sh\nexit 1\n")) == 42
    (path,) = cache.iterdir()
    assert path.name.startswith("answer-")


@needs_compiler
def test_a_folder_in_place_of_the_library_keeps_nobody_from_using_it(cache, build):
    assert build() == 42
    (path,) = cache.iterdir()
    path.unlink()
    path.mkdir()
    assert build() == 42
    assert list(cache.iterdir()) == [path]


@needs_compiler
@pytest.mark.parametrize("trouble", ["a file", "below a file", "not writable", "no programs", "no home"])
def test_a_cache_that_cannot_be_used_leads_to_a_temporary_folder_that_is_removed(
    cache, build, trouble, monkeypatch, caplog
):
    if trouble == "a file":
        cache.write_text("")
    elif trouble == "below a file":
        cache.with_name("file").write_text("")
        monkeypatch.setenv("ROPEVIT_CACHE", str(cache.with_name("file") / "cache"))
    elif trouble == "not writable":  # root writes everywhere
        make = tempfile.mkstemp
        refuse = PermissionError(13, "Permission denied")
        monkeypatch.setattr(tempfile, "mkstemp", lambda **k: raising(refuse) if k["dir"] == cache else make(**k))
    elif trouble == "no programs":  # mounted with noexec
        load, refused = ctypes.CDLL, OSError("failed to map segment from shared object")
        monkeypatch.setattr(ctypes, "CDLL", lambda path: raising(refused) if str(cache) in path else load(path))
    else:
        monkeypatch.setattr(building, "cache_folder", lambda: raising(RuntimeError("no home directory")))
    assert build() == 42
    assert len(caplog.messages) == 1
    assert "set ROPEVIT_CACHE to another folder" in caplog.text
    assert list((cache.parent / "temporary").iterdir()) == []
    assert not cache.is_dir() or list(cache.iterdir()) == []


def raising(error):
    raise error


@needs_compiler
def test_what_a_killed_build_left_is_removed_once_it_is_old(cache, build):
    cache.mkdir()
    old, new = cache / ".answer-0.x.part", cache / ".answer-1.y.part"
    for part in (old, new):
        part.write_text("")
    os.utime(old, (time.time() - 2 * building.STALE_SECONDS,) * 2)
    assert build() == 42
    assert not old.exists()
    assert new.exists()


@pytest.mark.usefixtures("cache")
def test_without_a_kernel_rotation_takes_the_reference_and_says_so_once(script, monkeypatch, caplog):
    monkeypatch.setenv("CC", script(b"#!/bin/sh\nexit 1\n"))
    given = torch.randn(1, 9, 3, 2, 8), grid_positions(3, 3), axial_frequencies(8)
    truth = rotate_qkv(*given, backend="reference")
    cached = native.compiler, native.build_error, native.library
    try:
        for function in cached:
            function.cache_clear()
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                assert all(map(torch.equal, rotate_qkv(*given), truth))
        (line,) = caplog.messages
        assert line.startswith("rotation on the CPU uses the slower reference: ")
        assert "\n" not in line
        with pytest.raises(ValueError, match=r"backend='cpu', but there is no C kernel here: .*; use 'auto'"):
            rotate_qkv(*given, backend="cpu")
    finally:
        for function in cached:
            function.cache_clear()
