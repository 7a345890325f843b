from dataclasses import replace

import pytest
import torch
from torch._dynamo.backends.debugging import aot_eager

from marks import by_default
from ropevit.bench.attention import attention_candidate, expected, make_data
from ropevit.bench.check import TOLERANCES, WrongResultError, rotate_exact
from ropevit.bench.peers import fused, implementations, make_layer, split
from ropevit.bench.shapes import SHAPES as NAMED
from ropevit.bench.shapes import Shape
from ropevit.kernels import native
from ropevit.kernels.rotation import interpreted, triton_available
from ropevit.rope import rotate

CPU = torch.device("cpu")
SHAPES = [
    Shape(name="registers", h=3, w=5, heads=2, channels=16, prefix=3),
    Shape(name="window", h=2, w=7, heads=3, channels=8, prefix=0),
]
IMPLEMENTATIONS = implementations("cpu")


def candidate(impl, shape, dtype=torch.float32, level="op", compiled=False):
    layer = make_layer(shape, impl.embedding, CPU)
    return attention_candidate(level, impl, layer, make_data(shape, CPU, dtype, 3), compiled)


@pytest.mark.parametrize(
    ("level", "dtype"), [("op", torch.float32), ("layer", torch.float32), ("op", torch.bfloat16)], ids=str
)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
@pytest.mark.parametrize("impl", IMPLEMENTATIONS, ids=lambda impl: impl.label)
def test_every_implementation_agrees_with_float64(impl, shape, level, dtype):
    assert candidate(impl, shape, dtype, level).check() <= TOLERANCES[dtype]


@pytest.mark.parametrize(
    "impl", [impl for impl in IMPLEMENTATIONS if impl.library != "none"], ids=lambda impl: impl.label
)
def test_repeated_calls_give_the_same_result(impl):
    made = candidate(impl, SHAPES[0])
    first = made.check()
    for _ in range(2):
        made.forward()
        made.both()
    assert made.check() == first


def test_all_backends_of_the_device_are_benchmarked():
    found = {impl.name for impl in implementations("cuda") if impl.library == "ours"}
    assert found == {"ours (reference)", "ours (triton)", "ours (fused)"}
    assert {impl.name for impl in IMPLEMENTATIONS if impl.library == "ours"} == {"ours (reference)", "ours (cpu)"}


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("embedding", ["axial", "mixed"])
def test_a_layer_of_windows_is_one_kernel_on_a_cpu_as_in_a_swin(embedding, dtype, monkeypatch):
    window = Shape(name="square", h=3, w=3, heads=2, channels=16, prefix=0)
    (impl,) = [impl for impl in IMPLEMENTATIONS if impl.label == f"ours (cpu), {embedding}"]
    assert candidate(impl, window, dtype, level="layer").check() <= TOLERANCES[dtype]
    calls, call = [], native.call
    monkeypatch.setattr(native, "call", lambda name, *given: calls.append(name) or call(name, *given))
    candidate(impl, window, dtype, level="layer").both()
    assert calls == ["window_forward", "window_backward"]
    calls.clear()
    candidate(impl, window, dtype).forward()
    candidate(impl, SHAPES[0], dtype, level="layer").forward()
    assert calls == ["forward", "forward"]


@pytest.mark.skipif(not triton_available() or not interpreted(), reason="no Triton's interpreter here")
@pytest.mark.parametrize("embedding", by_default(["mixed"], ["axial", "mixed"]))
def test_the_fused_implementation_agrees_with_float64(embedding):
    window = Shape(name="square", h=3, w=3, heads=2, channels=16, prefix=0)
    impl = fused(embedding)
    assert candidate(impl, window, level="layer").check() <= TOLERANCES[torch.float32]
    assert [name for name, shape in NAMED.items() if impl.suits("layer", shape)] == ["swin1", "swin2", "swin3", "swin4"]
    assert not impl.suits("op", NAMED["swin1"])


