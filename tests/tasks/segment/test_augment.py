from colorsys import rgb_to_hsv
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ropevit.data.ade import open_ade
from ropevit.data.loading import Failure, describe_skipped
from ropevit.data.order import TrainOrder
from ropevit.data.tiny import make_tiny
from ropevit.tasks.segment.augment import (
    CropConfig,
    TrainTransform,
    draw_size,
    largest_class_fraction,
    photometric_distortion,
    random_crop,
    saturate,
)
from ropevit.tasks.segment.batches import normalize, train_batches, train_reader
from ropevit.tasks.segment.confusion_matrix import SegmenterSettings, eval_reader, read
from ropevit.tasks.segment.inference import InferenceConfig, view_size
from ropevit.tasks.segment.recipes import RECIPES

PLAIN = {"flip": 0.0, "photometric_distortion": False, "cat_max_ratio": 1.0}


@pytest.fixture
def tiny(tmp_path):
    make_tiny("ade", tmp_path / "tiny")
    return open_ade(tmp_path / "tiny", "train")


def striped(height=48, width=80):
    """Return an image of large cells whose gray determines the label."""
    rows, columns = np.arange(height)[:, None] // 8, np.arange(width)[None] // 8
    labels = (rows * 10 + columns).astype(np.uint8)
    return Image.fromarray(np.repeat(labels[..., None] * 4, 3, 2)), labels


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("ratios", [(1.0, 1.0), (1.3, 2.0), (0.5, 0.8)])
def test_images_and_labels_are_transformed_together(flip, ratios):
    config = CropConfig(
        crop_size=32, short=48, long=200, ratio_range=ratios, flip=flip, photometric_distortion=False, cat_max_ratio=1.0
    )
    for _ in range(5):
        image, labels = TrainTransform(config)(*striped())
        assert image.shape[1:] == labels.shape
        near = (image[0].float() / 4 - labels).abs() < 6
        assert near.float().mean() > (0.999 if ratios == (1.0, 1.0) else 0.85)
        rising = (labels[:, 1:].int() - labels[:, :-1].int()).sum()
        assert (rising < 0) == (flip == 1)


def test_sizes_are_those_of_mmseg_and_of_mask2former():
    wide = 400, 1000
    assert draw_size(wide, CropConfig(ratio_range=(1.0, 1.0))) == (512, 1280)
    assert draw_size(wide, CropConfig(ratio_range=(2.0, 2.0))) == (1024, 2560), "both limits are multiplied"
    drawn = {draw_size(wide, CropConfig(short_edge_lengths=(256, 1024))) for _ in range(20)}
    assert drawn == {(256, 640), (819, 2048)}, "the longer side is at most long"
    shorter = [draw_size(wide, CropConfig())[0] for _ in range(100)]
    assert 256 <= min(shorter) < 300 < 950 < max(shorter) <= 1024


def test_crops_of_mostly_one_class_are_drawn_again():
    labels = torch.zeros(40, 200, dtype=torch.uint8)
    labels[:, 60:90] = 1
    image = labels.expand(3, -1, -1)

    def shares(most):
        config = CropConfig(crop_size=40, **(PLAIN | {"cat_max_ratio": most}))
        crops = [random_crop(image, labels, config)[1] for _ in range(40)]
        return np.array([max(float((crop == kind).float().mean()) for kind in (0, 1)) for crop in crops])

    assert (shares(1.0) == 1).mean() > 0.3
    assert (shares(0.75) < 0.75).mean() > 0.9
    labels[:, :60] = 255
    assert [largest_class_fraction(labels[:, 40 : 40 + width]) for width in (10, 25, 80)] == [1, 1, 0.5], (
        "no label, no count"
    )


def test_photometric_distortion_keeps_uint8_and_changes_most_images():
    image = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8)
    drawn = [photometric_distortion(image) for _ in range(40)]
    assert {(each.dtype, tuple(each.shape)) for each in drawn} == {(torch.uint8, (3, 20, 30))}
    same = sum(torch.equal(each, image) for each in drawn)
    assert 0 < same < 12, "each of four in half of the images: none in one of 16"
    means = torch.stack([each.float().mean() for each in drawn])
    assert means.min() < 100
    assert means.max() > 150


