import math

import numpy as np
import pytest

from ropevit.analysis.phases import (
    CELL_PIXELS,
    LARGEST_COLOR,
    SEEN_COLOR,
    SMALLEST_COLOR,
    UNSEEN_COLOR,
    coverage,
    draw,
    largest_angle,
    new_coverage,
    paint_bars,
    phase_coverage,
    rows,
)
from ropevit.models import set_scaling


def test_the_largest_angle_is_at_the_far_corner_for_any_sign():
    frequencies = np.array([[0.1, -0.1, 0.0], [0.2, 0.2, -0.5]])
    np.testing.assert_allclose(largest_angle(frequencies, (4, 6)), [0.5 + 0.6, 0.5 + 0.6, 1.5])


def test_coverage_by_hand():
    """2 pi / w over w columns reaches 2 pi (w - 1) / w: the whole circle; a quarter as fast, (w - 1) / 2w."""
    w = 8
    angles = largest_angle(np.array([[2 * math.pi / w, math.pi / 2 / w, 0.0], [0.0, 0.0, 0.0]]), (3, w))
    np.testing.assert_allclose(coverage(angles), [1, 7 / 16, 0])


def test_a_range_of_pi_covers_the_circle():
    assert coverage(np.array([math.pi - 0.01, math.pi, 9])).tolist() == [1 - 0.01 / math.pi, 1, 1]


def test_angles_between_patches_span_exactly_the_computed_range():
    """The definition against every pair of patches of a 4 x 6 grid."""
    rng = np.random.default_rng(0)
    y, x = np.divmod(np.arange(24), 6)
    for fx, fy in rng.normal(size=(20, 2)):
        angles = fx * (x[:, None] - x) + fy * (y[:, None] - y)
        assert np.abs(angles).max() == pytest.approx(largest_angle(np.array([[fx], [fy]]), (4, 6))[0])


def test_only_slow_pairs_have_new_angles(vit):
    model = vit("rope_mixed")
    freqs = model.blocks[0].attn.rope.freqs
    freqs.data.zero_()
    freqs.data[0, 0, :3] = freqs.data.new_tensor([1.0, math.pi / 10, math.pi / 20])
    table = rows(phase_coverage(model, [(4, 8), (4, 41)]))  # trained: 4 x 6
    one, two, three, still = (row for row in table[:4])
    assert (one["covered_trained"], one["new"]) == (1, 0)
    assert (two["largest_angle_trained"], two["covered_trained"]) == pytest.approx((math.pi / 2, 0.5))
    assert two["new"] == pytest.approx(0.2)
    assert (three["covered"], three["new"]) == pytest.approx((0.35, 0.1))
    assert (still["covered"], still["new"]) == (0, 0)
    far = next(row for row in table if row["columns"] == 41 and row["pair"] == 2)
    assert (far["covered"], far["new"]) == pytest.approx((1, 0.75))
    assert len(table) == 2 * 2 * 2 * 8


def test_a_smaller_grid_has_no_new_angles(vit):
    data = phase_coverage(vit("rope_mixed"), [(2, 3)])
    assert not any(new_coverage(coverage(layer.values)).any() for layer in data.largest)


def test_default_grids_are_2_and_4_times_the_trained_one(vit):
    model = vit("rope_mixed")
    assert phase_coverage(model).grids == ((8, 12), (16, 24))
    assert phase_coverage(model, [(9, 9), (5, 5), (9, 9)]).grids == ((5, 5), (9, 9))


def test_interpolating_scaling_methods_have_few_new_angles(vit):
    model = vit("rope_mixed")
    plain = phase_coverage(model)
    set_scaling(model, "pi")
    ruled = phase_coverage(model)
    assert ruled.scaling == "pi"
    for old, layer in zip(plain.largest, ruled.largest, strict=True):
        np.testing.assert_array_equal(old.values[0], layer.values[0])
        assert (layer.values[1] < old.values[1]).all()
        # twice the grid at half the frequency: (2 w - 1) / 2 instead of w - 1 patches, at most 7/6 as far
        assert (layer.values[1] < 7 / 6 * layer.values[0] + 1e-6).all()


def test_bars_show_seen_new_and_unseen_angles():
    pixels = paint_bars(np.array([[0.25, 1.0], [0.5, 1.0], [0.75, 1.0]]))
    assert pixels.shape == (CELL_PIXELS, CELL_PIXELS, 3)
    np.testing.assert_array_equal(pixels[0], [SEEN_COLOR] * CELL_PIXELS)  # the pair that was seen best is on top
    quarter = CELL_PIXELS // 4
    expected = [
        *[SEEN_COLOR] * quarter,
        *[SMALLEST_COLOR] * quarter,
        *[LARGEST_COLOR] * quarter,
        *[UNSEEN_COLOR] * quarter,
    ]
    np.testing.assert_array_equal(pixels[-1], expected)


def test_the_figure_shows_the_percentage_that_each_grid_adds(vit):
    model = vit("rope_mixed")
    data = phase_coverage(model)
    texts = [text.get_text() for text in draw(data, "my model").axes[0].texts]
    added = 100 * new_coverage(coverage(data.largest[1].values)).mean(-1)[:, 1]
    assert f"head 1: {added[0]:.0f}, {added[1]:.0f}" in texts


def test_a_swin_uses_windows_and_a_model_without_rope_raises(swin):
    assert phase_coverage(swin("rope_axial")).trained == (4, 4)
    with pytest.raises(ValueError, match="no attention layer of the model has RoPE"):
        phase_coverage(swin("rpb"))
