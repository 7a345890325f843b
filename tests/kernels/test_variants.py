"""Which compiled kernel of a wheel a processor takes."""

import logging

import pytest

from ropevit.kernels import native
from ropevit.kernels.variants import VARIANTS, usable

AVX2 = "ssse3 sse4_1 sse4_2 popcnt cx16 lahf_lm avx avx2 fma f16c bmi1 bmi2 movbe abm xsave"


@pytest.mark.parametrize(
    ("machine", "features", "names"),
    [
        ("x86_64", f"{AVX2} avx512f avx512bw avx512cd avx512dq avx512vl amx_tile", ["x86-64-v4", "x86-64-v3"]),
        (
            "x86_64",
            f"{AVX2} avx512f avx512bw avx512cd avx512dq avx512vl avx512_bf16",
            ["x86-64-v4-bf16", "x86-64-v4", "x86-64-v3"],
        ),
        ("x86_64", f"{AVX2} avx512f", ["x86-64-v3"]),
        ("x86_64", AVX2.replace("popcnt ", ""), []),  # as a virtual machine may hide it
        ("aarch64", "fp asimd", ["armv8"]),
        ("riscv64", AVX2, []),
    ],
)
def test_a_processor_takes_what_it_can_execute_the_fastest_first(machine, features, names):
    assert [variant.name for variant in usable(machine, features.split())] == names


def test_a_library_of_the_wheel_that_cannot_be_loaded_is_passed_over(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(native.platform, "machine", lambda: "arm64")
    assert native.load_prebuilt(tmp_path) is None  # no wheel with libraries
    (tmp_path / VARIANTS["arm64"][0].file_name).write_bytes(b"no library")
    with caplog.at_level(logging.INFO, "ropevit"):
        assert native.load_prebuilt(tmp_path) is None
    assert "the kernel of the wheel cannot be loaded" in caplog.text
