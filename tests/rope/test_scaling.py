import math

import pytest
import torch
from torch.testing import assert_close

from ropevit.rope import PolarRope, axial_frequencies, golden_frequencies, grid_positions, mixed_frequencies
from ropevit.rope.scaling import (
    SCALING_METHODS,
    CoordinateJitter,
    LinearScaling,
    NTKByParts,
    NTKScaling,
    Scaling,
    Yarn,
    parse_scaling,
)

AXIAL = axial_frequencies(32)  # 8 pairs for x, 8 for y; the fastest is rotated by 1 radian a patch


def seen(text, rows, columns, frequencies=AXIAL, trained=(14, 14)):
    return parse_scaling(text, trained)(grid_positions(rows, columns), frequencies)


def tables():
    polar = PolarRope(32, 3).freqs.detach()
    return {"axial": AXIAL, "mixed": mixed_frequencies(32, 3), "golden": golden_frequencies(32, 3), "polar": polar}


@pytest.mark.parametrize("method", [*SCALING_METHODS, "yarn+log", "normalize(by=min)"])
@pytest.mark.parametrize("table", ["axial", "mixed", "golden", "polar"])
def test_at_the_trained_grid_a_scaling_method_changes_no_bit(method, table):
    frequencies = tables()[table]
    found = seen(method, 9, 14, frequencies, trained=(9, 14))
    assert torch.equal(found.frequencies, frequencies)
    assert torch.equal(found.positions, grid_positions(9, 14))
    assert found.attention_factor is None or found.attention_factor == 1


def test_interpolation_divides_each_axis_by_its_own_scale():
    found = seen("pi", 28, 42).frequencies  # twice as many rows, three times as many columns
    assert_close(found, AXIAL / torch.tensor([[3.0], [2.0]]))
    assert torch.equal(seen("pi", 7, 14).frequencies, AXIAL)  # smaller grids stay


@pytest.mark.parametrize(("by", "over"), [("separate", (0.5, 2.0)), ("max", (2.0, 2.0)), ("min", (0.5, 0.5))])
def test_normalized_grids_span_what_the_trained_one_spans_also_smaller_ones(by, over):
    found = seen(f"normalize(by={by})", 28, 7).frequencies
    assert_close(found, AXIAL / torch.tensor(over).unsqueeze(1))


def test_ntk_leaves_the_fastest_pair_and_interpolates_the_slowest():
    ratio = seen("ntk", 28, 56).frequencies.sum(0) / AXIAL.sum(0)
    exponents = torch.arange(8) / 7
    assert_close(ratio, torch.cat([4.0**-exponents, 2.0**-exponents]))
    assert ratio[0] == ratio[8] == 1


def test_ntk_is_a_larger_base_as_its_source_has_it():
    longer = 100.0 * 2 ** (8 / 7)  # theta * scale^(n / (n - 1)), n = 8 pairs an axis
    assert_close(seen("ntk", 28, 28).frequencies, axial_frequencies(32, theta=longer))


def test_ntk_works_head_by_head_on_learned_frequencies():
    frequencies = mixed_frequencies(16, 2) * torch.tensor([1.0, 0.3]).reshape(1, 2, 1)
    ratio = seen("ntk", 28, 28, frequencies).frequencies.norm(dim=0) / frequencies.norm(dim=0)
    assert_close(ratio.amax(-1), torch.ones(2))
    assert_close(ratio.amin(-1), torch.full((2,), 0.5))


def test_ntk_takes_pairs_at_rest_and_pairs_all_alike():
    still = torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.0, 0.0]])
    found = NTKScaling(floor=0.25)
    ratio = Scaling((found,), (4, 4))(grid_positions(8, 8), still).frequencies
    assert_close(ratio[0], torch.tensor([1.0, 0.5 * 2**-0.5, 0.0]))
    alike = torch.ones(2, 3)
    assert torch.equal(Scaling((found,), (4, 4))(grid_positions(8, 8), alike).frequencies, alike)


def test_parts_keeps_pairs_of_many_rotations_and_interpolates_those_of_few():
    frequencies = torch.tensor([[3.0, 2.0, 1.25, 0.5, 0.1], [0.0] * 5])
    found = seen("parts", 18, 18, frequencies, trained=(6, 6)).frequencies[0]
    rotations = frequencies[0] * 6 / (2 * math.pi)  # over the trained grid of 6 patches
    kept = ((rotations - 0.5) / 1.5).clamp(0, 1)
    assert_close(found, frequencies[0] * (kept + (1 - kept) / 3))
    assert found[0] == 3.0
    assert_close(found[3:], frequencies[0, 3:] / 3)


def test_rotations_are_counted_along_the_direction_of_a_pair():
    diagonal = torch.tensor([[math.sqrt(0.5), 1.0], [math.sqrt(0.5), 0.0]])  # the same magnitude, two directions
    found = seen("parts(slow=0.5,fast=3)", 28, 28, diagonal).frequencies
    magnitudes = found.norm(dim=0)
    assert_close(magnitudes[0], magnitudes[1])
    assert 0.5 < magnitudes[0] < 1
    wide = seen("parts(slow=0.5,fast=3)", 28, 56, torch.eye(2), trained=(14, 28)).frequencies.diagonal()
    assert wide[0] > wide[1]  # a pair makes more rotations along the longer side


def test_yarn_is_parts_and_sharper_attention():
    yarn, parts = seen("yarn", 28, 56), seen("parts", 28, 56)
    assert torch.equal(yarn.frequencies, parts.frequencies)
    assert parts.attention_factor is None
    assert_close(yarn.attention_factor, torch.tensor((0.1 * math.log(math.sqrt(8)) + 1) ** 2))
    assert seen("yarn", 7, 7).attention_factor == 1


