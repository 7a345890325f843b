"""Distance biases, against their formulas pair by pair."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from ropevit.rope import DISTANCE_BIAS_TYPES, DistanceSpec, grid_positions, register_distance_bias_type
from ropevit.rope.distance import MASKED_LOGIT, alibi_slopes, lookhere_heads, squared_distance_channels

HEADS, CHANNELS = 4, 8
H, W = 3, 5


def make(name, heads=HEADS, layer=0, depth=2):
    return DISTANCE_BIAS_TYPES[name].make(DistanceSpec(heads, layer, depth))


def qkv(n, *, batch=2, channels=CHANNELS, **options):
    return tuple(torch.randn(batch, HEADS, n, channels, **options) for _ in range(3))


def test_the_slopes_of_alibi_are_the_published_ones():
    assert alibi_slopes(4) == [1 / 4, 1 / 16, 1 / 64, 1 / 256]
    assert alibi_slopes(8) == [2**-power for power in range(1, 9)]
    assert alibi_slopes(3) == [1 / 16, 1 / 256, 1 / 4]  # those of 2 heads, then the first of 4
    assert alibi_slopes(12)[8:] == [2**-power for power in (0.5, 1.5, 2.5, 3.5)]


@pytest.mark.parametrize("name", DISTANCE_BIAS_TYPES)
def test_a_bias_starts_at_its_formula(name):
    bias, places = make(name), grid_positions(H, W)
    found = bias(places)
    assert found.shape == (1, HEADS, H * W, H * W)
    for query in range(H * W):
        for key in range(H * W):
            expected = by_hand(name, bias, places, query, key)
            assert_close(found[0, :, query, key], expected, rtol=1e-4, atol=1e-4)


def by_hand(name, bias, places, query, key):
    """The bias of one pair for each head."""
    x, y = (places[key] - places[query]).tolist()
    distance = math.hypot(x, y)
    if name in ("alibi", "alibi_learned"):
        return torch.tensor([-slope * distance for slope in (1 / 4, 1 / 16, 1 / 64, 1 / 256)])
    decays = [0.5 * 0.2 ** (head / 3) for head in range(4)]
    if name == "decay":
        return torch.tensor([-slope * distance for slope in decays])
    if name == "gaussian":
        return torch.tensor([-((slope * distance) ** 2) for slope in decays])
    if name == "lookhere":  # three of four heads have a direction, in the first layer the first three quadrants
        seen = [x <= 0 and y <= 0, x >= 0 and y <= 0, x <= 0 and y >= 0]
        return torch.tensor([-1.5 * distance if each else MASKED_LOGIT for each in seen] + [-0.75 * distance])
    if name == "log_cpb":
        features = [math.copysign(math.log2(1 + abs(d)), d) for d in (x, y)]
        return 16 * mlp(bias, features).sigmoid() - 8
    furthest = max(math.dist(places[query].tolist(), place.tolist()) for place in places)
    return mlp(bias, [math.log(1 + 0.1 * distance) / math.log(1 + 0.1 * furthest)])


def mlp(bias, features):
    hidden = F.relu(bias.hidden_weight @ torch.tensor(features) + bias.hidden_bias)
    return bias.out_weight @ hidden


def test_lookhere_is_the_published_one_with_twelve_heads():
    directions, slopes = lookhere_heads(12, 11, 12)
    assert sorted(directions[:8].tolist()) == sorted(
        [[-1, -1], [1, -1], [-1, 1], [1, 1], [0, -1], [0, 1], [-1, 0], [1, 0]]
    )
    assert directions[8:].abs().sum() == 0
    assert_close(slopes, torch.tensor([0.5] * 8 + [1 / 4, 1 / 16, 1 / 64, 1 / 256]))  # 2 * 0.5 in the last layer
    assert_close(lookhere_heads(12, 0, 12)[1], 3 * slopes)
    assert torch.equal(lookhere_heads(12, 5, 12)[0], directions)
    directions = [lookhere_heads(2, layer, 4)[0] for layer in range(4)]
    assert (
        len({tuple(row) for layer in directions for row in layer.tolist()}) == 8
    )  # two heads: all eight in four layers


@pytest.mark.parametrize("name", DISTANCE_BIAS_TYPES)
def test_a_common_shift_changes_nothing(name):
    bias, places, parts = make(name), grid_positions(H, W), qkv(H * W + 1)
    here = bias(places, 1, qkv=parts)
    assert_close(bias(places + torch.tensor([7.0, -4.0]), 1, qkv=parts), here, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in DISTANCE_BIAS_TYPES if name not in ("log_cpb", "lookhere")])
def test_a_function_of_distance_is_the_same_for_a_transposed_grid(name):
    bias = make(name)
    order = torch.arange(H * W).reshape(H, W).T.flatten()
    here = bias(grid_positions(H, W))[:, :, order][:, :, :, order]
    assert_close(bias(grid_positions(W, H)), here, rtol=1e-5, atol=1e-5)


def test_a_transposed_grid_swaps_the_directions_of_lookhere():
    order = torch.arange(H * W).reshape(H, W).T.flatten()
    here = make("lookhere", heads=12)(grid_positions(H, W))[:, :, order][:, :, :, order]
    swapped = make("lookhere", heads=12)(grid_positions(W, H))
    assert_close(swapped[:, [0, 2, 1, 3, 6, 7, 4, 5, 8, 9, 10, 11]], here)


@pytest.mark.parametrize("name", DISTANCE_BIAS_TYPES)
@pytest.mark.parametrize("num_prefix_tokens", [0, 2])
def test_attention_is_what_its_definition_gives(name, num_prefix_tokens):
    bias, places, (q, k, v) = make(name), grid_positions(H, W), qkv(num_prefix_tokens + H * W)
    scores = q @ k.transpose(-1, -2) / math.sqrt(CHANNELS)
    scores[:, :, num_prefix_tokens:, num_prefix_tokens:] += bias(places)
    assert_close(bias(places, num_prefix_tokens, qkv=(q, k, v)), scores.softmax(-1) @ v, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", DISTANCE_BIAS_TYPES)
def test_gradients_are_those_of_finite_differences(name):
    bias, places = make(name).double(), grid_positions(2, 3).double()
    names, values = zip(*bias.named_parameters(), strict=True) if list(bias.parameters()) else ((), ())
    parts = qkv(7, batch=1, channels=4, dtype=torch.float64, requires_grad=True)

    def attend(*tensors):
        given = dict(zip(names, tensors[3:], strict=True))
        return torch.func.functional_call(bias, given, (places, 1), {"qkv": tensors[:3]})

    assert torch.autograd.gradcheck(attend, (*parts, *values), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("h", "w"), [(14, 14), (64, 48), (1, 128)])
def test_channels_of_half_precision_carry_the_squared_distance(dtype, h, w):
    places, slopes, scale = grid_positions(h, w), torch.tensor([0.5, 0.1, 0.03]), 1 / 8
    some = slice(None, None, 23 if h * w > 1000 else 1)  # of a large grid every 23rd query, against all keys
    exact = -(torch.cdist(places[some].double(), places.double()) * slopes.double()[:, None, None]).square()

    def scores(dtype):
        queries, keys = squared_distance_channels(places, slopes, scale, dtype)
        assert queries.shape[-1] == keys.shape[-1] == (8 if dtype.itemsize == 2 else 4)
        return queries[:, some].double() @ keys.double().transpose(-1, -2) * scale

    near = exact > -20  # e^-20 is nothing
    errors = (scores(dtype) - exact).abs()
    assert errors[near].max() < 0.01
    assert errors.max() < 0.05
    assert (scores(torch.float32) - exact)[near].abs().max() < 1e-3


def test_no_matrix_of_all_pairs_is_built_for_the_gaussian_decay():
    from ropevit.models.memory import LiveStorages

    n = 24 * 24
    peaks = {}
    for name in ("gaussian", "decay"):
        bias, parts = make(name), qkv(n, batch=1)
        with LiveStorages() as live:
            bias(grid_positions(24, 24), qkv=parts)
        peaks[name] = live.peak
    assert peaks["gaussian"] < HEADS * n * 4 * 120 < HEADS * n * n * 4 < peaks["decay"]


def test_learned_slopes_stay_positive_and_in_single_precision():
    bias = make("decay").bfloat16()
    assert bias.raw_slope.dtype == torch.float32
    with torch.no_grad():
        bias.raw_slope.fill_(-30.0)
    assert (bias.slopes > 0).all()
    bias.reset_parameters()
    assert_close(bias.slopes[[0, -1]], torch.tensor([0.5, 0.1]))


def test_every_row_tells_whether_it_learns():
    for name, row in DISTANCE_BIAS_TYPES.items():
        assert bool(list(make(name).parameters())) == row.learned, name
        assert "arXiv" in row.source or "this package" in row.source


@pytest.mark.parametrize(
    ("name", "message"),
    [("alibi", "exists already"), ("ape", "exists already"), ("Far", "lower-case"), ("rope_far", "without rope_")],
)
def test_a_bias_is_not_registered_under_a_name_like_that(name, message):
    with pytest.raises(ValueError, match=message):
        register_distance_bias_type(name, DISTANCE_BIAS_TYPES["alibi"])


def test_a_module_without_parameters_adds_nothing_to_a_state_dict():
    assert not nn.ModuleList([make("alibi"), make("lookhere")]).state_dict()
