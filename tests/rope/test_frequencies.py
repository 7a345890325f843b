import math

import pytest
import torch
from torch.testing import assert_close

from ropevit.rope import axial_frequencies, mixed_frequencies, random_directions


@pytest.mark.parametrize(("channels", "theta"), [(64, 100.0), (32, 50.0), (8, 10.0)])
def test_axial_frequencies_are_the_papers(channels, theta):
    f = axial_frequencies(channels, theta, dtype=torch.float64)
    expected = [theta ** (-4 * i / channels) for i in range(channels // 4)]
    zeros = [0.0] * (channels // 4)
    assert_close(f, torch.tensor([expected + zeros, zeros + expected], dtype=torch.float64))


def test_mixed_frequencies_start_as_axial_ones_along_rotated_axes():
    f = mixed_frequencies(64, heads=6, theta=10.0).double()
    magnitudes = torch.tensor([10 ** (-4 * i / 64) for i in range(16)], dtype=torch.float64)
    assert_close(f.norm(dim=0), magnitudes.repeat(6, 2).view(6, 32), rtol=1e-6, atol=0)
    alpha = torch.atan2(f[1, :, 0], f[0, :, 0])
    perpendicular = torch.stack((torch.cos(alpha + math.pi / 2), torch.sin(alpha + math.pi / 2)))
    assert_close(f[:, :, 16:], perpendicular[:, :, None] * magnitudes, rtol=0, atol=1e-6)
    assert alpha.unique().numel() == 6, "each head has a direction of its own"


def test_random_directions_are_rotations_and_uniform_in_the_plane():
    generator = torch.Generator().manual_seed(1)
    for ndim in (1, 2, 3):
        rotations = random_directions(5, ndim, generator)
        assert_close(rotations @ rotations.mT, torch.eye(ndim, dtype=torch.float64).expand(5, -1, -1))
        assert_close(torch.linalg.det(rotations), torch.ones(5, dtype=torch.float64))
    rotations = random_directions(4000, 2, generator)
    quarters = torch.histc(torch.atan2(rotations[:, 1, 0], rotations[:, 0, 0]), bins=4, min=-math.pi, max=math.pi)
    assert (quarters - 1000).abs().max() < 150  # five standard deviations
    assert_close(random_directions(2, 1, generator), torch.ones(2, 1, 1, dtype=torch.float64))


def test_the_generator_decides_the_start():
    first, second = (mixed_frequencies(16, 2, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, mixed_frequencies(16, 2, generator=torch.Generator().manual_seed(4)))
