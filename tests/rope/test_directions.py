import math

import pytest
import torch
from torch.testing import assert_close

from ropevit.rope import (
    FixedRope,
    PolarRope,
    golden_frequencies,
    grid_positions,
    polar_frequencies,
    simplex_frequencies,
    spiral_frequencies,
    star_frequencies,
)
from ropevit.rope.directions import FIXED_FREQUENCIES, polar_directions

EXACT = {"dtype": torch.float64}


def moment(frequencies):
    """Average d d^T over the unit vectors of the rotated pairs."""
    vectors = frequencies.flatten(1)
    length = vectors.norm(dim=0)
    directions = (vectors / length)[:, length > 0]
    return directions @ directions.T / directions.shape[1]


def directions(frequencies):
    return torch.atan2(frequencies[1], frequencies[0]) % math.pi


@pytest.mark.parametrize("channels", [12, 16, 32, 64, 128])
@pytest.mark.parametrize("frequencies_of", [spiral_frequencies, simplex_frequencies, star_frequencies])
def test_directions_of_spiral_star_and_simplex_prefer_none(frequencies_of, channels):
    assert_close(moment(frequencies_of(channels, 3, **EXACT)), torch.eye(2, **EXACT) / 2, atol=1e-6, rtol=0)


@pytest.mark.parametrize("heads", [1, 6])
def test_golden_directions_come_ever_nearer_to_preferring_none(heads):
    off = [(moment(golden_frequencies(2 * pairs, heads, **EXACT)) - torch.eye(2) / 2).abs().max() for pairs in (8, 512)]
    assert off[0] < 0.06
    assert off[1] < 0.002


def test_golden_by_hand():
    found = golden_frequencies(4, 2, theta=100.0, **EXACT)  # P = 2: magnitudes 1 and 1/10
    steps = torch.tensor([[0.0, 0.6180339887], [0.2360679775, 0.8541019662]], **EXACT)
    magnitude = torch.tensor([1.0, 0.1], **EXACT)
    assert_close(found, torch.stack([magnitude * (math.pi * steps).cos(), magnitude * (math.pi * steps).sin()]))


def test_no_two_heads_of_golden_look_along_the_same_directions():
    angles = directions(golden_frequencies(32, 4, **EXACT)).flatten()
    apart = (angles[:, None] - angles[None]).abs()
    apart = torch.minimum(apart, math.pi - apart) + torch.eye(64, **EXACT)
    assert apart.min() > math.pi / 64 / 3  # evenly spread, they would be pi / 64 apart


def test_spiral_by_hand():
    found = spiral_frequencies(8, 1, theta=16.0, **EXACT)  # P = 4: magnitudes 1 to 1/8; 45 degrees further each
    half = math.sqrt(0.5)
    assert_close(
        found, torch.tensor([[1, half / 2, 0, -half / 8], [0, half / 2, 0.25, half / 8]], **EXACT), atol=1e-6, rtol=0
    )


def test_star_by_hand():
    found = star_frequencies(64, 1, theta=16.0, **EXACT)  # P = 32: 4 directions of 8 magnitudes
    magnitudes = 16.0 ** -(torch.arange(8, **EXACT) / 8)
    rest = torch.zeros(8, **EXACT)
    diagonal = math.sqrt(0.5) * magnitudes
    expected = torch.stack(
        [torch.cat([magnitudes, diagonal, rest, -diagonal]), torch.cat([rest, diagonal, magnitudes, diagonal])]
    )
    assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("channels", [8, 12, 16, 32, 64, 128, 256])
def test_every_direction_of_a_star_has_all_magnitudes_and_the_frequencies_prefer_none(channels):
    found = star_frequencies(channels, 3, **EXACT)
    assert_close(found @ found.T, found.square().sum() / 2 * torch.eye(2, **EXACT), atol=1e-6, rtol=0)
    spiral = spiral_frequencies(32, 1, **EXACT)
    assert (spiral @ spiral.T)[0, 0] > 3 * (spiral @ spiral.T)[1, 1]  # where magnitude and direction are coupled


def test_simplex_by_hand():
    found = simplex_frequencies(
        14, 1, theta=4.0, **EXACT
    )  # P = 7: two magnitudes of three waves, and one unrotated pair
    high = math.sqrt(0.75)
    assert_close(found[:, 0, :3], torch.tensor([[1, -0.5, -0.5], [0, high, -high]], **EXACT))
    angle = 2 * math.pi / 3 * 0.6180339887
    assert_close(found[:, 0, 3], torch.tensor([math.cos(angle) / 2, math.sin(angle) / 2], **EXACT))
    assert_close(found[:, 0, 3:6].sum(-1), torch.zeros(2, **EXACT), atol=1e-12, rtol=0)
    assert found[:, 0, 6].tolist() == [0, 0]


