"""Build hook: compiles the C kernel into the wheel if ROPEVIT_BUILD_KERNEL is 1; without it the wheel is pure Python.

A wheel of the first kind is for one platform and any Python 3. It has the kernel for each instruction set of
`ropevit/kernels/variants.py`, so users need no C compiler; one without it builds the kernel on first use.
"""

import os
import platform
import runpy
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

KERNELS = Path("src/ropevit/kernels")


class KernelBuildHook(BuildHookInterface):
    """Adds compiled kernels to a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile every variant of this machine into a folder beside the distributions."""
        if os.environ.get("ROPEVIT_BUILD_KERNEL") != "1" or version == "editable":
            return
        how = runpy.run_path(str(Path(self.root, KERNELS, "variants.py")))
        variants = how["VARIANTS"].get(platform.machine())
        if variants is None:
            raise RuntimeError(
                f"got a machine of kind {platform.machine()}, expected one of {', '.join(how['VARIANTS'])}"
            )
        folder = Path(self.directory, "kernels")
        folder.mkdir(parents=True, exist_ok=True)
        compiler = os.environ.get("CC", "cc")
        openmp = how["OPENMP"] if platform.system() == "Linux" else ()  # Apple's clang comes without it
        for variant in variants:
            target = folder / variant.file_name
            source = str(Path(self.root, KERNELS, "rotate.c"))
            subprocess.run([compiler, *how["FLAGS"], *variant.flags, *openmp, "-o", str(target), source], check=True)
            build_data["force_include"][str(target)] = f"ropevit/kernels/{variant.file_name}"
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")
