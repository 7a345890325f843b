import pytest
import torch

from ropevit.tasks.dense.sampling import LevelSampling, sample_levels


def test_a_point_in_the_middle_of_a_cell_is_its_value_and_outside_it_is_zero():
    values = torch.arange(10.0).reshape(1, 10, 1, 1)  # maps of 2 x 3 and 2 x 2
    places = torch.tensor([[1 / 6, 0.25], [5 / 6, 0.75], [0.5, 0.5], [2.0, 2.0]])
    places = torch.stack([places, places])[None, None, None]
    for level, expected in enumerate(([0.0, 5.0, 2.5, 0.0], None)):
        for point in range(4):
            weights = torch.zeros(1, 1, 1, 2, 4)
            weights[..., level, point] = 2
            found = sample_levels(values, [(2, 3), (2, 2)], places, weights).item()
            if expected:
                assert found == pytest.approx(2 * expected[point], abs=1e-5)
            elif point == 2:
                assert found == pytest.approx(2 * 7.5)  # mean of 6, 7, 8, 9


def test_it_is_the_sampling_of_transformers():
    theirs = pytest.importorskip("transformers.models.deformable_detr.modeling_deformable_detr")
    torch.manual_seed(0)
    shapes = [(3, 5), (2, 2)]
    values, places = torch.randn(2, 19, 4, 8), torch.rand(2, 7, 4, 2, 3, 2) * 1.4 - 0.2
    weights = torch.rand(2, 7, 4, 2, 3)
    given = values, torch.tensor(shapes), shapes, torch.tensor([0, 15]), places, weights, 64
    expected = theirs.MultiScaleDeformableAttention()(*given)
    assert torch.equal(sample_levels(values, shapes, places, weights), expected)
    assert torch.equal(LevelSampling()(*given), expected)
