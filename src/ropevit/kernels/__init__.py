"""The rotation as fused kernels: `rotate_qkv` turns a packed projection in place, by C on a CPU and Triton on a GPU."""

from ropevit.kernels.rotation import BACKENDS, rotate_qkv, set_backend

__all__ = ["BACKENDS", "rotate_qkv", "set_backend"]
