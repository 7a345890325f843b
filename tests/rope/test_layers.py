"""The gated layer, and what all layers share; the rest is covered beside the rotation that they call."""

import pytest
import torch
from torch.testing import assert_close

from ropevit.rope import AxialRope, FixedRope, GatedAxialRope, MixedRope, PolarRope, grid_positions


def test_a_gate_of_zero_rotates_nothing_and_has_a_gradient():
    rope = GatedAxialRope(8, heads=3)
    q, k, positions = torch.randn(2, 3, 12, 8), torch.randn(2, 3, 12, 8), grid_positions(3, 4)
    a, b = rope(q, k, positions)
    assert torch.equal(a, q)
    assert torch.equal(b, k)
    (a @ b.mT).softmax(-1).square().sum().backward()
    assert (rope.gate.grad != 0).all()


def test_an_open_gate_is_rope_axial_and_a_half_open_one_half_the_angle():
    rope, axial = GatedAxialRope(8, heads=2, theta=30.0), AxialRope(8, theta=30.0)
    q, k, positions = torch.randn(2, 2, 2 + 12, 8), torch.randn(2, 2, 2 + 12, 8), grid_positions(3, 4)
    with torch.no_grad():
        rope.gate.copy_(torch.tensor([20.0, 0.5]).atanh().nan_to_num(20.0))  # tanh(20) is 1 in float32
    whole, half = axial(q, k, positions, num_prefix_tokens=2), axial(q, k, positions * 0.5, num_prefix_tokens=2)
    for rotated, all_of_it, half_of_it in zip(rope(q, k, positions, num_prefix_tokens=2), whole, half, strict=True):
        assert_close(rotated[:, 0], all_of_it[:, 0])
        assert_close(rotated[:, 1], half_of_it[:, 1])
    assert_close(rope.cos_sin(positions).cos[1], axial.cos_sin(positions * 0.5).cos[0])


def test_a_gated_layer_keeps_float32_and_says_what_it_is():
    rope = GatedAxialRope(8, heads=2).bfloat16()
    assert {name: value.dtype for name, value in rope.state_dict().items()} == dict.fromkeys(
        ("gate", "freqs"), torch.float32
    )
    assert rope.double().gate.dtype == torch.float64
    assert "channels=8, heads=2, ndim=2" in repr(rope)


ALL = [
    AxialRope(16),
    FixedRope("golden", 16, heads=3),
    MixedRope(16, heads=3),
    PolarRope(16, heads=3),
    GatedAxialRope(16, heads=3),
]


@pytest.mark.parametrize("rope", ALL, ids=lambda rope: type(rope).__name__)
def test_a_layer_called_without_queries_gives_a_copy_of_its_frequencies(rope):
    frequencies = rope(positions=grid_positions(2, 3))
    assert torch.equal(frequencies, rope.frequencies())
    assert all(frequencies.data_ptr() != own.data_ptr() for own in [*rope.parameters(), *rope.buffers()])
    assert frequencies.requires_grad == any(True for _ in rope.parameters())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("rope", ALL, ids=lambda rope: type(rope).__name__)
def test_wrong_calls_are_told_the_right_order(rope):
    q = torch.randn(2, 49, 3, 16)  # (B, tokens, heads, channels)
    order = r"the order is \(B, heads, tokens, channels\), and \(2, 49, 3, 16\) seems to need transpose\(-3, -2\)"
    with pytest.raises(ValueError, match=order):
        rope(q, q, grid_positions(7, 7))
    with pytest.raises(
        ValueError, match=r"got \(7, 7\) for positions; expected a tensor .*rope.grid_positions\(7, 7\)"
    ):
        rope(q, q, (7, 7))
    with pytest.raises(ValueError, match=r"got queries, keys or positions alone; expected rope\(q, k, positions\)"):
        rope(q, positions=grid_positions(7, 7))
    with pytest.raises(ValueError, match="got None for positions"):
        rope(q, q)
