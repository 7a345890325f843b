import json
from dataclasses import asdict, replace

import pytest
import torch
from PIL import Image
from torch import nn

from ropevit.data.coco import open_coco
from ropevit.data.imagenet import MEAN, STD
from ropevit.data.listing import ImageFile
from ropevit.painting import class_color
from ropevit.tasks.detect.augment import eval_transform
from ropevit.tasks.detect.batches import eval_reader, normalize
from ropevit.tasks.detect.boxes import Predictions
from ropevit.tasks.detect.dino import Output
from ropevit.tasks.detect.model import Detector, save_detector
from ropevit.tasks.detect.predict import DetectionFolder, DetectionOptions, load_detection_predictor
from ropevit.tasks.detect.recipes import find_recipe
from tasks.detect.generated import write_images

CPU = torch.device("cpu")
CLASSES = ["disc", "square", "triangle"]
FACTS = {"category_ids": [1, 3, 90], "mean": MEAN, "std": STD, "test_side": 64, "longest": 80}
#: Queries of the stub: a square on the left half, sure; a triangle, less so; next to nothing.
BOXES = [[0.25, 0.5, 0.5, 1.0], [0.6, 0.5, 0.2, 0.4], [0.5, 0.5, 0.1, 0.1]]
LOGITS = [[-9.0, 2.0, -9.0], [-9.0, -9.0, 0.5], [-3.0, -9.0, -9.0]]


class Stub(Detector):
    """Finds the same in all images, and keeps what it saw."""

    def __init__(self):
        nn.Module.__init__(self)

    def forward(self, images, sizes):
        self.images, self.sizes = images, sizes
        found = Predictions(torch.tensor([LOGITS]), torch.tensor([BOXES]))
        return Output([found], found, [], None)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The file of a small detector."""
    path = tmp_path_factory.mktemp("detector") / "best.safetensors"
    config = find_recipe("detect/dino_smoke").model
    torch.manual_seed(0)
    save_detector(path, Detector(config, 3), config, CLASSES, FACTS)
    return path


@pytest.fixture
def stubbed(saved):
    """Return a finder whose model is a stub."""
    return lambda **options: replace(load_detection_predictor(saved, DetectionOptions(**options), CPU), model=Stub())


@pytest.mark.parametrize(("size", "seen"), [(None, (53, 80)), (32, (27, 40)), (200, (167, 250))])
def test_boxes_are_in_image_pixels_at_any_input_size(stubbed, tmp_path, size, seen):
    finder = stubbed(size=size)
    folder = DetectionFolder(finder, tmp_path)
    folder.take(4, ImageFile(tmp_path / "a.jpg", "in/a.jpg"), "in/a.png", Image.new("RGB", (300, 200)))
    assert finder.model.sizes == [seen], "the longest side keeps its ratio to the shorter"
    assert folder.close() == "detections.json"
    found = json.loads((tmp_path / "detections.json").read_text())
    place = {"image_id": 4, "file_name": "in/a.jpg"}
    square = {"category_id": 3, "category": "square", "bbox": [0.0, 0.0, 150.0, 200.0]}
    triangle = {"category_id": 90, "category": "triangle", "bbox": [150.0, 60.0, 60.0, 80.0]}
    assert [{key: one[key] for key in one if key != "score"} for one in found] == [place | square, place | triangle]
    assert [one["score"] for one in found] == pytest.approx([0.8808, 0.6225], abs=1e-4)


def test_detections_are_drawn_in_class_colors(stubbed, tmp_path):
    summary = DetectionFolder(stubbed(), tmp_path).take(
        1, ImageFile(tmp_path, "a"), "a.png", Image.new("RGB", (800, 600))
    )
    with Image.open(tmp_path / "a.png") as drawing:
        assert drawing.getpixel((399, 300)) == class_color(1)
        assert drawing.getpixel((400, 300)) == class_color(2)
        assert drawing.getpixel((559, 300)) == class_color(2)
        assert drawing.height > 600, "with a legend"
    assert summary.line == "1 square, 1 triangle"
    assert summary.rows[0] == ("square", "0.881", "0", "0", "400", "600")


def test_highest_scoring_objects_above_the_threshold_are_kept(stubbed):
    image = Image.new("RGB", (300, 200))
    assert stubbed(threshold=0.7).detect(image).labels.tolist() == [1]
    assert stubbed(threshold=0.0, top=3).detect(image).labels.tolist() == [1, 2, 0]
    assert stubbed(top=1).detect(image).labels.tolist() == [1]
    assert not len(stubbed(threshold=1.0).detect(image).labels)


def test_preprocessing_equals_that_of_the_evaluation(stubbed, tmp_path):
    source = open_coco(write_images(tmp_path), "val", keep_empty=True)
    finder, (image, _) = stubbed(), source.read(2)
    finder.detect(image)
    batch = eval_reader(source, eval_transform(64, 80)).__getitems__([2])
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (MEAN, STD))
    assert torch.equal(finder.model.images, normalize(batch, mean, std))
    assert finder.model.sizes == batch.sizes


@pytest.mark.parametrize("size", [(1, 1), (900, 2), (3, 700)])
def test_detector_accepts_images_of_any_shape(saved, size):
    finder = load_detection_predictor(saved, DetectionOptions(threshold=0, top=5), CPU)
    found = finder.detect(Image.new("RGB", size))
    assert not finder.model.training
    assert len(found.scores) == 5
    assert (found.boxes[:, 2:] <= torch.tensor(size)).all()


def test_no_detections_are_reported(stubbed, tmp_path):
    folder = DetectionFolder(stubbed(threshold=0.99), tmp_path)
    assert folder.take(1, ImageFile(tmp_path, "a"), "a.png", Image.new("RGB", (500, 400))).line == "nothing"
    folder.close()
    assert json.loads((tmp_path / "detections.json").read_text()) == []
    with Image.open(tmp_path / "a.png") as drawing:
        assert drawing.size == (500, 400)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"threshold": 1.2}, "a score from 0 to 1"), ({"top": 0}, "at least 1 detection"), ({"size": 0}, "1 or more")],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DetectionOptions(**options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_side": None}, "has no test_side"),
        ({"longest": None}, "has no longest"),
        ({"category_ids": [1]}, "a category id for each class"),
    ],
)
def test_file_without_preprocessing_metadata_is_refused(tmp_path, changes, message):
    config = find_recipe("detect/dino_smoke").model
    save_detector(tmp_path / "a.safetensors", Detector(config, 3), config, CLASSES, FACTS | changes)
    with pytest.raises(ValueError, match=message):
        load_detection_predictor(tmp_path / "a.safetensors", DetectionOptions(), CPU)
    assert asdict(DetectionOptions()) == {"threshold": 0.3, "top": 100, "size": None, "inference_mode": "whole"}
