"""Build hook: compiles the C kernels into the wheel if ROPEVIT_BUILD_KERNEL is 1; without it the wheel is pure Python.

A wheel with the kernel is for one platform and any Python 3. It has the kernel for each instruction set of
`ropevit/kernels/variants.py`, so users need no C compiler; one without it builds the kernel on first use.
"""

import os
import platform
import runpy
import shlex
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

KERNELS = Path("src/ropevit/kernels")


class KernelBuildHook(BuildHookInterface):
    """Adds compiled kernels to a wheel."""

    folder: tempfile.TemporaryDirectory | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile every variant of this machine into a temporary folder."""
        if os.environ.get("ROPEVIT_BUILD_KERNEL") != "1" or version == "editable":
            return
        settings = runpy.run_path(str(Path(self.root, KERNELS, "variants.py")))
        machine, known = platform.machine(), settings["VARIANTS"]
        if machine not in known:
            raise RuntimeError(f"got a machine of kind {machine}, expected one of {', '.join(known)}")
        self.folder = tempfile.TemporaryDirectory(prefix="ropevit-kernels-")
        compiler = shlex.split(os.environ.get("CC", "cc"))
        openmp = settings["OPENMP"] if platform.system() == "Linux" else ()  # Apple's clang comes without it
        sources = [str(Path(self.root, KERNELS, name)) for name in settings["SOURCES"]]
        for variant in known[machine]:
            target = str(Path(self.folder.name, variant.file_name))
            flags = *settings["FLAGS"], *variant.flags, *openmp
            subprocess.run([*compiler, *flags, "-o", target, *sources, *settings["LIBRARIES"]], check=True)
            build_data["force_include"][target] = f"ropevit/kernels/{variant.file_name}"
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")

    def finalize(self, *_: Any) -> None:
        """Remove the compiled files, which are in the wheel now."""
        if self.folder is not None:
            self.folder.cleanup()
