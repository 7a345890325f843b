import pytest
import torch

from ropevit.data.canvas import CanvasSettings, paint_canvases, paint_pairs, pixel_labels
from ropevit.data.fashion import load_fashion
from ropevit.data.labeled import LabeledImages
from ropevit.data.rng import make_generator

LAW = CanvasSettings(item_size=8, density=0.8, noise=0.05, cutout=False)


def squares(channels=1):
    """Two kinds of items: white ones (label 1) and gray ones (label 2)."""
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
    flat = CanvasSettings(item_size=8, density=0.5, noise=0.0, jitter=1.0, max_rotation=0.0, cutout=False)
    canvases, truth = paint_canvases(*squares(), 32, 50, flat, make_generator("labels"))
    white, gray = (canvases[:, 0][truth == label] for label in (1, 2))
    assert white.mean() > 190  # dimmed to between 0.6 and 1
    assert 60 < gray.mean() < 130


def test_the_statistics_of_a_canvas_do_not_depend_on_its_size():
    """The field does not know its size: fractions of the labels and the brightness do not depend on it."""
    images, labels = squares()
    shares, light = [], []
    for size, count in ((16, 600), (32, 200), (64, 100)):
        canvases, truth = paint_canvases(images, labels, size, count, LAW, make_generator("sizes", size))
        shares.append(truth.flatten().bincount(minlength=3) / truth.numel())
        light.append(canvases.mean() / 255)
    torch.testing.assert_close(torch.stack(shares), shares[0].expand(3, 3), rtol=0, atol=0.03)
    torch.testing.assert_close(torch.stack(light), light[0].expand(3), rtol=0, atol=0.03)


def test_items_cover_edges_as_densely_as_the_center():
    _, truth = paint_canvases(*squares(), 32, 400, LAW, make_generator("edges"))
    filled = (truth > 0).float().mean(0)
    assert abs(filled[0].mean() - filled[12:20, 12:20].mean()) < 0.05
    assert abs(filled[:, -1].mean() - filled[12:20, 12:20].mean()) < 0.05


def test_rare_labels_are_drawn_as_often_as_common_ones():
    images, labels = squares()
    few = slice(9, None)  # 1 white item, 10 gray ones
    _, truth = paint_canvases(images[few].contiguous(), labels[few], 64, 50, LAW, make_generator("rare"))
    _, white, gray = truth.flatten().bincount(minlength=3).tolist()
    assert white / gray == pytest.approx(1, abs=0.15)


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
    data = LabeledImages(images=images[:2], labels=torch.tensor([1, 0]), classes=("cat", "dog"), name="", source="")
    names, labels = pixel_labels(data)
    assert names == ("background", "cat", "dog")
    assert labels.tolist() == [2, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"item_size": 1}, "expected item_size of 2 or more"),
        ({"density": 0}, "positive density"),
        ({"jitter": 0.5}, "expected jitter >= 1"),
        ({"max_rotation": 200.0}, "0 to 180 degrees"),
    ],
)
def test_invalid_settings_raise(changes, message):
    with pytest.raises(ValueError, match=message):
        CanvasSettings(**changes)


FLAT = CanvasSettings(item_size=8, density=0.5, noise=0.0, jitter=1.0, max_rotation=0.0, cutout=False)


@pytest.mark.parametrize(("size", "apart"), [(20, 0), (64, 40), (96, 60)])
def test_a_mark_has_the_label_of_the_other_marked_item(size, apart):
    canvases, truth, marks = paint_pairs(squares(), size, 30, FLAT, make_generator("pairs", size), apart=apart)
    assert canvases.shape == (30, 1, size, size)
    for canvas, label, mark in zip(canvases, truth, marks, strict=True):
        rows, columns = mark.nonzero().unbind(1)
        along = rows if rows.max() - rows.min() >= columns.max() - columns.min() else columns
        first = along < (along.min() + along.max()) / 2  # the two discs, apart along this axis
        own = []
        for disc in (first, ~first):
            assert (canvas[0, rows[disc], columns[disc]] == 255).all()  # bright
            y, x = rows[disc].float().mean().round().long(), columns[disc].float().mean().round().long()
            own.append(label[y, x].item())
        assert label[rows[first], columns[first]].unique().tolist() == [own[1]]
        assert label[rows[~first], columns[~first]].unique().tolist() == [own[0]]
        ends = along[first].max(), along[~first].min()
        assert ends[1] - ends[0] > apart - FLAT.tile  # the centers are `apart` from one another


def test_the_labels_of_two_marked_items_are_independent():
    _, truth, marks = paint_pairs(squares(), 20, 400, FLAT, make_generator("independent"))
    both = torch.stack([(truth == label).logical_and(marks).any((1, 2)) for label in (1, 2)], 1).all(1)
    assert both.float().mean() == pytest.approx(0.5, abs=0.08)  # two kinds: half of the pairs are mixed


@pytest.mark.usefixtures("unchecked")
def test_a_canvas_without_room_for_two_items_so_far_apart_is_refused():
    with pytest.raises(ValueError, match=r"got a canvas of 30 px .* 24 px apart; expected at least 34"):
        paint_pairs(squares(), 30, 1, FLAT, make_generator("room"), apart=24)


def test_items_with_an_alpha_channel_are_pasted_by_it():
    """A half opaque white square on black: as bright as half of the background and half of white."""
    images = torch.full((4, 4, 8, 8), 128, dtype=torch.uint8)  # premultiplied: 128 of 255, alpha 128
    settings = CanvasSettings(item_size=8, density=0.5, noise=0.0, jitter=1.0, max_rotation=0.0)
    opaque = images.clone()
    opaque[:, 3] = 255
    labels = torch.ones(4, dtype=torch.long)
    (half, truth), (whole, _) = (
        paint_canvases(some, labels, 32, 3, settings, make_generator("alpha")) for some in (images, opaque)
    )
    assert half.shape == (3, 3, 32, 32)
    inside = (truth == 1).unsqueeze(1).expand(-1, 3, -1, -1)
    assert (half[inside] > whole[inside] + 5).float().mean() > 0.9  # the background shines through