def test_the_attention_factor_of_log_is_a_ratio_of_logarithms_of_token_counts():
    assert_close(seen("log", 16, 16, trained=(4, 4)).attention_factor, torch.tensor(2.0))  # log 256 = 2 log 16
    assert_close(seen("log", 2, 2, trained=(4, 4)).attention_factor, torch.tensor(0.5))
    assert_close(seen("entropy", 16, 16, trained=(4, 4)).attention_factor, torch.tensor(2.0).sqrt())
    assert seen("log", 1, 1, trained=(1, 1)).attention_factor == 1


def test_attention_factors_multiply_in_a_chain():
    both = seen("yarn+log", 28, 28)
    assert_close(both.attention_factor, seen("yarn", 28, 28).attention_factor * seen("log", 28, 28).attention_factor)
    assert torch.equal(both.frequencies, seen("yarn", 28, 28).frequencies)


def test_jitter_draws_within_its_bounds_from_a_generator():
    method, generator = CoordinateJitter(shift=0.5, jitter=1.5, rescale=2.0), torch.Generator().manual_seed(1)
    draws = torch.stack([method.sample(generator=generator) for _ in range(2000)])
    move, stretch = draws[:, 0], draws[:, 1]
    assert 0.49 < move.abs().max() <= 0.5
    assert 2.5 < stretch.max() <= 3.0
    assert 1 / 3 <= stretch.min() < 0.4
    assert abs(stretch.log().mean()) < 0.05
    assert (stretch[:, 0] / stretch[:, 1]).max() <= 1.5**2
    again = torch.stack([method.sample(generator=generator.manual_seed(1))])
    assert torch.equal(again[0], draws[0])
    assert torch.equal(CoordinateJitter(0, 1, 1).sample(), torch.tensor([[0.0, 0.0], [1.0, 1.0]]).to(again))


def test_a_draw_moves_positions_and_stretches_frequencies():
    scaling, draw = parse_scaling("jitter", (4, 4)), torch.tensor([[0.5, 0.0], [2.0, 3.0]])
    found = scaling(grid_positions(4, 8), AXIAL, draw)
    assert_close(found.positions, grid_positions(4, 8) + torch.tensor([2.0, 0.0]))  # half of half of 8 columns
    assert_close(found.frequencies, AXIAL * torch.tensor([[2.0], [3.0]]))
    assert parse_scaling("ntk", (4, 4)).sample_jitter() is None


def test_learned_frequencies_get_gradients_through_scaling_methods():
    frequencies = mixed_frequencies(8, 2).double().requires_grad_()
    scaling = parse_scaling("ntk+parts(fast=4)", (4, 4))
    places = grid_positions(9, 7).double()
    assert torch.autograd.gradcheck(lambda f: scaling(places, f).frequencies, frequencies)
    still = torch.zeros(2, 1, 3, requires_grad=True)
    scaling(places.float(), still).frequencies.sum().backward()
    assert still.grad.isfinite().all()


def test_names_are_read_with_their_options():
    assert parse_scaling("yarn(slow=1, fast=32) + log", (2, 3)) == Scaling(
        (Yarn(slow=1.0, fast=32.0), SCALING_METHODS["log"]), (2, 3)
    )
    assert parse_scaling("pi", (2, 3)).methods == (LinearScaling(),)
    assert {name for name, method in SCALING_METHODS.items() if method.name != name} == {"entropy"}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: parse_scaling("dynamic", (2, 2)),
            "no scaling method named 'dynamic'; choose from pi, normalize, ntk, parts",
        ),
        (lambda: parse_scaling("", (2, 2)), "no scaling method named ''"),
        (lambda: parse_scaling("ntk++log", (2, 2)), "no scaling method named ''"),
        (lambda: parse_scaling("log+log", (2, 2)), "name each scaling method once"),
        (lambda: parse_scaling("log+entropy", (2, 2)), "name each scaling method once"),
        (lambda: parse_scaling("ntk(base=3)", (2, 2)), "ntk has no option 'base'; choose from floor"),
        (lambda: parse_scaling("pi(base=3)", (2, 2)), "pi has no option 'base'; choose from none"),
        (lambda: parse_scaling("ntk(floor=low)", (2, 2)), "floor='low' for ntk; expected a number"),
        (lambda: parse_scaling("ntk(floor=2)", (2, 2)), "floor=2.0; expected a fraction"),
        (lambda: parse_scaling("normalize(by=area)", (2, 2)), "by='area'; expected separate, max or min"),
        (lambda: NTKByParts(slow=2, fast=1), "slow=2, fast=1; expected rotations, slow below fast"),
        (lambda: Yarn(slow=2, fast=1), "slow=2, fast=1; expected rotations, slow below fast"),
        (lambda: CoordinateJitter(rescale=0.5), "rescale=0.5; expected at least 0, 1 and 1"),
        (lambda: parse_scaling("jitter(rescale=nan)", (4, 4)), "rescale=nan; expected at least"),
        (lambda: parse_scaling("jitter(shift=inf)", (4, 4)), "shift=inf, .* none infinite"),
        (lambda: CoordinateJitter(jitter=math.nan), "jitter=nan"),
        (lambda: Scaling((), (0, 3)), "trained_grid=\\(0, 3\\); expected rows and columns"),
    ],
)
def test_invalid_scaling_methods_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("synonym", "name"),
    [
        ("linear", "pi"),
        ("normalise(by=max)", "normalize(by=max)"),
        ("ntk_by_parts(slow=1)", "parts(slow=1)"),
        ("logn(power=0.5)", "entropy"),
    ],
)
def test_methods_have_the_names_of_language_models_too(synonym, name):
    assert parse_scaling(synonym, (14, 14)) == parse_scaling(name, (14, 14))
