import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as published

from ropevit.data.annotation_formats import ANNOTATION_FORMATS, register_annotation_format
from ropevit.data.masks import decode_mask
from ropevit.data.show import ANNOTATED_SIDE, show
from ropevit.data.tiny import make_tiny
from ropevit.painting import PAPER, class_color


def pixels(picture):
    return np.asarray(picture.image).astype(int)


def count(picture, color, slack=12):
    """Count the pixels of about a color."""
    return int((np.abs(pixels(picture) - color).max(-1) <= slack).sum())


def save(path, color, size=(30, 20)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)


@pytest.fixture
def pets(tmp_path):
    """Nine red ants and a blue bee."""
    for number in range(9):
        save(tmp_path / "pets/train/ant" / f"{number}.png", (200, 0, 0))
    save(tmp_path / "pets/train/bee/0.png", (0, 0, 200))
    save(tmp_path / "pets/val/ant/0.png", (200, 0, 0))
    save(tmp_path / "pets/val/bee/0.png", (0, 0, 200))
    return tmp_path / "pets"


def test_every_class_is_shown_before_one_is_shown_twice(pets):
    for seed in range(5):
        picture = show(str(pets), "train", 2, seed)
        assert picture.shown == 2
        assert count(picture, (200, 0, 0)) == count(picture, (0, 0, 200)) > 1000


def test_captions_name_class_and_file(pets):
    with_long_names = pixels(show(str(pets), "val", 2))
    below = with_long_names[150 + 7 :]  # the images are 224 x 149 pixels
    assert (below != PAPER).any()
    (pets / "val/ant").rename(pets / "val/armadillo")
    (pets / "train/ant").rename(pets / "train/armadillo")
    assert not np.array_equal(pixels(show(str(pets), "val", 2)), with_long_names)


def test_an_unreadable_image_is_replaced_and_named(pets):
    (pets / "train/bee/0.png").write_text("no image")
    picture = show(str(pets), "train", 2)
    assert picture.shown == 2
    (line,) = picture.skipped
    assert line.startswith(f"{pets}/train/bee/0.png: cannot identify")
    for path in pets.rglob("*.png"):
        path.write_text("no image")
    with pytest.raises(ValueError, match=r"none of the images can be read .*see `ropevit data check"):
        show(str(pets), "train", 2)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A set of one training image in each format: a disc and a square."""
    root = tmp_path_factory.mktemp("tiny")
    for name in ("coco", "ade"):
        make_tiny(name, root / name, 1, 1)
    return root


def test_boxes_have_the_color_of_their_class_and_masks_tint_their_pixels(tiny, tmp_path):
    picture = show(str(tiny / "coco"), "train", 1)
    assert max(picture.image.size) >= ANNOTATED_SIDE
    assert count(picture, class_color(0), 3) > 500, "boxes and tags of disc and crowd"
    assert count(picture, class_color(1), 3) > 500, "box and tag of the square"
    file = tiny / "coco/annotations/instances_train2017.json"
    content = json.loads(file.read_text())
    for annotation in content["annotations"]:
        annotation["segmentation"] = []
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / file.name).write_text(json.dumps(content))
    (tmp_path / "train2017").symlink_to(tiny / "coco/train2017")
    untinted = pixels(show(str(tmp_path), "train", 1))
    changed = (pixels(picture) != untinted).any(-1).mean()
    boxes = sum(np.prod(each["bbox"][2:]) for each in content["annotations"])
    image = np.prod(untinted.shape[:2])
    expected = boxes / (content["images"][0]["width"] * content["images"][0]["height"])
    assert abs(changed - expected) < 0.05, (changed, expected, image)


def test_labels_have_the_color_of_their_class_and_ignored_pixels_keep_theirs(tiny):
    picture = show(str(tiny / "ade"), "train", 1)
    grid = pixels(picture)
    red, green, blue = grid[20, 15:400].mean(0)  # the border of two pixels is ignored
    assert max(red, green, blue) - min(red, green, blue) < 12, "gray, as the image"
    ground = grid[60, 60] - grid[20, 60]
    assert ground[0] > 30, "tinted orange"
    assert count(picture, class_color(0), 0) > 100, "the legend"


@pytest.mark.parametrize("height", [1, 5])
def test_run_lengths_are_decoded_as_published(height):
    inside = np.random.default_rng(height).random((height, 7)) > 0.4
    encoded = published.encode(np.asfortranarray(inside.astype(np.uint8)))
    compressed = {"size": encoded["size"], "counts": encoded["counts"].decode()}
    np.testing.assert_array_equal(decode_mask(compressed), inside)
    column = inside.T.ravel()
    ends = np.flatnonzero(np.diff(np.concatenate([[False], column]).astype(int))), len(column)
    runs = np.diff(np.concatenate([[0], *map(np.atleast_1d, ends)])).tolist()
    np.testing.assert_array_equal(decode_mask({"size": [height, 7], "counts": runs}), inside)


@pytest.mark.parametrize(
    ("data", "split", "number", "message"),
    [
        ("fashion", "train", 0, "got count=0, seed=0; expected 1 to 100 images"),
        ("nowhere", "train", 4, "found no folder nowhere"),
    ],
)
def test_wrong_input_is_refused(data, split, number, message):
    with pytest.raises(ValueError, match=message):
        show(data, split, number)


def test_a_format_that_cannot_be_shown_says_so(tmp_path):
    row = replace(ANNOTATION_FORMATS["ade"], label="pairs", recognize=lambda root: (root / "pairs").exists(), show=None)
    register_annotation_format("pairs", row)
    try:
        (tmp_path / "pairs").touch()
        with pytest.raises(ValueError, match="the format of pairs has no show"):
            show(str(tmp_path), "train", 1)
    finally:
        del ANNOTATION_FORMATS["pairs"]
