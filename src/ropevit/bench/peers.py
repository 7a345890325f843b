"""Implementations of the rotation of q and k to benchmark: ours, those of other libraries, and textbook versions.

An implementation is built for a layer (tables that layers share are built then and not timed) and called with a packed
projection (B, N, 3, A, D) and the layer's frequencies, which are learned where the embedding is mixed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ropevit.bench.shapes import Shape
from ropevit.extras import require
from ropevit.kernels import BACKENDS, rotate_qkv, window_attention
from ropevit.rope import axial_frequencies, grid_positions, mixed_frequencies, rotary_cos_sin
from ropevit.rope.rotation import rotation_angles

Parts = tuple[Tensor, Tensor, Tensor]
Rotate = Callable[[Tensor, Tensor], Parts]
Embedding = Literal["none", "axial", "mixed"]

#: Origins of the code; "plain" are textbook versions, written here.
GROUPS = ("none", "ours", "timm", "transformers", "plain")

#: Device type of the backends that support only one.
BACKEND_DEVICE = {"cpu": "cpu", "triton": "cuda"}


@dataclass(frozen=True)
class BenchLayer:
    """Inputs that all implementations of one layer share."""

    shape: Shape
    embedding: Embedding
    positions: Tensor
    frequencies: Tensor


def make_layer(shape: Shape, embedding: Embedding, device: torch.device) -> BenchLayer:
    """Return the positions of a grid's tokens and the paper's frequencies, in float32."""
    if embedding == "mixed":
        frequencies = mixed_frequencies(shape.channels, shape.heads).to(device).requires_grad_()
    else:
        frequencies = axial_frequencies(shape.channels, device=device)
    return BenchLayer(shape, embedding, grid_positions(shape.h, shape.w, device=device), frequencies)


@dataclass(frozen=True)
class Implementation:
    """One implementation of the rotation."""

    name: str
    library: str
    embedding: Embedding
    make: Callable[[BenchLayer], Rotate]
    halves: bool = False
    """Pair p of a head is channels (p, p + D/2) instead of (2p, 2p + 1)."""
    attend: Callable[[BenchLayer], Callable[[Tensor, Tensor], Tensor]] | None = None
    """Fused rotation and attention for layers of windows, in place of `make` and attention; None if not fused."""
    windows_only: bool = False
    """Whether layers of windows are all that it is for."""

    @property
    def label(self) -> str:
        """Label in tables and figures."""
        return self.name if self.embedding == "none" else f"{self.name}, {self.embedding}"

    def fuses(self, level: str, shape: Shape) -> bool:
        """Return whether rotation and attention are one at this level and shape, which has to be a layer of windows."""
        return self.attend is not None and level in ("layer", "attention") and shape.prefix == 0 and shape.h == shape.w

    def suits(self, level: str, shape: Shape) -> bool:
        """Return whether the implementation supports a level and shape."""
        return not self.windows_only or self.fuses(level, shape)


def implementations(device: str) -> list[Implementation]:
    """Return all implementations for a device type (cpu, cuda), whether or not their packages are installed."""
    backends = [name for name in BACKENDS if BACKEND_DEVICE.get(name, device) == device]
    rotations = [
        *((f"ours ({name})", "ours", ours(name), False) for name in backends),
        ("timm", "timm", timm, False),
        ("transformers DINOv3", "transformers", dinov3, True),
        ("complex numbers", "plain", _complex_numbers, False),
        ("half-split", "plain", _half_split, True),
    ]
    listed = [
        Implementation("no embedding", "none", "none", lambda _: lambda qkv, _: split(qkv)),
        Implementation("no embedding, timm's split", "none", "none", lambda _: lambda qkv, _: _split_as_timm(qkv)),
    ]
    for embedding in ("axial", "mixed"):
        listed += [
            Implementation(name, library, embedding, make, halves, _attend("cpu") if name == "ours (cpu)" else None)
            for name, library, make, halves in rotations
        ]
        if device == "cuda":
            listed.append(fused(embedding))
    return [
        impl for impl in listed if (impl.library, impl.embedding) != ("transformers", "mixed")
    ]  # its angles are fixed


def split(qkv: Tensor) -> Parts:
    """Split a projection; the backward pass stacks the three gradients once, in the layout of the projection."""
    q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
    return q, k, v


def _split_as_timm(qkv: Tensor) -> Parts:
    """Split a projection as timm does; the backward pass stacks the gradients in another layout and copies."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


def ours(backend: str) -> Callable[[BenchLayer], Rotate]:
    """Rotate in place with a backend of `rotate_qkv`."""

    def make(layer: BenchLayer) -> Rotate:
        def rotate(qkv: Tensor, frequencies: Tensor) -> Parts:
            prefix = layer.shape.prefix
            return rotate_qkv(qkv, layer.positions, frequencies, prefix, inplace=True, backend=backend)

        return rotate

    return make