@pytest.mark.parametrize("kind", FIXED_FREQUENCIES)
def test_magnitudes_range_from_one_to_the_inverse_of_theta(kind):
    magnitudes = FIXED_FREQUENCIES[kind](64, 2, 100.0).norm(dim=0)
    rotating = magnitudes[magnitudes > 0]
    assert_close(rotating.max(), torch.tensor(1.0))
    assert 0.01 < rotating.min() < 0.02


@pytest.mark.parametrize("kind", FIXED_FREQUENCIES)
def test_fixed_rope_types_have_no_parameters_and_rotate(kind):
    rope = FixedRope(kind, 16, 3)
    assert not [*rope.parameters(), *rope.buffers()]
    q, k = torch.randn(2, 2, 3, 6, 16).unbind()
    rotated = rope(q, k, grid_positions(2, 3))
    shifted = rope(q, k, grid_positions(2, 3) + torch.tensor([5.0, -2.0]))
    assert_close(rotated[0] @ rotated[1].mT, shifted[0] @ shifted[1].mT, atol=1e-4, rtol=1e-4)
    assert kind in repr(rope)


@pytest.mark.parametrize("pairs", range(2, 70))
def test_polar_directions_take_each_step_of_the_half_circle_once(pairs):
    steps = polar_directions(pairs, dtype=torch.float64) * pairs / math.pi
    assert_close(steps.sort().values, torch.arange(pairs, **EXACT), atol=1e-4, rtol=0)


def test_polar_starts_geometric_with_another_heading_for_each_head():
    rope = PolarRope(32, 2, theta=10.0)
    frequencies = rope.freqs.detach()
    assert_close(frequencies.norm(dim=0), (10.0 ** -(torch.arange(16) / 16)).expand(2, -1))
    assert_close(moment(frequencies), torch.eye(2) / 2, atol=1e-5, rtol=0)
    angles = directions(frequencies.double())
    assert_close((angles[1] - angles[0]) % math.pi, torch.full((16,), math.pi / 32, **EXACT), atol=1e-5, rtol=0)


def test_polar_stays_within_its_bounds_and_isotropic_after_wild_steps():
    rope = PolarRope(32, 4)
    optimizer = torch.optim.SGD(rope.parameters(), lr=1e4)
    for _ in range(5):
        q, k = torch.randn(2, 1, 4, 12, 32).unbind()
        rotated = rope(q, k, grid_positions(3, 4))
        (rotated[0] @ rotated[1].mT).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert rope.raw_speeds.abs().max() > 20
    magnitudes = rope.freqs.detach().norm(dim=0)
    assert magnitudes.min() >= 0.01 * (1 - 1e-5)
    assert magnitudes.max() <= math.pi * (1 + 1e-5)
    for head in rope.freqs.detach().unbind(1):
        assert_close(moment(head), torch.eye(2) / 2, atol=1e-4, rtol=0)


def test_polar_frequencies_have_exact_gradients():
    raw, heading = torch.randn(2, 4, **EXACT, requires_grad=True), torch.randn(2, **EXACT, requires_grad=True)
    assert torch.autograd.gradcheck(lambda r, h: polar_frequencies(r, h, 0.01, math.pi), (raw, heading))


def test_polar_keeps_its_precision_and_starts_anew():
    rope = PolarRope(16, 2)
    start = rope.freqs.detach()
    with torch.no_grad():
        rope.raw_speeds.zero_()
    rope.bfloat16().reset_parameters()
    assert rope.raw_speeds.dtype == rope.heading.dtype == torch.float32
    assert torch.equal(rope.freqs, start)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: FixedRope("silver", 16, 2),
            "no rope type with fixed frequencies named 'silver'; choose one of golden",
        ),
        (lambda: FixedRope("golden", 15, 2), "15 channels per head; expected a positive even number"),
        (lambda: FixedRope("spiral", 6, 2), "heads of 6 channels; a spiral needs a multiple of 4"),
        (lambda: FixedRope("simplex", 4, 2), "heads of 4 channels; a simplex of three waves needs at least 6"),
        (lambda: FixedRope("golden", 16, 2, theta=0), "theta=0; expected a positive number"),
        (lambda: PolarRope(16, 2, fastest=4.0), "fastest=4.0, theta=10.0; expected 0 < slowest < fastest <= pi"),
        (lambda: PolarRope(16, 2, theta=1000), "expected 0 < slowest < fastest <= pi with the initial magnitudes"),
        (lambda: PolarRope(2, 2), "2 heads of 2 channels; expected at least 1 head of 4 channels"),
    ],
)
def test_invalid_rope_types_and_options_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
