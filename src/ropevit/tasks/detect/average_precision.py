"""COCO average precision of detections."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from ropevit.data.coco import boxes_of, read_coco
from ropevit.extras import require
from ropevit.tasks.detect.postprocess import Detections

#: COCO's twelve scores in its own order: average precision over IoU of 0.50 to 0.95, at 0.50, at 0.75, of small,
#: medium and large objects; average recall with 1, 10 and 100 detections per image, and of the three sizes.
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")

#: Detections one below another: image id, left, top, width and height in pixels, score, category id.
Rows = Float64[np.ndarray, "_ 7"]


def result_rows(image_id: int, found: Detections, category_ids: Sequence[int]) -> Rows:
    """Convert the detections in an image to rows for the COCO evaluator.

    Args:
        image_id: The image's id in the annotation file.
        found: Its detections, in pixels of the original image.
        category_ids: Category id of each label, from `CocoSource`.
    """
    boxes, labels = found.boxes.double().cpu().numpy(), found.labels.cpu().numpy()
    ids = np.asarray(category_ids, dtype=np.float64)[labels]
    scores = found.scores.double().cpu().numpy()
    images = np.full(len(boxes), image_id, dtype=np.float64)
    return np.column_stack([images, boxes[:, :2], boxes[:, 2:] - boxes[:, :2], scores, ids])


@dataclass(frozen=True)
class CocoScores:
    """COCO scores of a detector, in percent."""

    scores: dict[str, float]
    """Score of each of `NAMES`; object sizes without objects are missing."""
    classes: dict[int, float]
    """AP of each class by its category id; NaN for classes without objects."""


def average_precision(annotations: Path, rows: Rows) -> CocoScores:
    """Evaluate detections against all images of an annotation file.

    Crowds are handled as in COCO: detections inside one are ignored. An annotation without `iscrowd` is not a crowd;
    one without an area has that of its box.

    Args:
        annotations: Annotation file, such as `source.annotations`.
        rows: Detections of all images, from `result_rows`.

    Raises:
        MissingExtraError: If faster-coco-eval is not installed.
        ValueError: If the annotation file cannot be read or has no objects.

    Source: Lin et al. 2014 (arXiv:1405.0312), with the parameters of the COCO detection challenge.
    """
    package = require("faster_coco_eval", "dense")
    truth = package.COCO(_complete_annotations(annotations))
    evaluator = package.COCOeval_faster(truth, truth.loadRes(rows), "bbox", print_function=discard_output)
    evaluator.run()
    scores = dict(zip(NAMES, (float(value) for value in evaluator.stats[: len(NAMES)]), strict=True))
    if scores["AP"] < 0:
        raise ValueError(f"{annotations} has no objects; there is nothing to evaluate")
    return CocoScores({name: 100 * score for name, score in scores.items() if score >= 0}, class_precision(evaluator))


def class_precision(evaluator: Any) -> dict[int, float]:
    """Return the AP of each category in percent: over all IoU thresholds and object sizes, with 100 detections."""
    precision = evaluator.eval["precision"][:, :, :, 0, -1]  # (IoU, recall, class); -1 where there are no objects
    means = [100 * float(each.mean()) if each.min() >= 0 else float("nan") for each in np.moveaxis(precision, 2, 0)]
    return dict(zip(map(int, evaluator.params.catIds), means, strict=True))


def coco_results(rows: Rows) -> bytes:
    """Return detections as a JSON file in the COCO results format, as pycocotools reads it."""
    return json.dumps(
        [
            {"image_id": int(image), "category_id": int(category), "bbox": box, "score": score}
            for image, *box, score, category in rows.tolist()
        ]
    ).encode()


def _complete_annotations(annotations: Path) -> dict[str, Any]:
    """Read an annotation file, and fill in the optional fields that the evaluator needs.

    Annotations are numbered from 1, as the evaluator reads the id 0 as "no match".

    Raises:
        ValueError: If the file is not a COCO annotation file.
    """
    file = read_coco(annotations)
    boxes_of(file)  # checks the boxes
    return {
        "images": [{key: image[key] for key in ("id", "height", "width")} for image in file.images.values()],
        "categories": [{"id": category, "name": name} for category, name in file.categories.items()],
        "annotations": [
            {
                "id": number,
                "image_id": one["image_id"],
                "category_id": one["category_id"],
                "bbox": one["bbox"],
                "iscrowd": int(one.get("iscrowd") or 0),
                "area": one["bbox"][2] * one["bbox"][3] if one.get("area") is None else one["area"],
            }
            for number, one in enumerate(file.annotations, 1)
        ],
    }


def discard_output(*_: object) -> None:
    """Discard the text that the evaluator prints."""