def test_saturation_is_that_of_hsv():
    pixels = [(200, 100, 50), (10, 20, 30), (90, 90, 90), (255, 0, 128), (0, 0, 0), (0, 0, 7)]
    image = torch.tensor(pixels, dtype=torch.uint8).T[..., None]
    # S and V of (200, 100, 50) are 0.75 and 200: half of S leaves 200, and half of what the others lack of it
    half = [(200, 150, 125), (20, 25, 30), (90, 90, 90), (255, 128, 192), (0, 0, 0), (4, 4, 7)]
    assert saturate(image, 0.5)[..., 0].T.tolist() == [list(pixel) for pixel in half]
    # 1.5 times S is 1 for the first, more for the fourth: 1 at most
    more = [(200, 67, 0), (0, 15, 30), (90, 90, 90), (255, 0, 128), (0, 0, 0), (0, 0, 7)]
    assert saturate(image, 1.5)[..., 0].T.tolist() == [list(pixel) for pixel in more]
    assert torch.equal(saturate(image, 1.0), image)


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.3, 1.5])
def test_saturation_leaves_hue_and_value(factor):
    image = torch.randint(0, 256, (3, 12, 15), dtype=torch.uint8)
    changed = saturate(image, factor)
    for before, after in zip(image.flatten(1).T.tolist(), changed.flatten(1).T.tolist(), strict=True):
        (h, s, v), (hue, saturation, value) = (
            rgb_to_hsv(*(channel / 255 for channel in rgb)) for rgb in (before, after)
        )
        assert value == v
        assert saturation == pytest.approx(min(1, factor * s), abs=1 / max(before))
        difference = abs(hue - h)
        assert min(difference, 1 - difference) * s * v * 255 < 1, "but for what rounding does"


def test_small_images_are_padded_with_the_mean_and_ignored_labels(tiny):
    config = CropConfig(crop_size=96, short=40, long=60, ratio_range=(1.0, 1.0), **PLAIN)
    batch = train_reader(tiny, config).__getitems__(TrainOrder(12, 4, seed=0).batch(0))
    assert batch.images.shape == (4, 3, 96, 96)
    mean, std = torch.full((3, 1, 1), 0.25), torch.full((3, 1, 1), 0.5)
    images = normalize(batch, mean, std)
    for image, raw, labels, (height, width) in zip(images, batch.images, batch.labels, batch.sizes, strict=True):
        assert max(height, width) < 96
        assert labels.shape == (96, 96)
        assert (labels[height:] == 255).all()
        assert (labels[:, width:] == 255).all()
        assert (labels[:height, :width] != 255).float().mean() > 0.7
        assert not image[:, height:].any()
        assert not image[:, :, width:].any()
        torch.testing.assert_close(image[:, 5, 5], (raw[:, 5, 5] / 255 - 0.25) / 0.5)


def test_images_are_padded_with_a_value_before_normalization_for_mask2former(tiny):
    config = CropConfig(crop_size=96, short_edge_lengths=(40,), long=60, pad_value=128, **PLAIN)
    batch = train_reader(tiny, config).__getitems__(TrainOrder(12, 4, seed=0).batch(0))
    images = normalize(batch, torch.full((3, 1, 1), 0.25), torch.full((3, 1, 1), 0.5))
    for image, labels, (height, width) in zip(images, batch.labels, batch.sizes, strict=True):
        torch.testing.assert_close(image[:, height:], torch.full_like(image[:, height:], (128 / 255 - 0.25) / 0.5))
        assert (labels[height:] == 255).all()
        assert image[:, :height, :width].std() > 0.01
    recipe = RECIPES["segment/mask2former_swin_tiny"]().augment
    assert recipe.pad_value == 128
    assert RECIPES["segment/upernet_vit_base"]().augment.pad_value is None
    with pytest.raises(ValueError, match=r"got pad_value=256; expected 0 to 255"):
        CropConfig(pad_value=256)


