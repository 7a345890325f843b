import math

import numpy as np
import pytest
import torch

from ropevit.analysis.reconstruction import contrast, draw, grid_around, least_squares, reconstruction, rows
from ropevit.rope import axial_frequencies

POINTS = ((3, 3), (-2, 2))


def test_one_frequency_gives_a_cosine():
    """f = (pi/2, 0) and the point (1, 0): cos(pi/2 (x - 1)) in every row, from x = -2 to 2."""
    image = least_squares(np.array([[math.pi / 2], [0.0]]), [(1, 0)], grid_around(2))
    np.testing.assert_allclose(image, [[0, -1, 0, 1, 0]] * 5, atol=1e-12)


def test_with_all_frequencies_of_the_grid_it_is_an_exact_inverse_fourier_transform():
    """With every wave 2 pi (k, l) / 7, nothing is lost: the rebuilt image is the points, as an FFT gives them back."""
    line = 2 * math.pi * np.arange(7) / 7
    waves = np.stack(np.meshgrid(line, line)).reshape(2, -1)
    image = least_squares(waves, [(1, -2), (3, 0)], grid_around(3))
    wanted = np.zeros((7, 7))
    wanted[-2 + 3, 1 + 3] = wanted[0 + 3, 3 + 3] = 1
    np.testing.assert_allclose(image, wanted, atol=1e-12)


def test_reconstruction_is_additive_and_a_single_point_has_value_1():
    waves = np.random.default_rng(0).normal(size=(2, 3, 8))
    first, second = (least_squares(waves, [point], grid_around(5)) for point in POINTS)
    np.testing.assert_allclose(least_squares(waves, POINTS, grid_around(5)), first + second)
    np.testing.assert_allclose(first[:, 3 + 5, 3 + 5], 1)


def test_axial_frequencies_are_as_high_at_crossings_as_at_points(vit):
    """sum_j (X(x - x_j) + Y(y - y_j)) / 2 has the same value at (3, 3), (-2, 2), (3, 2) and (-2, 3)."""
    data = reconstruction(vit("rope_axial"), POINTS)
    four = [data.axial[y + 5, x + 5] for x, y in (*POINTS, (3, 2), (-2, 3))]
    np.testing.assert_allclose(four, four[0])
    frequencies = axial_frequencies(16)[0, :4].double().numpy()
    np.testing.assert_allclose(four[0], 1 + (np.cos(5 * frequencies).mean() + np.cos(frequencies).mean()) / 2)
    assert contrast(data, data.axial).ratio == pytest.approx(1)
    assert contrast(data, data.axial).crossing == pytest.approx(four[0])
    for layer in data.layers:
        np.testing.assert_allclose(layer.values[0], np.broadcast_to(data.axial, (2, 11, 11)))


def test_fast_oblique_frequencies_separate_the_points(vit):
    model = vit("rope_mixed", width=128)
    drawn = torch.rand(2, 2, 32, generator=torch.Generator().manual_seed(0)) * 6 - 3
    model.blocks[0].attn.rope.freqs.data.copy_(drawn)
    table = rows(reconstruction(model, POINTS))
    assert [row["layer"] for row in table] == ["RoPE-Axial", *["blocks.0.attn"] * 2, *["blocks.1.attn"] * 2]
    assert table[0]["ratio"] == pytest.approx(1)
    assert min(table[1]["ratio"], table[2]["ratio"]) > 1.5
    assert table[1]["ratio"] == table[1]["lowest_at_points"] / table[1]["highest_elsewhere"]


def test_the_contrast_contains_the_highest_position_elsewhere(vit):
    data = reconstruction(vit(), [(1, 0), (0, 2)])
    image = np.zeros((11, 11))
    image[0 + 5, 1 + 5], image[2 + 5, 0 + 5] = 0.9, 0.6  # the points
    image[-4 + 5, 3 + 5], image[2 + 5, 1 + 5], image[0 + 5, 0 + 5] = 0.8, 0.3, 0.4
    found = contrast(data, image)
    assert found == (0.6, 0.8, 3, -4, 0.4)
    assert found.ratio == pytest.approx(0.75)
    assert contrast(reconstruction(vit(), [(1, 0)]), image).crossing is None


def test_the_plane_contains_distant_points_and_theta_is_that_of_the_architecture(vit, swin):
    assert reconstruction(vit()).radius == 5
    assert reconstruction(vit(), [(9, -1)]).radius == 11
    assert (reconstruction(vit()).theta, reconstruction(swin()).theta) == (100, 50)


def test_no_points_and_no_rope_raise(vit):
    with pytest.raises(ValueError, match="got no points"):
        reconstruction(vit(), [])
    with pytest.raises(ValueError, match="no attention layer of the model has RoPE"):
        reconstruction(vit("ape"))


def test_the_figure_has_an_image_and_a_ratio_per_head(vit):
    data = reconstruction(vit())
    axes = draw(data, "my model").axes[0]
    assert len(axes.images) == 2 + 4
    np.testing.assert_array_equal(axes.images[0].get_array(), data.target)
    np.testing.assert_array_equal(axes.images[3].get_array(), data.layers[0].values[0, 1])
    texts = [text.get_text() for text in axes.texts]
    assert "RoPE-Axial: 1.00" in texts
    assert f"head 1: {contrast(data, data.layers[0].values[0, 1]).ratio:.2f}" in texts
    x, y = axes.collections[0].get_offsets()[
        0
    ]  # the first point, (3, 3), in the first cell: right of and below the middle
    left, right, bottom, top = axes.images[0].get_extent()
    assert (x - (left + right) / 2, y - (bottom + top) / 2) == pytest.approx((6 / 11, -6 / 11))
