"""Detectors in tiles of the training size, and on images resized to it."""

import json
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import batched_nms, box_iou

from ropevit.data.tiny import draw_scene
from ropevit.tasks.detect.evaluate import DetectorOptions
from ropevit.tasks.detect.postprocess import Detections
from ropevit.tasks.detect.predict import DetectionOptions, load_detection_predictor
from ropevit.tasks.detect.tiles import detect_in_tiles
from ropevit.tasks.evaluate import evaluate
from ropevit.tasks.evaluation.config import EvalConfig
from ropevit.tasks.evaluation.loop import read_curve
from tasks.detect.eval_data import annotate, open_images, save_tiny

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The file of a detector of 64 pixels."""
    return save_tiny(tmp_path_factory.mktemp("detector") / "best.safetensors")


def canvas(side=128):
    """Return a square image of four pictures."""
    pictures = [np.asarray(draw_scene(number).image.crop((0, 0, side // 2, side // 2))) for number in range(4)]
    return Image.fromarray(np.vstack([np.hstack(pictures[:2]), np.hstack(pictures[2:])]))


@cache
def predictor(path, size, mode, top):
    """Load a file once for all images; the tests change none."""
    options = DetectionOptions(size=size, inference_mode=mode, threshold=0, top=top)
    return load_detection_predictor(path, options, CPU)


def predict(path, image, size, mode="whole", top=20):
    return predictor(path, size, mode, top).detect(image)


def assert_same(found, wanted, factor=1.0):
    torch.testing.assert_close(found.scores, wanted.scores)
    assert found.labels.tolist() == wanted.labels.tolist()
    torch.testing.assert_close(found.boxes, wanted.boxes * factor)


def test_an_image_of_one_tile_keeps_all_its_detections(saved):
    image = canvas(64)
    assert_same(predict(saved, image, 64, "tiles"), predict(saved, image, 64))


def test_boxes_of_overlapping_tiles_are_moved_back_and_suppressed_within_their_class(saved):
    image, parts = canvas(), []
    for top, left in [(top, left) for top in (0, 51, 64) for left in (0, 51, 64)]:
        part = predict(saved, image.crop((left, top, left + 64, top + 64)), 64)
        parts.append((part.scores, part.labels, part.boxes + torch.tensor([left, top, left, top])))
    scores, labels, boxes = map(torch.cat, zip(*parts, strict=True))
    kept = batched_nms(boxes, scores, labels, 0.5)[:20]
    found = predict(saved, image, 128, "tiles")
    assert_same(found, Detections(scores[kept], labels[kept], boxes[kept]))
    assert len(found.scores) == 20
    assert found.boxes.max() > 64


def test_an_enlarged_image_gives_boxes_in_its_original_pixels(saved):
    """The image of 64 pixels is enlarged to 128 pixels, and found in nine tiles of those."""
    image = canvas(64)
    found = predict(saved, image, 128, "tiles")
    assert_same(found, predict(saved, image.resize((128, 128), Image.Resampling.BILINEAR), 128, "tiles"), factor=0.5)
    assert found.boxes.max() <= 64


def test_an_object_on_the_edge_of_a_tile_is_found_whole_and_once():
    """A detector that boxes the bright pixels of each channel, the surer the more there are."""

    def detect(tile):
        found = []
        for label, channel in enumerate(tile > 0.5):
            places = channel.nonzero()
            if len(places):
                (top, left), (bottom, right) = places.amin(0).tolist(), (places.amax(0) + 1).tolist()
                found.append((len(places) / 1000, label, [left, top, right, bottom]))
        scores, labels, boxes = zip(*found, strict=True) if found else ((), (), ())
        return Detections(torch.tensor(scores), torch.tensor(labels).long(), torch.tensor(boxes).float().reshape(-1, 4))

    image, wanted = torch.zeros(3, 100, 230), [(93, 40, 111, 60), (30, 20, 50, 50), (200, 70, 230, 100)]
    for channel, (left, top, right, bottom) in zip(image, wanted, strict=True):
        channel[top:bottom, left:right] = 1
    found = detect_in_tiles(detect, image, 100, 300)
    best = [found.boxes[found.labels == label][0].tolist() for label in range(3)]
    assert best == [list(box) for box in wanted], "adjacent tiles would cut the first one, at 93 to 111"
    for label in range(3):
        overlaps = box_iou(found.boxes[found.labels == label], found.boxes[found.labels == label])
        assert overlaps.fill_diagonal_(0).max() <= 0.5
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    assert len(detect_in_tiles(detect, image, 100, 2).scores) == 2
    assert len(detect_in_tiles(detect, torch.zeros(3, 150, 150), 100, 2).scores) == 0


def test_boxes_in_a_resized_image_are_scaled_back(saved):
    image = canvas().resize((120, 96), Image.Resampling.BILINEAR)
    small = image.resize((80, 64), Image.Resampling.BILINEAR)
    assert_same(predict(saved, image, 96, "resize"), predict(saved, small, 64), factor=1.5)
    twice = image.resize((60, 48), Image.Resampling.BILINEAR).resize((80, 64), Image.Resampling.BILINEAR)
    assert_same(predict(saved, image, 48, "resize"), predict(saved, twice, 64), factor=1.5)


@pytest.fixture(scope="module")
def place(tmp_path_factory, saved):
    """Data of which the detector finds some objects at its own size."""
    root, rows = tmp_path_factory.mktemp("coco"), []
    source, finder = open_images(root), load_detection_predictor(saved, DetectionOptions(threshold=0, top=20), CPU)
    for index in range(len(source)):
        image, truth = source.read(index)
        found = finder.detect(image)
        for label, (left, top, right, bottom) in zip(found.labels.tolist(), found.boxes.tolist(), strict=True):
            box = left, top, right - left, bottom - top
            rows.append([truth.image_id, *box, 1, finder.category_ids[label]])
    annotate(root, np.array(rows))
    return root


def measure(saved, place, out, **options):
    known = {"checkpoint": str(saved), "data": str(place), "workers": 0, "device": "cpu", "out": out}
    return evaluate(EvalConfig(**known | options))


@pytest.mark.full  # by default those of a classifier and of a segmenter
def test_baselines_have_rows_with_their_cost_beside_each_size(saved, place, tmp_path):
    options = DetectorOptions(save_detections=True)
    rows = measure(saved, place, tmp_path, sizes=(32, 64, 128), baselines=("tiles", "resize"), options=options)
    assert [(row.size, row.longest, row.mode) for row in rows] == [
        (32, 40, "whole"), (32, 40, "resize"), (64, 80, "whole"), (64, 80, "tiles"),
        (128, 160, "whole"), (128, 160, "tiles"), (128, 160, "resize"),
    ]  # fmt: skip
    by_mode = {(row.size, row.mode): row for row in rows}
    assert by_mode[64, "whole"].AP > by_mode[128, "whole"].AP
    assert by_mode[128, "resize"].AP > by_mode[128, "whole"].AP, "the annotations come from the training size"
    trained = by_mode[64, "whole"].tokens
    resized = [by_mode[size, "resize"].tokens for size in (32, 128)]
    assert resized == pytest.approx([trained] * 2, abs=2), "sides are rounded twice"
    assert by_mode[32, "whole"].tokens < trained < by_mode[128, "whole"].tokens < by_mode[128, "tiles"].tokens
    names = {path.name for path in tmp_path.glob("detections-*.json")}
    assert names >= {"detections-128.json", "detections-128-tiles.json", "detections-128-resize.json"}
    found = json.loads((tmp_path / "detections-128-resize.json").read_text())
    assert {one["image_id"] for one in found} == {
        one["image_id"] for one in json.loads((tmp_path / "detections-64.json").read_text())
    }
    curve = read_curve(tmp_path, type(rows[0]), json.loads((tmp_path / "eval.json").read_text()))
    assert {label: list(points) for label, points in curve.baselines.items()} == {
        "in tiles of 64 px": [64, 128],
        "resized to 64 px": [32, 128],
    }


@pytest.mark.full  # by default one image is detected in tiles
def test_tiles_of_a_batch_are_those_of_each_image(saved, place, tmp_path):
    """Tiles have no padding, so a batch changes nothing."""
    one, two = (
        measure(saved, place, tmp_path / str(size), sizes=(96,), baselines=("tiles",), batch_size=size)
        for size in (1, 2)
    )
    assert one[1].mode == two[1].mode == "tiles"
    assert (one[1].AP, one[1].tokens) == (two[1].AP, two[1].tokens)
