import pytest
import torch
from torchvision import tv_tensors

from ropevit.tasks.detect.augment import (
    MAX_SIZE,
    SHORT_EDGE_LENGTHS,
    ShortestSize,
    eval_transform,
    output_size,
    random_crop,
    train_transform,
)


def sample(height, width, boxes):
    """Return an image whose objects are bright on black, each in a channel of its own."""
    image = torch.zeros(3, height, width)
    for channel, (left, top, right, bottom) in enumerate(boxes):
        image[channel, top:bottom, left:right] = 1
    target = {
        "boxes": tv_tensors.BoundingBoxes(
            torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), format="XYXY", canvas_size=(height, width)
        ),
        "labels": torch.arange(len(boxes)),
        "image_id": 7,
    }
    return tv_tensors.Image(image), target


def bright(channel):
    """Find the box of what is bright."""
    rows, columns = (channel > 0.5).any(1).nonzero().flatten(), (channel > 0.5).any(0).nonzero().flatten()
    return torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()


BOXES = [[20, 30, 300, 220], [330, 10, 560, 400], [100, 240, 320, 420]]


def test_augmentation_keeps_boxes_and_labels_with_their_objects():
    transform, flipped = train_transform(), 0
    for _ in range(6):
        image, target = transform(*sample(427, 640, BOXES))
        assert target["image_id"] == 7
        assert len(target["labels"]) == len(target["boxes"])
        for label, box in zip(target["labels"], target["boxes"], strict=True):
            torch.testing.assert_close(bright(image[label]), box.as_subclass(torch.Tensor), rtol=0, atol=2.0)
        flipped += image[1, :, : image.shape[2] // 2].sum() > image[1, :, image.shape[2] // 2 :].sum()
    assert 0 < flipped < 6


def test_image_sizes_are_the_published_ones_with_and_without_crop():
    transform, ratios, shorts = train_transform(), set(), set()
    for _ in range(40):
        image, _target = transform(*sample(40, 60, [[5, 5, 35, 25]]))
        shorts.add(min(image.shape[1:]))
        ratios.add(round(image.shape[2] / image.shape[1], 1))
        assert max(image.shape[1:]) <= MAX_SIZE
    assert len(shorts & set(SHORT_EDGE_LENGTHS)) > 5
    assert 1.5 in ratios  # whole images
    assert len(ratios) > 3  # crops


def test_crop_sides_are_384_to_600_pixels_limited_by_the_image():
    sides = []
    for _ in range(30):
        image, target = random_crop(*sample(500, 900, [[0, 0, 900, 500]]))
        sides.append(image.shape[1:])
        assert target["boxes"].tolist() == [[0, 0, image.shape[2], image.shape[1]]]
    heights, widths = zip(*sides, strict=True)
    assert min(heights) >= 384
    assert max(heights) <= 500
    assert min(widths) >= 384
    assert 500 < max(widths) <= 600
    assert random_crop(*sample(100, 200, []))[0].shape[1:] == (100, 200)


def test_image_without_objects_is_augmented():
    _image, target = train_transform()(*sample(60, 80, []))
    assert target["boxes"].shape == (0, 4)
    assert target["labels"].shape == (0,)


def test_evaluation_resizes_the_shorter_side_to_800_and_the_longer_to_at_most_1333():
    assert eval_transform()(*sample(400, 600, BOXES[:1]))[0].shape[1:] == (800, 1200)
    assert max(eval_transform()(*sample(100, 400, []))[0].shape) == 1333
    with pytest.raises(ValueError, match="got short=900, longest=800"):
        eval_transform(900, 800)


@pytest.mark.parametrize(
    ("size", "short", "longest", "wanted"),
    [
        ((480, 640), 800, 1333, (800, 1067)),  # 1066.67
        ((640, 480), 800, 1333, (1067, 800)),
        ((427, 640), 800, 1333, (800, 1199)),  # 1199.06
        ((375, 500), 480, 1333, (480, 640)),
        ((333, 500), 704, 1333, (704, 1057)),  # 1057.06
        ((100, 400), 800, 1333, (333, 1333)),  # 333.25, as 3200 were too long
        ((101, 400), 800, 1333, (337, 1333)),  # 336.58
        ((361, 361), 768, 1333, (768, 768)),
        ((3, 4000), 800, 1333, (1, 1333)),  # 0.99975
        ((1, 4000), 800, 1333, (1, 1333)),  # 0.33, of which nothing would be left
        ((480, 640), 600, None, (600, 800)),
        ((100, 2000), 400, None, (400, 8000)),
    ],
)
def test_sides_are_rounded_as_detectron2_does(size, short, longest, wanted):
    assert tuple(output_size(size, short, longest)) == wanted
    image, target = ShortestSize((short,), longest)(*sample(*size, [[0, 0, *reversed(size)]]))
    assert tuple(image.shape[1:]) == wanted
    assert target["boxes"].tolist() == [[0, 0, *reversed(wanted)]]


@pytest.mark.parametrize("short", [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800])
def test_shorter_side_is_exact(short):
    sizes = [(height, 2 * height) for height in range(200, 900)]
    assert {output_size(size, short, None)[0] for size in sizes} == {short}
