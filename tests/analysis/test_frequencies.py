import math

import numpy as np
import pytest
import torch

from ropevit.analysis.frequencies import draw, frequency_map, is_aliased, rows, to_cell
from ropevit.drawing import figure_bytes
from ropevit.rope import axial_frequencies


def test_the_map_of_an_axial_model_has_the_axial_frequencies(vit):
    found = frequency_map(vit("rope_axial"))
    expected = axial_frequencies(16).double().numpy()
    for layer in found.layers:
        for head in range(2):
            np.testing.assert_array_equal(layer.values[:, head], expected)
            assert not np.any(np.prod(layer.values[:, head], 0))  # all on the axes


def test_a_row_gives_magnitude_direction_and_aliasing_of_a_pair(vit):
    model = vit("rope_mixed")
    model.blocks[1].attn.rope.freqs.data[:, 0, :4] = torch.tensor([[3.0, 0.0, 3.2, 3.0], [4.0, -2.0, 0.0, 3.0]])
    table = rows(frequency_map(model))
    assert len(table) == 2 * 2 * 8
    first, up, fast, corner = table[16:20]
    assert (first["layer"], first["head"], first["pair"]) == ("blocks.1.attn", 0, 0)
    assert (first["fx"], first["fy"], first["speed"]) == (3, 4, 5)
    assert first["direction_degrees"] == pytest.approx(math.degrees(math.atan(4 / 3)))
    assert up["direction_degrees"] == -90
    assert [row["aliased"] for row in (first, up, fast, corner)] == [1, 0, 1, 0]  # at (3, 3) neither axis is


def test_frequencies_above_pi_on_either_axis_are_aliased():
    frequencies = np.array([[math.pi, 3.15, 0, 0], [3.1, 0, -3.15, -math.pi]])
    assert is_aliased(frequencies).tolist() == [False, True, True, False]


def test_aliased_frequencies_equal_slower_ones_on_whole_patches():
    """What the limit claims: cos(f d) = cos((f - 2 pi) d) at whole d, and f - 2 pi is slower exactly beyond pi."""
    patches = np.arange(-5, 6)
    for magnitude, slower in ((3.0, False), (3.3, True)):
        np.testing.assert_allclose(np.cos(magnitude * patches), np.cos((magnitude - 2 * math.pi) * patches), atol=1e-12)
        assert (abs(magnitude - 2 * math.pi) < magnitude) == slower == is_aliased(np.array([[magnitude], [0.0]]))[0]


def test_cell_positions_keep_direction_and_have_logarithmic_magnitude():
    magnitudes = np.array([2 * math.pi, 0.1, 0.01, 0.001, 0, 100])
    radius = np.hypot(*to_cell(np.stack([0.6 * magnitudes, -0.8 * magnitudes])))
    np.testing.assert_allclose(radius, [1, math.log(10) / math.log(200 * math.pi), 0, 0, 0, 1], atol=1e-12)
    x, y = to_cell(np.array([[0.6], [-0.8]]))
    assert y[0] / x[0] == pytest.approx(-0.8 / 0.6)


@pytest.mark.usefixtures("rendered")
def test_identical_layers_and_heads_are_drawn_once(vit):
    texts = [text.get_text() for text in draw(frequency_map(vit("rope_axial")), "my model").axes[0].texts]
    assert texts == ["2 layers alike,\nlayer 0 to layer 1", "all heads"]
    figure = draw(frequency_map(vit("rope_mixed")), "my model")
    assert [text.get_text() for text in figure.axes[0].texts] == [
        "layer 0",
        "head 0",
        "head 1",
        "layer 1",
        "head 0",
        "head 1",
    ]
    assert "my model" in [text.get_text() for text in figure.texts]
    dots = figure.axes[0].collections
    assert len(dots) == 2 * 4  # f and -f of each head
    both = np.asarray(dots[0].get_offsets() + dots[1].get_offsets())
    np.testing.assert_allclose(both, np.broadcast_to(both[0], both.shape))  # mirrored at the middle of the cell
    assert figure_bytes(figure, "svg") == figure_bytes(figure, "svg")