def wrong(change):
    """An implementation that equals the reference but for one mistake."""

    def make(layer):
        def rotated(qkv, frequencies):
            q, k, v = split(qkv)
            positions, changed, prefix = change(layer.positions, frequencies, layer.shape.prefix)
            return *rotate(q, k, positions, changed, prefix), v

        return rotated

    return make


MISTAKES = {
    "the other way round": lambda places, f, prefix: (places, -f, prefix),
    "rows for columns": lambda places, f, prefix: (places.flip(-1), f, prefix),
    "first token off": lambda places, f, prefix: (places + torch.tensor([1.0, 0.0]), f, prefix),
    "prefix rotated": lambda places, f, prefix: (torch.cat((places[:prefix], places)), f, 0),
    "no gradient": lambda places, f, prefix: (places, f + 0 * f.detach() - f.detach() / 2, prefix),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("embedding", ["axial", "mixed"])
def test_a_wrong_implementation_is_detected(embedding, mistake):
    impl = replace(IMPLEMENTATIONS[0], name="wrong", embedding=embedding, make=wrong(MISTAKES[mistake]))
    with pytest.raises(WrongResultError, match="has a relative error of"):
        candidate(impl, SHAPES[0]).check()


def test_a_wrong_gradient_is_detected():
    def make(layer):
        def rotated(qkv, frequencies):
            q, k, v = split(qkv)
            return *rotate(q, k, layer.positions, frequencies.detach() + 0 * frequencies, layer.shape.prefix), v

        return rotated

    impl = replace(IMPLEMENTATIONS[0], name="wrong", embedding="mixed", make=make)
    with pytest.raises(WrongResultError, match="gradient of the frequencies has a relative error of"):
        candidate(impl, SHAPES[0]).check()


def test_a_wrong_pair_layout_is_detected():
    (impl,) = [impl for impl in IMPLEMENTATIONS if impl.label == "half-split, axial"]
    with pytest.raises(WrongResultError, match="q has a relative error of"):
        candidate(replace(impl, halves=False), SHAPES[0]).check()


def test_half_split_rotation_matches_hand_computed_values():
    impl = next(impl for impl in IMPLEMENTATIONS if impl.halves)
    layer = make_layer(Shape(name="two", h=1, w=2, heads=1, channels=4, prefix=0), "axial", CPU)
    qkv = torch.tensor([[1.0, 2.0, 3.0, 4.0]] * 2, dtype=torch.float64)[None, :, None, None].expand(-1, -1, 3, -1, -1)
    q, _, v = rotate_exact(impl, layer, qkv, layer.frequencies.double())
    cos, sin = torch.tensor([1.0], dtype=torch.float64).cos().item(), torch.tensor([1.0]).double().sin().item()
    second = [cos - 3 * sin, 2.0, 3 * cos + sin, 4.0]  # channels 0 and 2 are rotated by x; 1 and 3 by y, which is 0
    torch.testing.assert_close(q[0, 0], torch.tensor([[1.0, 2.0, 3.0, 4.0], second], dtype=torch.float64))
    assert torch.equal(v, split(qkv)[2])


def test_expected_results_are_computed_in_float64():
    impl, shape = IMPLEMENTATIONS[2], SHAPES[0]
    layer, source = make_layer(shape, impl.embedding, CPU), torch.randn(2, shape.tokens, 3, shape.heads, shape.channels)
    found = expected("op", impl, layer, source, list(split(torch.randn_like(source))))
    assert {value.dtype for value in found.values()} == {torch.float64}


@pytest.mark.full
@pytest.mark.usefixtures("unchecked")
def test_compiled_candidates_are_checked(monkeypatch):
    graphs, compiler = [], torch.compile

    def backend(graph, inputs):
        graphs.append(graph)
        return aot_eager(graph, inputs)  # Inductor takes its time

    monkeypatch.setattr(torch, "compile", lambda body: compiler(body, backend=backend, fullgraph=True))
    (impl,) = [impl for impl in IMPLEMENTATIONS if impl.label == "ours (cpu), mixed"]
    assert candidate(impl, SHAPES[0], level="layer", compiled=True).check() <= TOLERANCES[torch.float32]
    assert len(graphs) == 1
