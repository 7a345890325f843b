"""Compile the Triton kernels for one kind of GPU, without one, and say what came out: a line of JSON each.

`python compile_triton.py CACHE [--all]`, as test_triton_code.py runs it, where TRITON_INTERPRET is not set.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ropevit.kernels import triton_rotation as kernels

ALIGNED = [["tt.divisibility", 16]]
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def source(direction: str, dtype: str, per_image: bool, channels: int = 64) -> ASTSource:
    """Describe a kernel as a launch would: a ViT-B layer's heads and pointers that PyTorch has aligned."""
    kernel = {"forward": kernels.forward_kernel}.get(direction, kernels.backward_kernel)
    plan = kernels.plan_rotation(256, 196, 12 * channels, 4 if dtype == "fp32" else 2)
    types = {"positions": "*fp32", "frequencies": "*fp32", **dict.fromkeys(kernels.ANY_VALUE, "i32")}
    values = {
        "channels": channels,
        "axes": 2,
        "per_image": per_image,
        "unit": 16,
        "sums": None,
        "position_sums": None,
        "steps": 1,
    }
    values |= {"block_n": plan.block_n, "block_c": plan.block_c}
    count = {"forward": 0, "backward": 3, "backward with sums": 5}[direction]
    types |= {"parts": ((f"*{dtype}", "i32", "i32", "i32"),) * count, "grad_qkv": f"*{dtype}", "qkv": f"*{dtype}"}
    if count == 5:
        types["sums"] = "*fp32"
    names = kernel.arg_names
    signature = {name: types.get(name, "constexpr") for name in names}
    constants = {name: values[name] for name in names if signature[name] == "constexpr"}
    pointers = [(index,) for index, name in enumerate(names) if str(signature[name]).startswith("*")]
    pointers += [(names.index("parts"), part, 0) for part in range(count)]
    return ASTSource(kernel, signature, constants, dict.fromkeys(pointers, ALIGNED))


def assemble(ptx: str) -> str | None:
    """Return what ptxas says of the memory that threads need; None where Triton came without it."""
    if not (TOOLS / "ptxas").exists():
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx)
        command = [TOOLS / "ptxas", "-v", "-arch=sm_90a", path, "-o", path.with_suffix(".cubin")]
        return subprocess.run(command, capture_output=True, text=True, check=True).stderr


def report(source: ASTSource, num_warps: int, num_stages: int = 3, **row: object) -> None:
    """Compile, and print a line of JSON: what the code does with memory, and what threads need."""
    options = {"num_warps": num_warps, "num_stages": num_stages}
    built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    ptx = built.asm["ptx"]
    words = Counter(re.findall(r"\b(?:ld|st|atom|red)\.(?:global|local)[\w.:]*|\batom[\w.:]*|\bsin\b|\bwgmma\b", ptx))
    print(json.dumps({**row, "words": words, "shared": built.metadata.shared, "ptxas": assemble(ptx)}))


os.environ["TRITON_CACHE_DIR"] = sys.argv[1]

if __name__ == "__main__":
    for direction in ("forward", "backward", "backward with sums"):
        for dtype in ("fp32", "bf16"):
            for per_image in (False, True):
                covering = per_image == (dtype == "fp32") and (dtype == "bf16" or direction != "backward")
                if "--all" in sys.argv or (covering and (dtype, direction) != ("bf16", "forward")):  # each value, once
                    report(
                        source(direction, dtype, per_image), 4, direction=direction, dtype=dtype, per_image=per_image
                    )
