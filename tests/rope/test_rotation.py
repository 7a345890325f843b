import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from ropevit.rope import (
    AxialRope,
    MixedRope,
    apply_rotary,
    axial_frequencies,
    grid_positions,
    mixed_frequencies,
    rotary_cos_sin,
    rotate,
    rotation_angles,
)

GRIDS = [(4, 4), (3, 5), (1, 7), (6, 2)]


def frequencies(kind: str, channels: int = 16, heads: int = 3) -> torch.Tensor:
    return axial_frequencies(channels) if kind == "axial" else mixed_frequencies(channels, heads)


def queries_and_keys(n: int, heads: int = 3, channels: int = 16, dtype=torch.float64):
    return torch.randn(2, heads, n, channels, dtype=dtype), torch.randn(2, heads, n, channels, dtype=dtype)


def scores(q, k):
    return q @ k.transpose(-1, -2)


@pytest.mark.parametrize("kind", ["axial", "mixed"])
@pytest.mark.parametrize(("h", "w"), GRIDS)
def test_the_norm_of_every_pair_is_kept(kind, h, w):
    q, k = queries_and_keys(h * w)
    rotated, _ = rotate(q, k, grid_positions(h, w), frequencies(kind))
    assert_close(rotated.unflatten(-1, (-1, 2)).norm(dim=-1), q.unflatten(-1, (-1, 2)).norm(dim=-1))
    assert not torch.allclose(rotated, q)


@pytest.mark.parametrize("kind", ["axial", "mixed"])
@pytest.mark.parametrize(("h", "w"), GRIDS)
def test_scores_are_unchanged_by_a_common_shift(kind, h, w):
    q, k = queries_and_keys(h * w)
    positions, f = grid_positions(h, w).double(), frequencies(kind).double()
    here = scores(*rotate(q, k, positions, f))
    there = scores(*rotate(q, k, positions + torch.tensor([7.25, -3.5]), f))
    assert_close(here, there)
    assert not torch.allclose(here, scores(q, k))


@pytest.mark.parametrize("kind", ["axial", "mixed"])
@pytest.mark.parametrize(("h", "w"), GRIDS)
def test_permuting_tokens_with_their_positions_permutes_the_output(kind, h, w):
    q, k = queries_and_keys(h * w)
    positions, f, order = grid_positions(h, w), frequencies(kind), torch.randperm(h * w)
    rotated = rotate(q, k, positions, f)
    shuffled = rotate(q[:, :, order], k[:, :, order], positions[order], f)
    for whole, part in zip(rotated, shuffled, strict=True):
        assert torch.equal(whole[:, :, order], part)


@pytest.mark.parametrize("kind", ["axial", "mixed"])
@pytest.mark.parametrize(("h", "w"), [(3, 5), (1, 7), (6, 2)])
def test_transposing_the_image_equals_swapping_the_axes_of_the_frequencies(kind, h, w):
    q, k = queries_and_keys(h * w)
    f = frequencies(kind)

    def transpose(x):
        return x.unflatten(2, (h, w)).transpose(2, 3).flatten(2, 3)

    rotated, _ = rotate(q, k, grid_positions(h, w), f)
    swapped, _ = rotate(transpose(q), transpose(k), grid_positions(w, h), f.flip(0))
    assert torch.equal(transpose(rotated), swapped)


