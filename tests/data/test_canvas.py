import pytest
import torch

from ropevit.data.canvas import CanvasSettings, paint_canvases, pixel_labels
from ropevit.data.fashion import load_fashion
from ropevit.data.labelled import LabelledImages
from ropevit.data.rng import make_generator

LAW = CanvasSettings(item_size=8, density=0.8, noise=0.05, cutout=False)


def squares(channels=1):
    """Two kinds of items: white ones (label 1) and grey ones (label 2)."""
    levels = torch.tensor([255, 128], dtype=torch.uint8).repeat_interleave(10)
    return levels[:, None, None, None].expand(20, channels, 8, 8).contiguous(), torch.tensor([1, 2]).repeat_interleave(
        10
    )


@pytest.mark.parametrize(("channels", "size"), [(1, 16), (3, 24)])
def test_a_canvas_has_an_image_and_a_label_for_every_pixel(channels, size):
    canvases, truth = paint_canvases(*squares(channels), size, 5, LAW, make_generator("shape"))
    assert canvases.shape == (5, channels, size, size)
    assert truth.shape == (5, size, size)
    assert set(truth.unique().tolist()) == {0, 1, 2}


def test_labels_match_the_items():
    flat = CanvasSettings(item_size=8, density=0.5, noise=0.0, jitter=1.0, turn=0.0, cutout=False)
    canvases, truth = paint_canvases(*squares(), 32, 50, flat, make_generator("labels"))
    white, grey = (canvases[:, 0][truth == label] for label in (1, 2))
    assert white.mean() > 190  # dimmed to between 0.6 and 1
    assert 60 < grey.mean() < 130


def test_the_statistics_of_a_canvas_do_not_depend_on_its_size():
    """The field does not know its size: shares of the labels and the brightness do not depend on it."""
    images, labels = squares()
    shares, light = [], []
    for size, count in ((16, 600), (32, 200), (64, 100)):
        canvases, truth = paint_canvases(images, labels, size, count, LAW, make_generator("sizes", size))
        shares.append(truth.flatten().bincount(minlength=3) / truth.numel())
        light.append(canvases.mean() / 255)
    torch.testing.assert_close(torch.stack(shares), shares[0].expand(3, 3), rtol=0, atol=0.03)
    torch.testing.assert_close(torch.stack(light), light[0].expand(3), rtol=0, atol=0.03)


def test_items_cover_edges_as_densely_as_the_centre():
    _, truth = paint_canvases(*squares(), 32, 400, LAW, make_generator("edges"))
    filled = (truth > 0).float().mean(0)
    assert abs(filled[0].mean() - filled[12:20, 12:20].mean()) < 0.05
    assert abs(filled[:, -1].mean() - filled[12:20, 12:20].mean()) < 0.05


def test_rare_labels_are_drawn_as_often_as_common_ones():
    images, labels = squares()
    few = slice(9, None)  # 1 white item, 10 grey ones
    _, truth = paint_canvases(images[few].contiguous(), labels[few], 64, 50, LAW, make_generator("rare"))
    _, white, grey = truth.flatten().bincount(minlength=3).tolist()
    assert white / grey == pytest.approx(1, abs=0.15)


def test_the_same_generator_gives_the_same_canvases():
    first, again = (paint_canvases(*squares(), 16, 3, LAW, make_generator("again")) for _ in range(2))
    torch.testing.assert_close(first, again, rtol=0, atol=0)


def test_with_cutout_dark_pixels_of_items_show_the_background():
    images, labels = squares()
    images[:, :, :4] = 0
    shares = []
    for cutout in (True, False):
        law = CanvasSettings(item_size=8, density=0.3, cutout=cutout)
        shares.append((paint_canvases(images, labels, 32, 100, law, make_generator("cut"))[1] > 0).float().mean())
    assert shares[0] < 0.65 * shares[1]


def test_classes_of_the_embedded_images_become_five_groups():
    names, labels = pixel_labels(load_fashion("val"))
    assert names == ("background", "top", "trouser", "dress", "shoe", "bag")
    assert labels.bincount().tolist() == [0, 400, 100, 100, 300, 100]


def test_classes_without_groups_keep_their_names():
    images, _ = squares()
    data = LabelledImages(images=images[:2], labels=torch.tensor([1, 0]), classes=("cat", "dog"), name="", source="")
    names, labels = pixel_labels(data)
    assert names == ("background", "cat", "dog")
    assert labels.tolist() == [2, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"item_size": 1}, "expected item_size of 2 or more"),
        ({"density": 0}, "positive density"),
        ({"jitter": 0.5}, "expected jitter >= 1"),
        ({"turn": 200.0}, "0 to 180 degrees"),
    ],
)
def test_invalid_settings_raise(changes, message):
    with pytest.raises(ValueError, match=message):
        CanvasSettings(**changes)
