import math

import numpy as np
import pytest
import torch

from ropevit.analysis.response import draw, offsets, relative_response, response_map, rows
from ropevit.models import set_scaling
from ropevit.rope import grid_positions, rotate


def test_offsets_have_both_signs_and_rows_are_y():
    dx, dy = offsets((2, 3))
    np.testing.assert_array_equal(dx, [[-2, -1, 0, 1, 2]] * 3)
    np.testing.assert_array_equal(dy, np.array([[-1, 0, 1]] * 5).T)


def test_the_response_is_the_mean_cosine_of_the_pairs():
    frequencies = np.array([[[math.pi, 0.0]], [[0.0, math.pi / 2]]])
    dx, dy = np.meshgrid([0.0, 1.0], [0.0, 1.0, 2.0])
    np.testing.assert_allclose(
        response_map(frequencies, np.stack([dx, dy]))[0], [[1, 0], [0.5, -0.5], [0, -1]], atol=1e-12
    )


def test_the_response_equals_the_score_of_equal_queries_and_keys(vit):
    """The score of q = k = (1, 0) in every pair, between patches of a 4 x 6 grid, over the number of pairs."""
    model = vit("rope_mixed")
    data = relative_response(model)
    positions, freqs = grid_positions(4, 6), model.blocks[1].attn.rope.freqs.detach()
    ones = torch.tensor([1.0, 0.0]).repeat(8).expand(1, 2, 24, 16)
    q, k = rotate(ones, ones, positions, freqs)
    scores = (q @ k.transpose(-1, -2))[0] / 8
    apart = (positions[None] - positions[:, None]).long()
    found = torch.from_numpy(data.maps[0][1].values[0])[:, apart[..., 1] + 3, apart[..., 0] + 5]
    torch.testing.assert_close(found.float(), scores, rtol=0, atol=1e-5)


def test_the_response_is_1_at_the_query_and_symmetric(vit):
    data = relative_response(vit("rope_mixed"), [(5, 7)])
    assert data.grids == ((4, 6), (5, 7))
    for layers, (h, w) in zip(data.maps, data.grids, strict=True):
        for layer in layers:
            assert layer.values.shape == (1, 2, 2 * h - 1, 2 * w - 1)
            np.testing.assert_allclose(layer.values[0, :, h - 1, w - 1], 1)
            np.testing.assert_allclose(layer.values, layer.values[..., ::-1, ::-1])


def test_scaling_changes_larger_grids_only(vit):
    model = vit("rope_mixed")
    plain = relative_response(model)
    set_scaling(model, "pi")
    ruled = relative_response(model)
    assert (plain.scaling, ruled.scaling) == (None, "pi")
    np.testing.assert_array_equal(plain.maps[0][0].values, ruled.maps[0][0].values)
    small = plain.maps[0][0].values[0]  # twice as far on a grid of twice the sides is as far
    np.testing.assert_allclose(ruled.maps[1][0].values[0][:, 1::2, 1::2], small, atol=1e-6)


def test_the_largest_grid_is_drawn_with_the_trained_range_in_a_frame(vit):
    data = relative_response(vit("rope_mixed"))
    axes = draw(data).axes[0]
    assert len(axes.images) == len(axes.lines) == 4
    assert axes.images[0].get_array().shape == (15, 23)
    left, right, bottom, top = axes.images[0].get_extent()
    assert (right - left) / (top - bottom) == pytest.approx(23 / 15)
    x, y = axes.lines[0].get_data()
    assert (max(x) - min(x)) / (right - left) == pytest.approx(11 / 23)
    assert (max(y) - min(y)) / (top - bottom) == pytest.approx(7 / 15)


def test_the_frame_ends_at_a_cell_that_is_larger_in_one_direction_only(vit):
    axes = draw(relative_response(vit("rope_mixed"), [(3, 12)])).axes[0]
    left, right, bottom, top = axes.images[0].get_extent()
    x, y = axes.lines[0].get_data()
    assert (max(x) - min(x)) / (right - left) == pytest.approx(11 / 23)
    assert max(y) - min(y) == pytest.approx(abs(top - bottom))


def test_with_scaling_every_grid_has_its_rows(vit):
    model = vit("rope_mixed", scaling="ntk")
    figure = draw(relative_response(model))
    labels = [text.get_text() for text in figure.axes[0].texts]
    assert "layer 0, 4 x 6" in labels
    assert "layer 1, 8 x 12" in labels
    assert len(figure.axes[0].images) == 8
    assert "RoPE scaling: ntk." in " ".join(text.get_text() for text in figure.texts).replace("\n", " ")


def test_rows_contain_the_highest_response_outside_the_trained_range(vit):
    model = vit("rope_mixed")
    freqs = model.blocks[0].attn.rope.freqs
    freqs.data.zero_()
    freqs.data[0, 0] = 2 * math.pi / 8  # comes back 8 columns away, in all pairs of head 0
    table = rows(relative_response(model))
    assert [(row["rows"], row["columns"]) for row in table] == [(4, 6)] * 4 + [(8, 12)] * 4
    assert table[0]["highest_outside"] == ""
    first, second = table[4], table[5]
    assert (first["right"], first["below"]) == pytest.approx((math.cos(math.pi / 4), 1))
    assert first["right_below"] == pytest.approx(first["left_below"])
    assert first["lowest"] == pytest.approx(-1)
    assert first["highest_outside"] == pytest.approx(1)
    assert abs(first["dx"]) == 8 or abs(first["dy"]) >= 4
    assert second["mean"] == second["highest_outside"] == 1  # nothing is rotated


def test_a_model_without_rope_raises(vit):
    with pytest.raises(ValueError, match="no attention layer of the model has RoPE"):
        relative_response(vit("none"))
