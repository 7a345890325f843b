import pytest
import torch

from ropevit.bench import timing
from ropevit.bench.attention import attention_candidate, make_data
from ropevit.bench.peers import implementations, make_layer
from ropevit.bench.shapes import SHAPES, Shape
from ropevit.bench.timing import saved_bytes, time_rounds, timing_stats

CPU = torch.device("cpu")


def test_candidates_alternate_and_each_round_starts_with_another(monkeypatch):
    monkeypatch.setattr(timing, "ROUND_SECONDS", 0.0)
    order, rounds = [], []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    times = time_rounds(calls, 4, CPU, lambda: rounds.append(len(order)))
    assert "".join(order) == "aabbcc" + "abc" + "bca" + "cab" + "abc"
    assert rounds == [9, 12, 15, 18]
    assert {name: len(values) for name, values in times.items()} == {"a": 4, "b": 4, "c": 4}


def test_short_calls_are_repeated_within_a_round():
    count = []
    time_rounds({"short": lambda: count.append(1)}, 2, CPU)
    assert len(count) == 2 + 2 * timing.MAX_CALLS


def test_timing_stats_are_median_and_quartiles():
    assert timing_stats([5.0, 1.0, 2.0, 3.0, 4.0]) == (3.0, 2.0, 4.0)
    assert timing_stats([7.0]) == (7.0, 7.0, 7.0)
    with pytest.raises(ValueError, match="no measurements"):
        timing_stats([])


def test_saved_tensors_are_counted_once():
    x, y = torch.randn(10, 10, requires_grad=True), torch.randn(10, 10)
    assert saved_bytes(lambda: x * y) == 400  # y alone: x is not needed for a gradient that nothing asks for
    assert saved_bytes(lambda: (x * y) * y.t()) == 400


def test_in_place_rotation_saves_no_additional_tensors():
    shape = Shape(name="tiny", h=4, w=8, heads=2, channels=16)
    kept = {}
    for impl in implementations("cpu"):
        layer = make_layer(shape, impl.embedding, CPU)
        candidate = attention_candidate("layer", impl, layer, make_data(shape, CPU, torch.float32, 8), compiled=False)
        kept[impl.label] = saved_bytes(candidate.tracked) / (4 * shape.elements(8))
    assert kept["ours (cpu), mixed"] < kept["no embedding"] + 0.1
    assert kept["ours (cpu), mixed"] < kept["complex numbers, mixed"] - 1


def test_shapes_match_known_models():
    assert {name: shape.tokens for name, shape in SHAPES.items()} == {
        "vit224": 197, "vit512": 1025, "vit1024": 4097, "vits224": 197, "reg4": 261,
        "swin1": 49, "swin2": 49, "swin3": 49, "swin4": 49, "hd128": 197,
    }  # fmt: skip
    assert SHAPES["swin1"].rows("cuda") == 256 * 64
    assert SHAPES["swin1"].rows("cpu") == 512
    assert SHAPES["swin3"].rows("cpu", images=2) == 8
    assert {SHAPES[f"swin{stage}"].heads * 32 for stage in (1, 2, 3, 4)} == {128, 256, 512, 1024}
