import pytest
import torch

from ropevit.data.crops import CropSettings, crop_and_resize, normalize, random_boxes, random_crops, resample
from ropevit.data.rng import make_generator


def ramp(height=12, width=12):
    """An image whose brightness grows to the right, another that grows downwards."""
    right = torch.arange(width).expand(height, width)
    down = torch.arange(height)[:, None].expand(height, width)
    return (10 * torch.stack([right, down])).to(torch.uint8)[:, None]


@pytest.mark.parametrize("distribution", ["uniform", "log"])
def test_boxes_lie_inside_the_image_and_have_the_requested_areas(distribution):
    boxes = random_boxes(
        4000, CropSettings(smallest=0.1, largest=0.6, distribution=distribution, stretch=1.5), make_generator("boxes")
    )
    center, half = boxes[:, :2], boxes[:, 2:].abs()
    assert (center.abs() + half).max() <= 1 + 1e-6
    area = half.prod(1)
    assert 0.1 - 1e-6 < area.min() < 0.11
    assert 0.58 < area.max() < 0.6 + 1e-6
    middle = {"uniform": 0.35, "log": (0.1 * 0.6) ** 0.5}[distribution]
    assert abs(area.median() - middle) < 0.02
    assert abs((boxes[:, 2] < 0).float().mean() - 0.5) < 0.05  # mirrored


def test_the_full_box_returns_the_image_and_a_negative_width_flips_it():
    images = ramp(8, 8)
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 2)
    inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))  # edges are flattened by sampling between pixels
    torch.testing.assert_close(crop_and_resize(images, whole, 8)[inner], images.float()[inner])
    mirrored = crop_and_resize(images, whole * torch.tensor([1, 1, -1, 1]), 8)
    torch.testing.assert_close(mirrored[inner], images.flip(-1).float()[inner])


def test_x_comes_before_y_in_a_box():
    right_half = torch.tensor([[0.5, 0.0, 0.5, 1.0]] * 2)
    across, down = crop_and_resize(ramp(), right_half, 12)[:, 0].flatten(1).mean(1)
    assert across > 80
    assert down == pytest.approx(55, abs=1)


def test_the_same_generator_gives_the_same_crops():
    images = torch.randint(256, (6, 3, 10, 14), dtype=torch.uint8)
    first, again = (random_crops(images, 8, CropSettings(), make_generator("crops", 1)) for _ in range(2))
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert first.shape == (6, 3, 8, 8)
    assert not torch.equal(first, random_crops(images, 8, CropSettings(), make_generator("crops", 2)))


def test_resampling_keeps_image_and_value_range():
    images = torch.randint(256, (4, 1, 16, 16), dtype=torch.uint8)
    torch.testing.assert_close(resample(images, 16), images.float())
    larger = resample(images, 40)
    assert larger.shape == (4, 1, 40, 40)
    assert 0 <= larger.min() <= larger.max() <= 255
    torch.testing.assert_close(larger.mean((1, 2, 3)), images.float().mean((1, 2, 3)), rtol=0.05, atol=0)


def test_normalization_of_black_and_white_is_as_documented():
    torch.testing.assert_close(normalize(torch.tensor([0, 255], dtype=torch.uint8)), torch.tensor([-2.0, 2.0]))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"smallest": 0}, "expected 0 < smallest <= largest <= 1"),
        ({"smallest": 0.5, "largest": 0.4}, "expected 0 < smallest"),
        ({"distribution": "cubic"}, "choose uniform or log"),
        ({"stretch": 0.5}, "expected 1 or more"),
    ],
)
def test_invalid_settings_raise(changes, message):
    with pytest.raises(ValueError, match=message):
        CropSettings(**changes)
