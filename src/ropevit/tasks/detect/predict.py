"""Detect objects in images of any size; write annotated images and COCO results."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ropevit.data.coco import Boxes
from ropevit.data.listing import ImageFile
from ropevit.files import write_atomically
from ropevit.painting import Annotation, add_legend, paint_boxes
from ropevit.tasks.classify.eval_model import pixel_statistics
from ropevit.tasks.detect.augment import eval_transform
from ropevit.tasks.detect.batches import collate, prepare
from ropevit.tasks.detect.model import Detector, load_detector
from ropevit.tasks.detect.postprocess import Detections
from ropevit.tasks.detect.tiles import detect_batch
from ropevit.tasks.evaluation.inference_modes import InferenceMode
from ropevit.tasks.predictions import Summary, save_png

#: File with all detections, in COCO's format for results.
RESULTS = "detections.json"


@dataclass(frozen=True, kw_only=True)
class DetectionOptions:
    """Options of a detector's predictions.

    Raises:
        ValueError: If a field is out of range.
    """

    threshold: float = 0.3
    """Minimum score, from 0 to 1."""
    top: int = 100
    """Maximum number of objects per image."""
    size: int | None = None
    """Shorter side to which images are resized, in pixels; None takes the test size of the training."""
    inference_mode: InferenceMode = "whole"
    """Inference mode for images of that size: whole, in tiles of the training size, or after a resize to it."""

    def __post_init__(self):
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"got threshold={self.threshold}; expected a score from 0 to 1")
        if self.top < 1:
            raise ValueError(f"got top={self.top}; expected at least 1 detection per image")
        if self.size is not None and self.size < 1:
            raise ValueError(f"got size={self.size}; expected the shorter side in pixels, 1 or more")


@dataclass(frozen=True, kw_only=True)
class DetectionPredictor:
    """A detector with its preprocessing and postprocessing."""

    model: Detector
    """In evaluation mode."""
    classes: tuple[str, ...]
    """Names of the classes, in the order of the logits."""
    category_ids: tuple[int, ...]
    """Category id of each class in the training data."""
    short: int
    """Shorter side to which images are resized, in pixels."""
    longest: int
    """Maximum length of the longer side."""
    trained: tuple[int, int]
    """Both, in the evaluation of the training."""
    mean: Tensor
    """Mean of each channel (3, 1, 1), for pixels from 0 to 1, on the model's device."""
    std: Tensor
    """Standard deviation of each channel (3, 1, 1)."""
    config: DetectionOptions

    @torch.inference_mode()
    def detect(self, image: Image.Image) -> Detections:
        """Detect objects in an RGB image, sorted by score, with boxes in pixels of the image."""
        nothing = Boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), 0)
        limits = self.short, self.longest
        steps = (
            [self.trained, limits] if self.config.inference_mode == "resize" else [limits]
        )  # resized to the limits first, then to the training size
        wide = _widen_thin_image(image, min(longest for _, longest in steps))
        sample = prepare(wide, nothing, eval_transform(*steps[0], *steps[1:]), len(self.classes))
        batch = collate([sample._replace(original=(image.height, image.width))], [])
        tile = self.trained[0] if self.config.inference_mode == "tiles" else None
        found = detect_batch(self.model, batch, self.mean, self.std, top=self.config.top, tile=tile)[0]
        count = int((found.scores >= self.config.threshold).sum())
        return Detections(*(each[:count].cpu() for each in (found.scores, found.labels, found.boxes)))


def load_detection_predictor(path: Path | str, config: DetectionOptions, device: torch.device) -> DetectionPredictor:
    """Load a trained detector with the preprocessing of its evaluation.

    Raises:
        WeightsError: If it is not a ropevit detector.
        ValueError: If its metadata lack the preprocessing.
    """
    model, info = load_detector(path)
    facts = info.metadata
    side, longest = (_stored_length(facts, name, str(path)) for name in ("test_side", "longest"))
    short = config.size or side
    if len(facts.get("category_ids", ())) != len(info.classes):
        raise ValueError(f"{path} does not have a category id for each class; give a file written by a training")
    statistics = pixel_statistics(facts, 3, str(path))
    return DetectionPredictor(
        model=model.to(device).eval(),
        classes=tuple(info.classes),
        category_ids=tuple(facts["category_ids"]),
        short=short,
        longest=max(short, round(longest * short / side)),
        trained=(side, longest),
        mean=torch.tensor(statistics["mean"], device=device).view(3, 1, 1),
        std=torch.tensor(statistics["std"], device=device).view(3, 1, 1),
        config=config,
    )


