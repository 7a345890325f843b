"""Fused kernels: `rotate_qkv` rotates a qkv projection in place, `window_attention` is attention inside windows."""

from ropevit.kernels.rotation import BACKENDS, register_backend, rotate_qkv, set_backend
from ropevit.kernels.window_attention import WINDOW_BACKENDS, window_attention

__all__ = ["BACKENDS", "WINDOW_BACKENDS", "register_backend", "rotate_qkv", "set_backend", "window_attention"]
