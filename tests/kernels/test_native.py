"""The C kernel is built once for each kind of processor, by any compiler."""

import platform
import re
import shutil
import subprocess

import pytest

from ropevit.kernels.native import SOURCES, instructions
from ropevit.kernels.variants import FLAGS, OPENMP

COMPILERS = [name for name in ("cc", *(f"gcc-{n}" for n in range(9, 16)), "clang") if shutil.which(name)]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the flags are those of x86-64")
@pytest.mark.parametrize("command", COMPILERS)
@pytest.mark.parametrize("flag", ["-msse2", "-mavx2", "-mavx512f"])
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_every_installed_compiler_accepts_the_kernel_for_every_vector_length(command, flag, source):
    strict = ("-Wall", "-Werror", "-Wno-psabi", "-Wno-unknown-pragmas")
    run = subprocess.run([command, flag, "-fsyntax-only", *strict, source], capture_output=True)
    assert (run.returncode, run.stderr.decode()) == (0, "")


@pytest.mark.skipif(platform.machine() != "x86_64" or not shutil.which("gcc"), reason="reads GCC's code for x86-64")
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_vectors_are_loaded_and_stored_without_a_call(source):
    """A parallel region calls through a pointer once for each block of tokens; nothing else may."""
    words = ["gcc", *FLAGS[:3], "-mavx2", "-mfma", *OPENMP, "-S", "-o", "-", source]
    code = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert len(re.findall(r"^\s*(?:call|jmp)\s+\*[%(]", code, re.MULTILINE)) <= 1


def test_processors_with_other_instructions_get_kernels_of_their_own(tmp_path):
    wide, narrow = tmp_path / "wide", tmp_path / "narrow"
    wide.write_text("processor : 0\nmodel name : A\nflags : avx2 avx512f\ncpu MHz : 1000\n" * 2)
    narrow.write_text("processor : 0\nmodel name : A\nflags : avx2\ncpu MHz : 1000\n")
    assert instructions(wide) != instructions(narrow)
    before = instructions(wide)
    wide.write_text(wide.read_text().replace("1000", "3000"))  # what changes by itself is left out
    assert instructions(wide) == before
    assert instructions(tmp_path / "elsewhere")
