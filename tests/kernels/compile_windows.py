"""Compile the kernels of window attention for one kind of GPU, as compile_triton.py does: windows of 7, heads of 32."""

from compile_triton import ALIGNED, report
from triton.compiler import ASTSource

from ropevit.kernels import triton_window_attention as kernels


def source(kernel, dtype: str, plan: kernels.WindowLaunch, rotates: bool) -> ASTSource:
    """Describe a kernel as a launch would, with learned frequencies or none, and a bias."""
    names = kernel.arg_names
    types = {**dict.fromkeys((*kernels.ANY_VALUE, "count", "chunk"), "i32"), "scale": "fp32", "bias": "*fp32"}
    types |= dict.fromkeys(("qkv", "out", "gradient", "grad_qkv"), f"*{dtype}")
    if rotates:
        types["frequencies"] = "*fp32"
    if rotates or kernel is kernels.bias_kernel:
        types["sums"] = "*fp32"
    values = {"window": 7, "channels": 32, **plan._asdict()}
    signature = {name: types.get(name, "constexpr") for name in names}
    constants = {name: values.get(name) for name in names if signature[name] == "constexpr"}
    pointers = [(index,) for index, name in enumerate(names) if signature[name].startswith("*")]
    return ASTSource(kernel, signature, constants, dict.fromkeys(pointers, ALIGNED))


for kernel in (kernels.forward_kernel, kernels.backward_kernel, kernels.bias_kernel):
    for dtype, rotates in (("fp32", True), ("bf16", True), ("bf16", False)):
        plan = kernels.plan_windows(7, 32, 4 if dtype == "fp32" else 2, few=kernel is kernels.bias_kernel)
        made = source(kernel, dtype, plan, rotates)
        report(made, plan.num_warps, 1, kernel=kernel.__name__, dtype=dtype, rotates=rotates)
