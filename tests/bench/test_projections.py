"""The level attention: attention between its two linear layers."""

from dataclasses import replace

import pytest
import torch

from ropevit.bench.attention_groups import attention_group
from ropevit.bench.check import TOLERANCES, WrongResultError
from ropevit.bench.peers import implementations, make_layer, split
from ropevit.bench.projections import make_projections, projected_candidate
from ropevit.bench.shapes import Shape
from ropevit.kernels import native
from ropevit.rope import rotate

CPU = torch.device("cpu")
REGISTERS = Shape(name="registers", h=3, w=5, heads=2, channels=16, prefix=3)
WINDOW = Shape(name="window", h=3, w=3, heads=3, channels=8, prefix=0)
IMPLEMENTATIONS = implementations("cpu")


def candidate(impl, shape, dtype=torch.float32):
    layer = make_layer(shape, impl.embedding, CPU)
    return projected_candidate(impl, layer, make_projections(shape, CPU, dtype, 3), compiled=False)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("shape", [REGISTERS, WINDOW], ids=lambda shape: shape.name)
@pytest.mark.parametrize("impl", IMPLEMENTATIONS, ids=lambda impl: impl.label)
def test_every_implementation_agrees_with_float64(impl, shape, dtype):
    made = candidate(impl, shape, dtype)
    assert made.check() <= TOLERANCES[dtype]
    assert made.forward().shape == (3, shape.tokens, shape.heads * shape.channels)
    assert len(made.both()) == 5 + (impl.embedding == "mixed")


def wrong(sign, detach):
    """Make a rotation by `sign` times the angles, whose keys may lack their gradient."""

    def make(layer):
        def rotated(qkv, frequencies):
            q, k, v = split(qkv)
            q, k = rotate(q, k, layer.positions, sign * frequencies, layer.shape.prefix)
            return q, k.detach() if detach else k, v

        return rotated

    return make


@pytest.mark.parametrize("embedding", ["axial", "mixed"])
def test_wrong_outputs_and_gradients_are_detected(embedding):
    (impl,) = [impl for impl in IMPLEMENTATIONS if impl.label == f"ours (reference), {embedding}"]
    with pytest.raises(WrongResultError, match=r"^attention has a relative error of"):
        candidate(replace(impl, make=wrong(-1, detach=False)), REGISTERS).check()
    with pytest.raises(WrongResultError, match=r"^gradient of the tokens has a relative error of"):
        candidate(replace(impl, make=wrong(1, detach=True)), REGISTERS).check()


def test_the_projection_is_rotated_in_place_and_windows_in_one_kernel(monkeypatch):
    calls, call = [], native.call
    monkeypatch.setattr(native, "call", lambda name, *given: calls.append(name) or call(name, *given))
    (impl,) = [impl for impl in IMPLEMENTATIONS if impl.label == "ours (cpu), mixed"]
    candidate(impl, REGISTERS).both()
    candidate(impl, WINDOW).both()
    assert calls == ["forward", "backward", "window_forward", "window_backward"]


def test_a_group_compares_with_the_layer_without_embedding():
    group = attention_group("attention", REGISTERS, CPU, torch.float32, 2, lambda _: [False])
    assert (group.level, group.base) == ("attention", "no embedding")
    assert [entry.label for entry in group.entries] == [impl.label for impl in IMPLEMENTATIONS]
