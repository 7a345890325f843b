"""The embedded drawings: who drew which split, that they are drawn and not enlarged, and what is refused."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ropevit.data.emoji import ARTISTS, SPRITE_SIZE, STUDY_GROUPS, load_emoji
from ropevit.data.sources import open_source
from ropevit.study.panels import ZoomPanel
from ropevit.study.settings import EMOJI


@pytest.fixture(scope="module")
def test_images():
    return load_emoji("test")


def fine_detail(images):
    """Mean square of what a blur of two pixels removes, in opaque colors."""
    pixels = images[:, :3].float() * images[:, 3:].float() / 255
    blurred = F.interpolate(F.avg_pool2d(pixels, 2), scale_factor=2, mode="bilinear")
    return (pixels - blurred).square().mean().item()


def test_every_class_has_one_image_per_artist_and_a_group(test_images):
    train = load_emoji("train", 8)
    assert len(train) == 3 * len(test_images) == 3 * 306
    assert train.classes == test_images.classes
    assert train.labels.bincount().tolist() == [3] * 306
    assert sorted(set(train.groups)) == [
        "animal", "building", "clothing", "dish", "fruit", "plant", "tool", "vehicle",
    ]  # fmt: skip
    assert train.groups[train.classes.index("elephant")] == "animal"


def test_artists_of_the_test_split_are_in_no_other_split():
    assert not set(ARTISTS["test"]) & {*ARTISTS["train"], *ARTISTS["search"], *ARTISTS["val"]}
    assert {*ARTISTS["search"], *ARTISTS["val"]} == set(ARTISTS["train"])
    assert not set(ARTISTS["search"]) & set(ARTISTS["val"])


def test_larger_images_have_detail_that_upsampled_ones_lack(test_images):
    some = test_images.images[::16]
    small = F.interpolate(some.float(), scale_factor=0.25, mode="bicubic", antialias=True).clamp(0, 255)
    enlarged = F.interpolate(small, scale_factor=4, mode="bicubic").clamp(0, 255)
    assert fine_detail(some) > 5 * fine_detail(enlarged)


def test_smaller_images_keep_mean_color_and_alpha(test_images):
    index = test_images.classes.index("red-apple")
    whole, small = (images.images[index].float() / 255 for images in (test_images, load_emoji("test", 20)))
    for image in (whole, small):
        red, green, blue = ((image[:3] * image[3:]).mean((1, 2)) / image[3].mean()).tolist()
        assert red > 0.5 > green > blue - 0.2
    assert torch.allclose(whole[3].mean(), small[3].mean(), atol=0.01)
    assert small[3].amax() == 1


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("split", "size", "groups", "says"),
    [
        ("all", 32, None, "choose one of train"),
        ("test", SPRITE_SIZE + 1, None, "160"),
        ("test", 8, ["animal", "rock"], "got group 'rock'; choose from animal, "),
    ],
)
def test_unknown_splits_sizes_and_groups_raise(split, size, groups, says):
    with pytest.raises(ValueError, match=says):
        load_emoji(split, size, groups)


def test_chosen_groups_have_only_their_things():
    fruit = load_emoji("search", 8, ["fruit"])
    assert set(fruit.groups) == {"fruit"}
    assert "red-apple" in fruit.classes
    assert "elephant" not in fruit.classes
    assert fruit.labels.bincount().tolist() == [2] * len(fruit.classes)


def test_the_drawings_are_a_data_set_of_color_images_by_group():
    source = open_source("emoji", "val")
    image, label = source.read(0)
    assert image.mode == "RGB"
    assert image.size == (SPRITE_SIZE, SPRITE_SIZE)
    assert source.classes == ("animal", "fruit", "vehicle", "building", "clothing")
    assert source.classes[label] == "animal"
    assert len(source) == 182


@pytest.mark.full  # above is the other split
def test_the_drawings_of_three_artists_are_the_training_set():
    assert len(open_source("emoji", "train")) == 3 * 182


def test_its_images_are_those_that_a_study_tests_on():
    panel = ZoomPanel(EMOJI["zoom"], load_emoji("val", groups=STUDY_GROUPS), load_emoji("test", groups=STUDY_GROUPS))
    images, _ = open_source("emoji", "val").read(5)
    torch.testing.assert_close(
        panel.test_images(slice(5, 6), SPRITE_SIZE)[0].round().byte(), torch.from_numpy(np.array(images)).movedim(2, 0)
    )