def fused(embedding: Embedding) -> Implementation:
    """Rotate and attend with one Triton kernel."""
    return Implementation(
        "ours (fused)", "ours", embedding, ours("triton"), attend=_attend("triton"), windows_only=True
    )


def _attend(backend: str) -> Callable[[BenchLayer], Callable[[Tensor, Tensor], Tensor]]:
    """Rotate and attend with one kernel, as a Swin does; each window is passed as a map of its own."""

    def attend(layer: BenchLayer) -> Callable[[Tensor, Tensor], Tensor]:
        h, w = layer.shape.h, layer.shape.w

        def run(qkv: Tensor, frequencies: Tensor) -> Tensor:
            maps = qkv.unflatten(1, (h, w))
            return window_attention(maps, h, frequencies=frequencies, backend=backend).flatten(3).flatten(1, 2)

        return run

    return attend


def timm(layer: BenchLayer) -> Rotate:
    """Rotate with timm's functions, called as in its RoPE ViTs; angles are timm's, in float32."""
    module = require("timm.layers.pos_embed_sincos", "train")
    shape, prefix, device = layer.shape, layer.shape.prefix, layer.positions.device
    grid = [shape.h, shape.w]
    settings = {"feat_shape": grid, "in_pixels": False, "temperature": 100.0, "grid_indexing": "xy"}
    shared = module.RotaryEmbeddingCat(shape.channels, **settings).to(device).get_embed()
    x, y = module.get_mixed_grid(grid, grid_indexing="xy", device=device)

    def rotate_part(part: Tensor, table: Tensor) -> Tensor:
        rotated = module.apply_rot_embed_cat(part[:, :, prefix:], table)
        return torch.cat((part[:, :, :prefix], rotated), dim=2).type_as(part)

    def rotate(qkv: Tensor, frequencies: Tensor) -> Parts:
        table = module.get_mixed_freqs(frequencies, x, y) if layer.embedding == "mixed" else shared
        q, k, v = _split_as_timm(qkv)
        return rotate_part(q, table), rotate_part(k, table), v

    return rotate


def dinov3(layer: BenchLayer) -> Rotate:
    """Rotate with the function of transformers' DINOv3, with the same angles as the others and tables in q's dtype."""
    module = require("transformers.models.dinov3_vit.modeling_dinov3_vit", "dense")
    angle = rotation_angles(layer.positions, layer.frequencies)[0].tile(2)
    tables = {dtype: (angle.cos().to(dtype), angle.sin().to(dtype)) for dtype in (torch.float32, torch.bfloat16)}

    def rotate(qkv: Tensor, _: Tensor) -> Parts:
        q, k, v = split(qkv)
        return *module.apply_rotary_pos_emb(q, k, *tables[qkv.dtype]), v

    return rotate


def _complex_numbers(layer: BenchLayer) -> Rotate:
    """Rotate by multiplying pairs, as float32 complex numbers, with a table of unit complex numbers.

    Prefix tokens are split off before and concatenated after.

    Source: Heo et al. 2024 (arXiv:2403.13298), RoPE-Mixed, written as complex numbers.
    """
    prefix = layer.shape.prefix

    def table(frequencies: Tensor) -> Tensor:
        angle = rotation_angles(layer.positions, frequencies)
        return torch.polar(torch.ones_like(angle), angle)

    shared = table(layer.frequencies.detach())

    def rotate_part(part: Tensor, numbers: Tensor) -> Tensor:
        pairs = torch.view_as_complex(part[:, :, prefix:].float().unflatten(-1, (-1, 2)))
        rotated = torch.view_as_real(pairs * numbers).flatten(-2).to(part.dtype)
        return torch.cat((part[:, :, :prefix], rotated), dim=2) if prefix else rotated

    def rotate(qkv: Tensor, frequencies: Tensor) -> Parts:
        numbers = table(frequencies) if layer.embedding == "mixed" else shared
        q, k, v = split(qkv)
        return rotate_part(q, numbers), rotate_part(k, numbers), v

    return rotate


def _half_split(layer: BenchLayer) -> Rotate:
    """Rotate the first half of the channels against the second, in real numbers; the table has rows for the prefix.

    Source: Su et al. 2021 (arXiv:2104.09864), Eq. 34, with the pairs of a head laid out as two halves.
    """

    def table(frequencies: Tensor) -> tuple[Tensor, Tensor]:
        return rotary_cos_sin(layer.positions, frequencies, layer.shape.prefix)

    shared = table(layer.frequencies.detach())

    def rotate_part(part: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        first, second = part.chunk(2, dim=-1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(part.dtype)

    def rotate(qkv: Tensor, frequencies: Tensor) -> Parts:
        cos, sin = table(frequencies) if layer.embedding == "mixed" else shared
        q, k, v = split(qkv)
        return rotate_part(q, cos, sin), rotate_part(k, cos, sin), v

    return rotate
