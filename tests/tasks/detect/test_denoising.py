import pytest
import torch
from torch import nn

from ropevit.tasks.detect.boxes import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh, logit, make_target
from ropevit.tasks.detect.denoising import (
    DenoisingGroups,
    denoising_queries,
    jitter_boxes,
    make_denoising_groups,
    pad_targets,
)
from tasks.detect.small import CLASSES, objects, small_config

TARGETS = [objects(1, 2, 3), objects(4), objects()]


def test_number_of_groups_depends_on_the_image_with_most_objects():
    assert make_denoising_groups(TARGETS, small_config(denoising=100)) == DenoisingGroups(33, 3)
    assert make_denoising_groups(TARGETS, small_config(denoising=2)) == DenoisingGroups(1, 3)  # never none
    assert make_denoising_groups(TARGETS, small_config(denoising=0)) is None
    assert make_denoising_groups([objects(), objects()], small_config()) is None


@pytest.mark.parametrize(("number", "slots", "matched"), [(1, 1, 1), (2, 3, 5), (4, 2, 3)])
def test_denoising_groups_attend_to_themselves_and_matching_queries_only_to_each_other(number, slots, matched):
    mask, size = DenoisingGroups(number, slots).mask(matched, torch.device("cpu")), 2 * slots
    noisy = number * size
    assert mask.shape == (noisy + matched, noisy + matched)
    for row in range(noisy):
        seen = set(range(row // size * size, row // size * size + size)) | set(range(noisy, noisy + matched))
        assert set(mask[row].nonzero().flatten().tolist()) == seen
    assert not mask[noisy:, :noisy].any()
    assert mask[noisy:, noisy:].all()


def test_each_positive_is_assigned_to_its_source_object():
    config, embedding = small_config(label_noise=0.0, box_noise=0.0), nn.Embedding(CLASSES, 32)
    groups = DenoisingGroups(4, 3)
    queries = denoising_queries(TARGETS, groups, embedding, config)
    assert queries.content.shape == (3, 24, 32)
    matching, first = groups.matching([3, 1, 0], torch.device("cpu")), 0
    for image, (target, content, boxes) in enumerate(zip(TARGETS, queries.content, queries.boxes, strict=True)):
        here = matching.images == image
        places, numbers = matching.queries[here], matching.objects[here] - first
        first += len(target.labels)
        assert len(places.unique()) == len(places) == 4 * len(target.labels)
        assert (places % 6 < 3).all()  # the first half of a group
        torch.testing.assert_close(content[places], embedding(target.labels[numbers]))
        torch.testing.assert_close(boxes[places], target.boxes[numbers])
        torch.testing.assert_close(boxes[places + 3], target.boxes[numbers])  # and its negative


def test_empty_slots_have_zero_content_and_a_centered_box():
    queries = denoising_queries(TARGETS, DenoisingGroups(2, 3), nn.Embedding(CLASSES, 32), small_config())
    assert queries.content[2].eq(0).all()
    assert queries.boxes[2].eq(0.5).all()
    assert queries.content[1, [1, 2, 4, 5, 7, 8, 10, 11]].eq(0).all()
    assert queries.content[1, [0, 3, 6, 9]].ne(0).all()
    labels, boxes, filled = pad_targets(TARGETS, DenoisingGroups(2, 3))
    assert filled.tolist() == [[True] * 3, [True, False, False], [False] * 3]
    assert labels[1].tolist() == [4, 0, 0]
    assert boxes[1, 1:].eq(0).all()


@pytest.mark.parametrize("scale", [0.4, 1.0])
def test_positive_boxes_move_by_less_than_half_a_side_and_negative_ones_by_more(scale):
    boxes = torch.tensor([[0.5, 0.5, 0.1, 0.2]]).repeat(400, 1)[None]
    negative = torch.arange(400) >= 200
    moved = (
        (box_cxcywh_to_xyxy(jitter_boxes(boxes, negative, scale)) - box_cxcywh_to_xyxy(boxes))
        / torch.tensor([0.05, 0.1, 0.05, 0.1])
        / scale
    )
    near, far = moved[0, :200].abs(), moved[0, 200:].abs()
    assert near.max() <= 1 + 1e-4
    assert near.max() > 0.95
    assert far.min() >= 1 - 1e-4
    assert far.max() <= 2 + 1e-4
    assert far.max() > 1.95
    assert moved.gt(0).float().mean().sub(0.5).abs() < 0.05


def test_noisy_boxes_stay_inside_the_image():
    boxes = torch.rand(1, 500, 4)
    noisy = box_cxcywh_to_xyxy(jitter_boxes(boxes, torch.arange(500) % 2 == 1, 1.0))
    assert noisy.min() >= -1e-6
    assert noisy.max() <= 1 + 1e-6


def test_a_quarter_of_the_labels_is_redrawn():
    embedding = nn.Embedding(CLASSES, 32)
    queries = denoising_queries([objects(3)], DenoisingGroups(4000, 1), embedding, small_config(label_noise=0.5))
    kept = (queries.content[0] == embedding.weight[3]).all(1).float().mean()
    assert abs(kept - (0.75 + 0.25 / CLASSES)) < 0.02  # a drawn class may be the same


def test_inverse_sigmoid_clamps_at_one_thousandth():
    shares = torch.tensor([0.0, 5e-4, 0.25, 0.9999, 1.0])
    expected = torch.tensor([0.001 / 1.0, 0.001 / 0.9995, 0.25 / 0.75, 0.9999 / 0.001, 1.0 / 0.001]).log()
    torch.testing.assert_close(logit(shares), expected, rtol=1e-4, atol=1e-5)


def test_pixel_boxes_are_converted_to_relative_centers_and_sizes():
    target = make_target(torch.tensor([2]), torch.tensor([[10.0, 20.0, 50.0, 30.0]]), (40, 100), 3)
    torch.testing.assert_close(target.boxes, torch.tensor([[0.3, 0.625, 0.4, 0.25]]))
    torch.testing.assert_close(box_xyxy_to_cxcywh(box_cxcywh_to_xyxy(target.boxes)), target.boxes)


@pytest.mark.parametrize(("label", "box", "message"), [
    (3, [0, 0, 5, 5], "got labels from 3 to 3; expected 0 to 2"),
    (-1, [0, 0, 5, 5], "got labels from -1 to -1"),
    (0, [5, 0, 5, 5], r"got a box \[5.0, 0.0, 5.0, 5.0\] in an image of 40 x 100 pixels"),
    (0, [0, 0, 101, 5], "clip boxes and remove empty ones"),
    (0, [0, -1, 10, 5], "clip boxes and remove empty ones"),
    (0, [0, float("nan"), 10, 5], "clip boxes and remove empty ones"),
])  # fmt: skip
def test_invalid_object_is_refused(label, box, message):
    with pytest.raises(ValueError, match=message):
        make_target(torch.tensor([label]), torch.tensor([box], dtype=torch.float32), (40, 100), 3)
