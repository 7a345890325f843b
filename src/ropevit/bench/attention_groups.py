"""Groups of benchmark candidates of the levels op, layer and attention: all implementations at a shape."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from ropevit.bench.attention import attention_candidate, make_data
from ropevit.bench.candidate import Candidate, Group, PlannedCandidate
from ropevit.bench.check import compare
from ropevit.bench.peers import Implementation, implementations, make_layer
from ropevit.bench.projections import make_projections, projected_candidate
from ropevit.bench.shapes import Shape

COPY, NONE = "copy of q and k", "no embedding"


def attention_group(
    level: str, shape: Shape, device: torch.device, dtype: torch.dtype, rows: int, choose: Callable[[str], list[bool]]
) -> Group:
    """Return the group of candidates that are compared for a shape.

    Args:
        level: op, layer or attention.
        shape: Dimensions of the layer.
        device: Device of the computation.
        dtype: Dtype of tokens, weights and projection.
        rows: Batch size, B.
        choose: Returns, for a library, whether to time it eagerly (False), compiled (True), both or not at all.
    """
    data = functools.cache(lambda: make_data(shape, device, dtype, rows))
    projections = functools.cache(lambda: make_projections(shape, device, dtype, rows))

    def entry(impl: Implementation, compiled: bool) -> PlannedCandidate:
        def make() -> Candidate:
            layer = make_layer(shape, impl.embedding, device)
            if level == "attention":
                return projected_candidate(impl, layer, projections(), compiled)
            return attention_candidate(level, impl, layer, data(), compiled)

        label = f"{impl.label}{', compiled' if compiled else ''}"
        return PlannedCandidate(
            label=label, library=impl.library, embedding=impl.embedding, compiled=compiled, make=make
        )

    def make_copy() -> Candidate:
        return _copy_candidate(shape, device, dtype, rows)

    copy = PlannedCandidate(label=COPY, library="none", embedding="none", compiled=False, make=make_copy)
    suited = [impl for impl in implementations(device.type) if impl.suits(level, shape)]
    entries = [entry(impl, compiled) for impl in suited for compiled in choose(impl.library)]
    about = (
        f"{rows} x {shape.tokens} tokens ({shape.h} x {shape.w} patches, {shape.prefix} prefix), "
        f"{shape.heads} heads of {shape.channels} channels"
    )
    if level == "op":
        return Group(level=level, shape=shape.name, about=about, base=COPY, entries=[copy, *entries])
    return Group(level=level, shape=shape.name, about=about, base=NONE, entries=entries)


def _copy_candidate(shape: Shape, device: torch.device, dtype: torch.dtype, rows: int) -> Candidate:
    """Return a copy of q and k into allocated memory: the lower bound on the time of a rotation."""
    source = torch.randn(2, shape.elements(rows), device=device).to(dtype)
    target, moved = torch.randn_like(source), 4 * shape.elements(rows) * dtype.itemsize

    def copy() -> Tensor:
        return target.copy_(source)

    def check() -> float:
        return compare({"copy": copy()}, {"copy": source.double()}, dtype)

    return Candidate(forward=copy, both=copy, tracked=copy, check=check, min_bytes=(moved, moved))