def _widen_thin_image(image: Image.Image, longest: int) -> Image.Image:
    """Widen an image so thin that its shorter side would vanish when the longer one is resized to `longest` pixels."""
    least = max(image.size) // longest + 1
    width, height = (max(side, least) for side in image.size)
    return image if (width, height) == image.size else image.resize((width, height))


def _stored_length(facts: Mapping[str, Any], name: str, source: str) -> int:
    """Read a length in pixels from the metadata.

    Raises:
        ValueError: If it is missing.
    """
    if not isinstance(facts.get(name), int):
        raise ValueError(f"{source} has no {name}, the size of its evaluation; give a file written by a training")
    return facts[name]


@dataclass
class DetectionFolder:
    """Writes an annotated copy of each image, and a JSON file with the detections in all of them.

    Args:
        predictor: The detector.
        out: Output directory; see `check_out`.
    """

    predictor: DetectionPredictor
    out: Path
    results: list[dict[str, Any]] = field(default_factory=list)

    def take(self, number: int, file: ImageFile, name: str, image: Image.Image) -> Summary:
        """Detect objects in an image, and draw them.

        Args:
            number: The file's number in the list, from 1.
            file: Source of the image.
            name: Name of the annotated image.
            image: The image, as `read_image` returns it.
        """
        found = self.predictor.detect(image)
        self.results += coco_entries(found, self.predictor, number, file.name)
        save_png(self.out / name, _draw_detections(image, found, self.predictor.classes))
        return summary(found, self.predictor.classes)

    def close(self) -> str:
        """Write the detections of all images, and return the name of that file."""
        text = "[" + ",".join(f"\n{json.dumps(result)}" for result in self.results) + "\n]\n"
        write_atomically(self.out / RESULTS, lambda file: file.write(text.encode()))
        return RESULTS


def open_predictor(
    path: str, out: Path, device: torch.device, *, topk: int = DetectionOptions.top, **options: Any
) -> DetectionFolder:
    """Load a detector to write its predictions to a folder.

    Args:
        path: File of the detector.
        out: Output folder.
        device: Device to run on.
        topk: Maximum number of detections per image.
        **options: Other fields of `DetectionOptions`.
    """
    return DetectionFolder(load_detection_predictor(path, DetectionOptions(top=topk, **options), device), out)


def coco_entries(
    found: Detections, predictor: DetectionPredictor, image_id: int, file_name: str
) -> list[dict[str, Any]]:
    """Return detections as COCO results (left, top, width, height in pixels), with the names of file and class."""
    rows = zip(found.scores.tolist(), found.labels.tolist(), found.boxes.tolist(), strict=True)
    return [
        {
            "image_id": image_id,
            "file_name": file_name,
            "category_id": predictor.category_ids[label],
            "category": predictor.classes[label],
            "bbox": [round(x, 2) for x in (left, top, right - left, bottom - top)],
            "score": round(score, 5),
        }
        for score, label, (left, top, right, bottom) in rows
    ]


def _draw_detections(image: Image.Image, found: Detections, classes: tuple[str, ...]) -> Image.Image:
    """Draw detections, with a legend that counts them."""
    rows = zip(found.boxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True)
    marks = [Annotation(tuple(box), label, f"{classes[label]} {score:.2f}") for box, label, score in rows]
    entries = [(label, f"{classes[label]} {count}") for label, count in _count_classes(found)]
    return add_legend(paint_boxes(image, marks), entries)


def _count_classes(found: Detections) -> list[tuple[int, int]]:
    """Count the objects of each class, most frequent first."""
    return Counter(found.labels.tolist()).most_common()


def summary(found: Detections, classes: tuple[str, ...]) -> Summary:
    """Summarize detections in a line and a table."""
    line = ", ".join(f"{count} {classes[label]}" for label, count in _count_classes(found)) or "nothing"
    pairs = zip(found.scores.tolist(), found.labels.tolist(), found.boxes.tolist(), strict=True)
    rows = [(classes[label], f"{score:.3f}", *(f"{x:.0f}" for x in box)) for score, label, box in pairs]
    return Summary(line, ("class", "score", "left", "top", "right", "bottom"), rows)
