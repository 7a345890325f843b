"""The C kernel is built once for each kind of processor."""

from ropevit.kernels.native import instructions


def test_processors_with_other_instructions_get_kernels_of_their_own(tmp_path):
    wide, narrow = tmp_path / "wide", tmp_path / "narrow"
    wide.write_text("processor : 0\nmodel name : A\nflags : avx2 avx512f\ncpu MHz : 1000\n" * 2)
    narrow.write_text("processor : 0\nmodel name : A\nflags : avx2\ncpu MHz : 1000\n")
    assert instructions(wide) != instructions(narrow)
    before = instructions(wide)
    wide.write_text(wide.read_text().replace("1000", "3000"))  # what changes by itself is left out
    assert instructions(wide) == before
    assert instructions(tmp_path / "elsewhere")