def test_a_batch_depends_only_on_the_seed_and_the_step(tiny):
    config, order = CropConfig(crop_size=48, short=64, long=200), TrainOrder(12, 3, seed=4)
    every = list(train_batches(tiny, config, order, 0, 4, workers=0))
    torch.manual_seed(99)
    for batch, again in zip(every[2:], train_batches(tiny, config, order, 2, 4, workers=0), strict=True):
        assert torch.equal(batch.images, again.images)
        assert all(torch.equal(*pair) for pair in zip(batch.labels, again.labels, strict=True))
    assert not torch.equal(every[0].images, every[1].images)


def test_evaluation_reads_single_images_at_the_sizes_of_the_views_with_labels_at_the_original_size(tiny):
    facts = {"short": 48, "long": 60, "ratios": (1.0, 2.0), "inference": InferenceConfig(), "workers": 0, "world": 5}
    rest = {"mean": torch.zeros(3, 1, 1), "std": torch.ones(3, 1, 1), "autocast": nullcontext}
    parts = [list(read(tiny, SegmenterSettings(**facts, **rest, rank=rank))) for rank in range(5)]
    assert [len(part) for part in parts] == [3, 3, 2, 2, 2]
    seen = parts[1][2]
    image, labels = tiny.read(11)
    assert np.array_equal(seen.labels, labels)
    for view, ratio in zip(seen.views, facts["ratios"], strict=True):
        height, width = view_size((image.height, image.width), 48, 60, ratio)
        assert (min(height, width) == 48 * ratio) or (max(height, width) == 60 * ratio)
        wanted = np.array(image.resize((width, height), Image.Resampling.BILINEAR))
        assert np.array_equal(view[0].permute(1, 2, 0), wanted)


def test_unreadable_images_are_replaced_but_a_label_out_of_range_raises(tiny):
    reader, order = train_reader(tiny, CropConfig(crop_size=32)), TrainOrder(12, 12, seed=0)
    Path(tiny.describe(3)).write_bytes(b"")
    assert reader.__getitems__(order.batch(0)).unreadable == [3]
    Image.new("L", (5, 5)).save(tiny.label_file(4))
    missed = reader.__getitems__(order.batch(0)).unreadable
    lines = describe_skipped(tiny, sorted(missed))
    assert lines[0] == f"{tiny.describe(3)}: cannot identify image file"
    assert lines[-1].startswith(f"{tiny.describe(4)}: {tiny.label_file(4)}: labels of 5 x 5 pixels for an image of")
    empty = eval_reader(tiny, 512, 2048, (1.0,)).__getitems__([3])
    assert (empty.unreadable, empty.views, empty.labels.numel()) == ([3], [], 0)
    Image.new("L", tiny.read(5)[0].size, 151).save(tiny.label_file(5))
    for found in (reader.__getitems__(order.batch(0)), eval_reader(tiny, 512, 2048, (1.0,)).__getitems__([5])):
        assert isinstance(found, Failure)
        assert "ADE_train_00000006.png: the label 151, expected 1 to 150 for the 150 classes" in found.message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop_size": 0}, "got crop_size=0; expected at least 1 pixel"),
        ({"short_edge_lengths": (3000,)}, r"got short_edge_lengths=\(3000,\); expected 1 to long=2048"),
        ({"ratio_range": (2.0, 0.5)}, r"got ratio_range=\(2.0, 0.5\); expected minimum and maximum"),
        ({"short_edge_lengths": (256,), "short": 256}, r"got short=256, ratio_range=\(0.5, 2.0\) with short_edge"),
        ({"short_edge_lengths": (256,), "ratio_range": (1.0, 2.0)}, r"got short=512, ratio_range=\(1.0, 2.0\) with"),
        ({"flip": 1.5}, "got flip=1.5"),
        ({"cat_max_ratio": 0.0}, r"cat_max_ratio=0.0; expected 0 to 1, and above 0 to 1"),
    ],
)
def test_augmentation_options_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        CropConfig(**changes)