@pytest.mark.parametrize("kind", ["axial", "mixed"])
def test_the_inverse_undoes_the_rotation(kind):
    q, k = queries_and_keys(15)
    positions, f = grid_positions(3, 5), frequencies(kind)
    back = rotate(*rotate(q, k, positions, f), -positions, f)
    assert_close(back[0], q, rtol=0, atol=1e-6)
    assert_close(back[1], k, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_position_zero_is_the_identity_bit_for_bit(dtype):
    q, k = queries_and_keys(5, dtype=dtype)
    rotated = rotate(q, k, torch.zeros(5, 2), frequencies("mixed"))
    assert torch.equal(rotated[0], q)
    assert torch.equal(rotated[1], k)


@pytest.mark.parametrize("num_prefix_tokens", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_prefix_tokens_are_left_as_they_are_and_patches_do_not_notice_them(num_prefix_tokens, dtype):
    q, k = queries_and_keys(num_prefix_tokens + 15, dtype=dtype)
    positions, f = grid_positions(3, 5), frequencies("mixed")
    rotated, _ = rotate(q, k, positions, f, num_prefix_tokens)
    patches, _ = rotate(q[:, :, num_prefix_tokens:], k[:, :, num_prefix_tokens:], positions, f)
    assert torch.equal(rotated[:, :, :num_prefix_tokens], q[:, :, :num_prefix_tokens])
    assert torch.equal(rotated[:, :, num_prefix_tokens:], patches)


def test_each_image_may_have_its_own_positions():
    q, k = queries_and_keys(15)
    positions = torch.rand(2, 15, 2) * 9
    f = frequencies("mixed")
    together, _ = rotate(q, k, positions, f)
    for index in range(2):
        alone, _ = rotate(q[index], k[index], positions[index], f)
        assert torch.equal(together[index], alone)


def test_convention_of_axial_by_hand():
    # One head of 8 channels, theta 100: pairs are rotated by x, x / 10, y, y / 10; pair p is channels (2p, 2p+1).
    q = torch.tensor([1.0, 0.0] * 4).expand(1, 1, 1, 8)
    rotated, _ = rotate(q, q, torch.tensor([[2.0, 3.0]]), axial_frequencies(8, theta=100))
    expected = [f(a) for a in (2.0, 0.2, 3.0, 0.3) for f in (math.cos, math.sin)]
    assert_close(rotated.flatten(), torch.tensor(expected))


def test_convention_of_mixed_by_hand():
    f = torch.tensor([[[0.5, -1.0]], [[0.25, 2.0]]])  # f_x and f_y of the two pairs of one head
    q = torch.tensor([0.0, 1.0, 1.0, 0.0]).expand(1, 1, 1, 4)
    rotated, _ = rotate(q, q, torch.tensor([[2.0, 3.0]]), f)
    first, second = 0.5 * 2 + 0.25 * 3, -1.0 * 2 + 2.0 * 3
    expected = [-math.sin(first), math.cos(first), math.cos(second), math.sin(second)]
    assert_close(rotated.flatten(), torch.tensor(expected))


@given(st.floats(0.1, 1000), st.floats(-500, 500), st.floats(-500, 500))
@settings(max_examples=50, deadline=None)
def test_angles_equal_float64_arithmetic(theta, x, y):
    f = axial_frequencies(16, theta)
    angle = rotation_angles(torch.tensor([[x, y]], dtype=torch.float32), f)
    exact = torch.cat((torch.tensor(x).double() * f[0].double(), torch.tensor(y).double() * f[1].double()))
    assert_close(angle.flatten().double(), exact.unflatten(0, (2, -1)).sum(0), rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_angles_are_exact_under_autocast(dtype):
    positions, f = grid_positions(64, 48), frequencies("mixed")
    with torch.autocast("cpu", dtype=dtype):
        inside = rotary_cos_sin(positions, f)
    outside = rotary_cos_sin(positions, f)
    assert inside.cos.dtype == torch.float32
    assert torch.equal(inside.cos, outside.cos)
    assert torch.equal(inside.sin, outside.sin)


@pytest.mark.parametrize("cast", ["half", "bfloat16"])
def test_learned_frequencies_stay_float32_when_the_module_is_cast(cast):
    rope = MixedRope(16, 3)
    before = rope.freqs.detach().clone()
    getattr(rope, cast)()
    assert rope.freqs.dtype == torch.float32
    assert torch.equal(rope.freqs, before)
    assert rope.double().freqs.dtype == torch.float64
    assert MixedRope(16, 3).to("meta", torch.bfloat16).freqs.device.type == "meta"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_queries_and_keys_keep_their_dtypes(dtype):
    q, k = queries_and_keys(15, dtype=dtype)
    rotated = rotate(q, k.float(), grid_positions(3, 5), frequencies("axial"))
    assert (rotated[0].dtype, rotated[1].dtype) == (dtype, torch.float32)


def test_gradients_of_everything_agree_with_finite_differences():
    q, k = queries_and_keys(6, heads=2, channels=8)
    inputs = q[:1], k[:1], torch.rand(6, 2, dtype=torch.float64) * 5, mixed_frequencies(8, 2).double()
    for tensor in inputs:
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(lambda *x: rotate(*x), inputs)


@pytest.mark.parametrize("sizes", [(24,), (4, 6), (2, 3, 4)])
@pytest.mark.parametrize("kind", ["axial", "mixed"])
def test_scores_are_relative_in_any_number_of_axes(sizes, kind):
    ndim = len(sizes)
    q, k = queries_and_keys(24, channels=12)
    f = axial_frequencies(12, ndim=ndim) if kind == "axial" else mixed_frequencies(12, 3, ndim=ndim)
    positions = grid_positions(*sizes).double()
    here = scores(*rotate(q, k, positions, f.double()))
    assert_close(here, scores(*rotate(q, k, positions + torch.arange(1, ndim + 1), f.double())))
    assert not torch.allclose(here, scores(*rotate(q, k, 2 * positions, f.double())))


def test_unequal_pairs_per_axis_rotate_the_channels_they_name():
    rope = AxialRope(16, pairs=(6, 2))
    f = rope.frequencies()
    assert (f[0] > 0).tolist() == [True] * 6 + [False] * 2
    assert (f[1] > 0).tolist() == [False] * 6 + [True] * 2
    assert_close(f[1, 6:], torch.tensor([1.0, 0.1]))
    assert MixedRope(16, 2, pairs=(5, 3)).freqs.shape == (2, 2, 8)


def test_modules_equal_the_function():
    q, k = queries_and_keys(16)
    positions = grid_positions(3, 5)
    axial, mixed = AxialRope(16), MixedRope(16, 3)
    for rope, f in ((axial, axial.frequencies()), (mixed, mixed.freqs)):
        expected = rotate(q, k, positions, f, num_prefix_tokens=1)
        for got, want, whole in zip(rope(q, k, positions, 1), expected, (q, k), strict=True):
            assert torch.equal(got, want)
            assert torch.equal(apply_rotary(whole, rope.cos_sin(positions, 1)), want)


def test_no_table_is_kept_in_a_module():
    assert dict(AxialRope(16).named_buffers()) == {}
    assert list(MixedRope(16, 3).state_dict()) == ["freqs"]


@pytest.mark.usefixtures("unchecked")
def test_rotation_compiles_into_one_graph_for_all_sizes():
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    compiled = torch.compile(rotate, fullgraph=True, dynamic=True, backend=counter)
    f = frequencies("mixed")
    for n in (15, 24, 7, 30):
        q, k = queries_and_keys(n)
        positions = torch.rand(n, 2)
        assert_close(compiled(q, k, positions, f), rotate(q, k, positions, f))
    assert counter.frame_count == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"positions": torch.zeros(15, 3)}, r"positions of shape \(15, 3\); expected \(\.\.\., N, 2\)"),
        ({"positions": torch.zeros(2)}, "positions of shape"),
        ({"positions": torch.full((15, 2), math.nan)}, "not finite"),
        ({"positions": torch.full((15, 2), math.inf)}, "not finite"),
        ({"positions": torch.zeros(14, 2)}, "15 tokens, 14 positions and num_prefix_tokens=0"),
        ({"num_prefix_tokens": 1}, "15 tokens, 15 positions and num_prefix_tokens=1"),
        ({"num_prefix_tokens": -1, "positions": torch.zeros(16, 2)}, "16 positions and num_prefix_tokens=-1"),
        ({"positions": torch.zeros(2, 3, 15, 2)}, "heads share positions"),
        ({"positions": torch.zeros(3, 15, 2)}, "heads share positions"),
        ({"positions": torch.zeros(15, 2, device="meta")}, "positions on meta .* move them to one device"),
        ({"positions": torch.zeros(15, 2, dtype=torch.complex64)}, "torch.complex64"),
        ({"frequencies": axial_frequencies(8)}, "twice the 4 pairs"),
        ({"frequencies": mixed_frequencies(16, 4)}, "frequencies of 4 heads for q or k of 3"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_tensors_that_do_not_fit_are_refused(arguments, message):
    q, k = queries_and_keys(15)
    defaults = {"positions": torch.zeros(15, 2), "frequencies": axial_frequencies(16)}
    with pytest.raises(ValueError, match=message):
        rotate(q, k, **(defaults | arguments))


@pytest.mark.usefixtures("unchecked")
def test_integer_queries_are_refused():
    q = torch.ones(2, 3, 15, 16, dtype=torch.long)
    with pytest.raises(ValueError, match=r"torch.int64 .*; expected floating-point q and k"):
        rotate(q, q, torch.zeros(15, 2), axial_frequencies(16))


@pytest.mark.usefixtures("unchecked")
def test_rotation_can_be_mapped_over_positions():
    q, k = queries_and_keys(15)
    positions, f = torch.rand(4, 15, 2), frequencies("mixed")
    mapped = torch.func.vmap(lambda p: rotate(q, k, p, f)[0])(positions)
    for index in range(4):
        assert_close(mapped[index], rotate(q, k, positions[index], f)[0])


def test_an_empty_batch_and_unequal_numbers_of_images_are_handled():
    f, positions = frequencies("mixed"), grid_positions(3, 5)
    empty = torch.zeros(0, 3, 15, 16)
    assert rotate(empty, empty, positions, f)[0].shape == (0, 3, 15, 16)
    one = torch.randn(2, 3, 15, 16)
    shared = rotate(one, one, positions[None], f)[0]
    assert torch.equal(shared, rotate(one, one, positions, f)[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_dtypes_are_rotated_in_float32_and_rounded_once(dtype):
    q, k = queries_and_keys(15, dtype=dtype)
    positions, f = grid_positions(3, 5) * 20, frequencies("mixed")
    rotated, _ = rotate(q, k, positions, f)
    exact, _ = rotate(q.double(), k.double(), positions.double(), f.double())
    assert_close(rotated, exact.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-6)


def test_reset_draws_new_directions_of_the_same_magnitudes():
    rope = MixedRope(16, 3, pairs=(6, 2))
    before = rope.freqs.detach().clone()
    with torch.no_grad():
        rope.freqs.fill_(math.nan)
    rope.reset_parameters()
    assert not torch.equal(rope.freqs, before)
    assert_close(rope.freqs.norm(dim=0), before.norm(dim=0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: AxialRope(18), "got 18 channels per head; expected a positive multiple of 4"),
        (lambda: AxialRope(0), "got 0 channels"),
        (lambda: AxialRope(15, pairs=(4, 3)), "positive even number"),
        (lambda: AxialRope(16, pairs=(4, 3)), r"got pairs=\(4, 3\); expected 2 counts, none negative, with sum 8"),
        (lambda: AxialRope(16, pairs=(9, -1)), "none negative"),
        (lambda: AxialRope(16, ndim=4), "ndim=4; expected 1, 2 or 3"),
        (lambda: AxialRope(16, theta=0), "theta=0; expected a positive number"),
        (lambda: AxialRope(16, theta=math.nan), "theta=nan"),
        (lambda: MixedRope(10, 2, ndim=3), "expected a positive multiple of 6"),
        (lambda: MixedRope(8, 0), "heads=0; expected at least 1"),
        (lambda: axial_frequencies(8, dtype=torch.half), "frequencies need float32 or float64"),
        (lambda: grid_positions(-1, 4), r"got sizes \(-1, 4\)"),
        (lambda: grid_positions(), r"got sizes \(\)"),
    ],
)
def test_modules_that_cannot_be_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
