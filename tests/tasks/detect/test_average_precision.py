import contextlib
import io
import json

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ropevit.data.coco import open_coco
from ropevit.data.tiny import make_tiny
from ropevit.tasks.detect.average_precision import NAMES, average_precision, result_rows
from ropevit.tasks.detect.boxes import Predictions
from ropevit.tasks.detect.postprocess import Detections, to_detections

IDS = (3, 17, 90)


def box(noise, largest):
    left, top = noise.uniform(0, 300, 2)
    width, height = noise.uniform(4, largest, 2)
    return [left, top, width, height]


def write_truth(path, noise):
    """Write 12 images, two of them empty, with objects of all sizes, some of them crowds."""
    images = [{"id": 40 + 3 * i, "file_name": f"{i}.jpg", "width": 640, "height": 480} for i in range(12)]
    objects = []
    for image in images[2:]:
        for largest in (30, 90, 300, 300):
            found = box(noise, largest)
            category, crowd = int(noise.choice(IDS)), int(noise.random() < 0.2)
            area = 0.7 * found[2] * found[3]
            objects.append({"image_id": image["id"], "category_id": category, "bbox": found, "area": area})
            objects[-1] |= {"iscrowd": crowd, "id": len(objects)}
    content = {"info": {}, "images": images, "annotations": objects}
    content["categories"] = [{"id": number, "name": str(number)} for number in IDS]
    path.write_text(json.dumps(content))
    return content


def guesses(content, noise):
    """Return detections near the objects and anywhere, also in empty images, in each image at most 150."""
    found = {image["id"]: [] for image in content["images"]}
    for one in content["annotations"]:
        for _ in range(3):
            near = np.array(one["bbox"]) * noise.normal(1, 0.08, 4)
            found[one["image_id"]].append((near.tolist(), noise.random(), IDS.index(one["category_id"])))
    for entries in found.values():
        entries += [(box(noise, 200), 0.6 * noise.random(), int(noise.integers(3))) for _ in range(120)]
    return {image_id: as_detections(entries) for image_id, entries in found.items()}


def as_detections(entries):
    boxes = torch.tensor([[x, y, x + w, y + h] for (x, y, w, h), _, _ in entries]).float()
    scores = torch.tensor([score for _, score, _ in entries]).float()
    return Detections(scores, torch.tensor([label for _, _, label in entries]), boxes)


def measured_by_pycocotools(path, rows):
    entries = [
        {"image_id": int(row[0]), "bbox": row[1:5].tolist(), "score": float(row[5]), "category_id": int(row[6])}
        for row in rows
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        judge = COCOeval(truth, truth.loadRes(entries), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge


@pytest.mark.parametrize("seed", [0, 1])
def test_all_twelve_scores_equal_those_of_pycocotools(tmp_path, seed):
    noise = np.random.default_rng(seed)
    content = write_truth(tmp_path / "truth.json", noise)
    assert {one["iscrowd"] for one in content["annotations"]} == {0, 1}
    guessed = guesses(content, noise)
    rows = np.concatenate([result_rows(image_id, each, IDS) for image_id, each in guessed.items()])
    found = average_precision(tmp_path / "truth.json", rows)
    judge, scores = measured_by_pycocotools(tmp_path / "truth.json", rows), found.scores
    assert tuple(scores) == NAMES
    assert len(set(scores.values())) > 9, "the scores differ"
    np.testing.assert_allclose(list(scores.values()), 100 * judge.stats, atol=1e-5)
    by_class = 100 * judge.eval["precision"][:, :, :, 0, -1].mean((0, 1))
    assert list(found.classes) == list(IDS)
    np.testing.assert_allclose(list(found.classes.values()), by_class, atol=1e-5)


@pytest.fixture
def tiny(tmp_path):
    make_tiny("coco", tmp_path / "tiny")
    return open_coco(tmp_path / "tiny", "val", keep_empty=True)


def perfect(source, index):
    """Detect every object of an image, in the detector's format."""
    image, truth = source.read(index)
    whole = torch.tensor([image.width, image.height] * 2)
    corners = torch.from_numpy(truth.boxes) / whole
    boxes = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], dim=1)
    logits = torch.full((1, len(boxes), len(source.classes)), -20.0)
    logits[0, range(len(boxes)), torch.from_numpy(truth.labels)] = 5.0
    found = to_detections(Predictions(logits, boxes[None]), [(image.height, image.width)], top=max(1, len(boxes)))
    return truth.image_id, found[0]


def test_perfect_detections_score_100_and_sizes_without_objects_have_no_score(tiny):
    everything = [perfect(tiny, index) for index in range(len(tiny)) if len(tiny.read(index)[1].labels)]
    rows = np.concatenate([result_rows(image_id, found, tiny.category_ids) for image_id, found in everything])
    scores = average_precision(tiny.annotations, rows).scores
    assert scores["AP"] == scores["AP50"] == scores["APs"] == scores["AR100"] == pytest.approx(100)
    assert {"APm", "APl", "ARl"}.isdisjoint(scores)
    missed = average_precision(tiny.annotations, rows[1:]).scores
    assert 0 < missed["AP"] < 100


def test_no_detections_score_0(tiny):
    assert average_precision(tiny.annotations, np.empty((0, 7))).scores["AP"] == 0


def test_annotations_may_omit_area_and_iscrowd(tiny):
    rows = np.concatenate([result_rows(*perfect(tiny, 0), tiny.category_ids)])
    before = average_precision(tiny.annotations, rows).scores
    content = json.loads(tiny.annotations.read_text())
    for one in content["annotations"]:
        if not one["iscrowd"]:
            del one["iscrowd"], one["area"], one["segmentation"]
    tiny.annotations.write_text(json.dumps(content))
    assert average_precision(tiny.annotations, rows).scores == before


def test_annotation_file_without_objects_is_refused(tiny):
    content = json.loads(tiny.annotations.read_text())
    tiny.annotations.write_text(json.dumps(content | {"annotations": []}))
    with pytest.raises(ValueError, match="has no objects; there is nothing to evaluate"):
        average_precision(tiny.annotations, np.empty((0, 7)))


def test_annotation_ids_and_unknown_keys_do_not_change_the_scores(tmp_path):
    def score(first, **more):
        boxes = [[10 + 30 * number, 10, 20, 20] for number in range(2)]
        objects = [{"id": first + n, "image_id": 0, "category_id": 0, "bbox": b, **more} for n, b in enumerate(boxes)]
        images = [{"id": 0, "file_name": "a.jpg", "height": 100, "width": 100}]
        path = tmp_path / "instances_val2017.json"
        path.write_text(json.dumps({"images": images, "categories": [{"id": 0, "name": "x"}], "annotations": objects}))
        return average_precision(path, np.array([[0, *box, 0.9 - 0.1 * n, 0] for n, box in enumerate(boxes)])).scores[
            "AP"
        ]

    assert score(0) == score(1) == score(-1) == pytest.approx(100)
    assert score(1, area=None, iscrowd=None) == pytest.approx(100)
    assert score(1, ignore=1, score=0.0, drop=True, lvis_mark=True) == pytest.approx(100)
    with pytest.raises(ValueError, match="damaged box"):
        score(1, bbox=[1, 2, 3])
