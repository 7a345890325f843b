"""Benchmark candidates of the levels op (split and rotate) and layer (split, rotate, attend)."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ropevit.bench.candidate import Candidate
from ropevit.bench.check import compare, rotate_exact
from ropevit.bench.peers import BenchLayer, Implementation, Parts, Rotate, split
from ropevit.bench.shapes import Shape

#: Maps a projection (B, N, 3, A, D) and frequencies to rotated q, k and v, or to the attention output (B, N, C).
Body = Callable[[Tensor, Tensor], tuple[Tensor, ...]]


class FreshProjection(torch.autograd.Function):
    """Stands in for the linear layer that computes the projection: nothing else uses it, so it may be overwritten."""

    @staticmethod
    def forward(ctx: Any, leaf: Tensor) -> Tensor:
        """Return the input."""
        del ctx
        return leaf.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the gradient contiguous, as the linear layer needs it: other layouts pay for the copy."""
        del ctx
        return gradient.contiguous()


@dataclass(frozen=True)
class GroupData:
    """Random inputs that the implementations of a group share; rotation in place leaves them random."""

    source: Tensor
    """Packed projection (B, N, 3, A, D), copied into `leaf` before each check."""
    leaf: Tensor
    arriving: Tensor
    """Gradients of q, k and v, in the layout that attention returns."""


def make_data(shape: Shape, device: torch.device, dtype: torch.dtype, rows: int) -> GroupData:
    """Draw the random inputs of a group."""
    sizes = rows, shape.tokens, 3, shape.heads, shape.channels
    source, arriving = (torch.randn(sizes, device=device, dtype=dtype) for _ in range(2))
    return GroupData(source, source.clone().requires_grad_(), arriving)


def _min_traffic(shape: Shape, impl: Implementation, rows: int, itemsize: int) -> tuple[int, int]:
    """Return the least bytes read and written by the forward pass, and by forward and backward together.

    Forward reads and writes q and k. Backward reads the gradients of q, k and v and writes that of the projection;
    learned frequencies also need the rotated q and k.
    """
    forward = 0 if impl.embedding == "none" else 4
    backward = 8 if impl.embedding == "mixed" else 6
    unit = shape.elements(rows) * itemsize
    return forward * unit, (forward + backward) * unit


def candidate_body(level: str, impl: Implementation, layer: BenchLayer) -> Body:
    """Return the function to time of an implementation, which may be fused."""
    if impl.attend is None or not impl.fuses(level, layer.shape):
        return make_body(level, impl.make(layer))
    attend = impl.attend(layer)
    return lambda qkv, frequencies: (attend(qkv, frequencies),)


def make_body(level: str, rotate: Rotate) -> Body:
    """Return the function from the projection to rotated q, k and v (op) or to the attention output (others)."""
    if level == "op":
        return rotate

    def attend(qkv: Tensor, frequencies: Tensor) -> tuple[Tensor]:
        return (merge(rotate(qkv, frequencies)),)

    return attend


def merge(parts: Parts) -> Tensor:
    """Compute attention and concatenate the heads: (B, N, C)."""
    return F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)


def attention_candidate(
    level: str, impl: Implementation, layer: BenchLayer, data: GroupData, compiled: bool
) -> Candidate:
    """Return the candidate of an implementation: its calls on the group's data."""
    shape, leaf, source = layer.shape, data.leaf, data.source
    gradients = split(data.arriving) if level == "op" else (data.arriving[:, :, 0].flatten(2).contiguous(),)
    inputs = [leaf, layer.frequencies] if layer.frequencies.requires_grad else [leaf]
    body = candidate_body(level, impl, layer)
    run: Body = torch.compile(body) if compiled else body

    @torch.no_grad()
    def forward() -> object:
        return run(leaf.detach(), layer.frequencies)

    def tracked() -> tuple[Tensor, ...]:
        return run(FreshProjection.apply(leaf), layer.frequencies)  # pyright: ignore[reportArgumentType]

    def both() -> object:
        return torch.autograd.grad(tracked(), inputs, gradients)

    def check() -> float:
        leaf.detach().copy_(source)
        first = 1 if shape.tokens > 1024 else 2
        masked = [gradient.clone() for gradient in gradients]
        for gradient in masked:
            gradient[first:] = 0
        with warnings.catch_warnings():  # the compiler reads .grad of a non-leaf tensor
            warnings.filterwarnings("ignore", message="The .grad attribute", category=UserWarning)
            outputs = tracked()
        got = dict(zip(names(level), (output[:first].detach().clone() for output in outputs), strict=True))
        given = torch.autograd.grad(outputs, inputs, masked)
        got |= {"gradient of the projection": given[0][:first], "gradient of the frequencies": given[-1]}
        kept = [gradient[:first] for gradient in gradients]
        return compare(got, expected(level, impl, layer, source[:first], kept), source.dtype)

    min_bytes = _min_traffic(shape, impl, len(source), source.itemsize) if level == "op" else None
    return Candidate(forward=forward, both=both, tracked=tracked, check=check, min_bytes=min_bytes)


def names(level: str) -> tuple[str, ...]:
    """Return the names of a level's outputs."""
    return ("q", "k", "v") if level == "op" else ("attention",)


def expected(
    level: str, impl: Implementation, layer: BenchLayer, source: Tensor, gradients: list[Tensor]
) -> dict[str, Tensor]:
    """Compute outputs and gradients in float64."""
    qkv = source.double().requires_grad_()
    frequencies = layer.frequencies.detach().double().requires_grad_(layer.frequencies.requires_grad)
    outputs = make_body(level, lambda qkv, frequencies: rotate_exact(impl, layer, qkv, frequencies))(qkv, frequencies)
    inputs = [qkv, frequencies] if frequencies.requires_grad else [qkv]
    given = torch.autograd.grad(outputs, inputs, [gradient.double() for gradient in gradients])
    found = dict(zip(names(level), outputs, strict=True)) | {"gradient of the projection": given[0]}
    return found | {"gradient of the frequencies": given[1]} if len(given) > 1 else found
