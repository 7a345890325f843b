"""How the C kernels are compiled: on first use for this processor, or into a wheel for several instruction sets.

The build hook of the wheels (`hatch_build.py`) loads this file by its path, so it needs Python's library alone.
"""

from collections.abc import Iterable
from typing import NamedTuple

#: What the library is compiled from; the first has given it its name.
SOURCES = ("rotate.c", "window_attention.c")
HEADERS = ("vectors.h",)
#: Options of every build; `NATIVE` where it is for this processor alone, else those of a variant.
FLAGS = ("-O3", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared")
NATIVE = ("-march=native",)
#: After the source: a linker may leave out a library that nothing before it needs.
LIBRARIES = ("-lm",)
#: Tried first; without it the kernel uses one thread.
OPENMP = ("-fopenmp",)


class Variant(NamedTuple):
    """An instruction set that a wheel has the kernel for."""

    name: str
    flags: tuple[str, ...]
    features: frozenset[str]
    """What the processor must have, as Linux names it in /proc/cpuinfo."""

    @property
    def file_name(self) -> str:
        """Name of the library, beside rotate.c."""
        return f"rotate-{self.name}.so"


_SSE4 = frozenset({"ssse3", "sse4_1", "sse4_2", "popcnt", "cx16", "lahf_lm"})
_AVX2 = _SSE4 | {"avx", "avx2", "fma", "f16c", "bmi1", "bmi2", "movbe", "abm", "xsave"}
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
_NEON = (Variant("armv8", ("-march=armv8-a",), frozenset()),)

#: Name of a machine (`platform.machine()`) -> its variants, the fastest first.
VARIANTS: dict[str, tuple[Variant, ...]] = {
    "x86_64": (
        Variant("x86-64-v4-bf16", ("-march=x86-64-v4", "-mavx512bf16", "-mtune=generic"), _AVX512 | {"avx512_bf16"}),
        Variant("x86-64-v4", ("-march=x86-64-v4", "-mtune=generic"), _AVX512),
        Variant("x86-64-v3", ("-march=x86-64-v3", "-mtune=generic"), _AVX2),
    ),
    "aarch64": _NEON,
    "arm64": _NEON,
}


def usable(machine: str, features: Iterable[str]) -> list[Variant]:
    """Return the variants that a processor can execute, the fastest first.

    Args:
        machine: Its name, from `platform.machine()`.
        features: What it has, as Linux names it in /proc/cpuinfo.
    """
    has = frozenset(features)
    return [variant for variant in VARIANTS.get(machine, ()) if variant.features <= has]
