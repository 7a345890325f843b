"""Intervals of mean IoUs by the bootstrap over images."""

import pytest
import torch

from ropevit.tasks.probe.bootstrap import iou_difference, iou_interval, majority_iou


def counts_of(*images):
    """Return the counts of images, each a pair of lists: true and predicted classes of its pixels."""
    found = torch.zeros(len(images), 3, 3, dtype=torch.int64)
    for image, (true, predicted) in zip(found, images, strict=True):
        for label, guess in zip(true, predicted, strict=True):
            image[label, 0] += label == guess
            image[guess, 1] += 1
            image[label, 2] += 1
    return found


RIGHT, HALF, NONE = ([0, 1], [0, 1]), ([0, 1], [0, 0]), ([], [])


def test_the_score_is_that_of_all_images_together():
    found = iou_interval(counts_of(RIGHT, HALF))
    assert found.value == pytest.approx(100 * (2 / 3 + 1 / 2) / 2)
    assert found.low == pytest.approx(25)  # only the second image: IoUs of 1/2 and 0
    assert found.high == pytest.approx(100)
    assert tuple(iou_interval(counts_of(*[RIGHT] * 5))) == pytest.approx((100, 100, 100))


def test_differences_are_of_the_same_images():
    noise = torch.Generator().manual_seed(0)
    true = torch.randint(2, (60, 20), generator=noise).tolist()
    wrong = [[label if index % 2 else 1 - label for index, label in enumerate(image)] for image in true]
    wrong[0] = true[0]
    before, after = counts_of(*zip(true, wrong, strict=True)), counts_of(*zip(true, true, strict=True))
    gain = iou_difference(before, after)
    assert gain.value == pytest.approx(100 - iou_interval(before).value)
    assert 60 < gain.low < gain.value < gain.high < 70
    assert tuple(iou_difference(before, before)) == (0, 0, 0)


def test_images_without_labeled_pixels_are_left_out():
    with_empty, without = counts_of(RIGHT, NONE, HALF), counts_of(RIGHT, HALF)
    assert iou_interval(with_empty) == iou_interval(without)
    assert iou_difference(with_empty, counts_of(HALF, RIGHT, RIGHT)).value == pytest.approx(
        iou_interval(counts_of(HALF, RIGHT)).value - iou_interval(without).value
    )
    with pytest.raises(ValueError, match="no test image has labeled pixels"):
        iou_interval(counts_of(NONE))


def test_the_majority_class_is_right_where_it_is():
    counts = counts_of(([0, 0, 0, 1], [1, 1, 2, 2]))
    assert majority_iou(counts, 0) == pytest.approx(100 * (3 / 4 + 0) / 2)
    assert majority_iou(counts, 2) == pytest.approx(0)
