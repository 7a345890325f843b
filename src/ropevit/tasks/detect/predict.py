"""Find objects in images of any size, draw them, and write them down as COCO does."""

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
from ropevit.tasks.classify.eval_model import pixel_statistics
from ropevit.tasks.common.drawing import Annotation, Summary, add_legend, paint_boxes, save_png
from ropevit.tasks.detect.augment import eval_transform
from ropevit.tasks.detect.batches import collate, normalise, prepare
from ropevit.tasks.detect.model import Detector, load_detector
from ropevit.tasks.detect.postprocess import Detections, to_detections

#: File with everything that was found, in the format of COCO's results.
RESULTS = "detections.json"


@dataclass(frozen=True, kw_only=True)
class DetectionOptions:
    """Which objects are wanted.

    Raises:
        ValueError: If a field is out of range.
    """

    threshold: float = 0.3
    """Least score, from 0 to 1."""
    top: int = 100
    """Most objects of an image."""
    size: int | None = None
    """Shorter side in pixels that images are resized to; None takes that of the training's measurements."""

    def __post_init__(self):
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"got threshold={self.threshold}; expected a score from 0 to 1")
        if self.top < 1:
            raise ValueError(f"got top={self.top}; expected at least 1 object an image")
        if self.size is not None and self.size < 1:
            raise ValueError(f"got size={self.size}; expected the shorter side in pixels, 1 or more")


@dataclass(frozen=True, kw_only=True)
class DetectionPredictor:
    """A detector with all that it takes to find objects in images."""

    model: Detector
    """In evaluation mode."""
    classes: tuple[str, ...]
    """Names, in the order of the logits."""
    category_ids: tuple[int, ...]
    """Id of each class in the data set that it learned from."""
    short: int
    """Shorter side in pixels that images are resized to."""
    longest: int
    """Longest that their longer side may become."""
    mean: Tensor
    """Mean of each channel (3, 1, 1), for pixels from 0 to 1, on the model's device."""
    std: Tensor
    """Spread of each channel (3, 1, 1)."""
    config: DetectionOptions

    @torch.inference_mode()
    def find(self, image: Image.Image) -> Detections:
        """Find objects in an RGB image, the surest first, in pixels of the image."""
        nothing = Boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), 0)
        transform = eval_transform(self.short, self.longest)
        batch = collate([prepare(thicken(image, self.longest), nothing, transform, len(self.classes))], [])
        output = self.model(normalise(batch, self.mean, self.std), batch.sizes)
        found = to_detections(output.layers[-1], [(image.height, image.width)], self.config.top)[0]
        count = int((found.scores >= self.config.threshold).sum())
        return Detections(*(each[:count].cpu() for each in (found.scores, found.labels, found.boxes)))


def open_finder(path: Path | str, config: DetectionOptions, device: torch.device) -> DetectionPredictor:
    """Load a detector that a training left, to find objects as it was measured.

    Raises:
        WeightsError: If it is no detector of ours.
        ValueError: If it does not say how it was measured.
    """
    model, info = load_detector(path)
    facts = info.metadata
    side, longest = (number(facts, name, str(path)) for name in ("test_side", "longest"))
    short = config.size or side
    if len(facts.get("category_ids", ())) != len(info.classes):
        raise ValueError(f"{path} does not give a category id to each class; take a file that a training wrote")
    look = pixel_statistics(facts, 3, str(path))
    return DetectionPredictor(
        model=model.to(device).eval(),
        classes=tuple(info.classes),
        category_ids=tuple(facts["category_ids"]),
        short=short,
        longest=max(short, round(longest * short / side)),
        mean=torch.tensor(look["mean"], device=device).view(3, 1, 1),
        std=torch.tensor(look["std"], device=device).view(3, 1, 1),
        config=config,
    )


def thicken(image: Image.Image, longest: int) -> Image.Image:
    """Stretch an image that is so thin that nothing would be left of it when its longer side has `longest` pixels."""
    least = max(image.size) // longest + 1
    width, height = (max(side, least) for side in image.size)
    return image if (width, height) == image.size else image.resize((width, height))


def number(facts: Mapping[str, Any], name: str, source: str) -> int:
    """Read a length that a training wrote into its files.

    Raises:
        ValueError: If it is not there.
    """
    if not isinstance(facts.get(name), int):
        raise ValueError(f"{source} does not say {name}, at which size it was measured; take a file of a training")
    return facts[name]


@dataclass
class DetectionFolder:
    """Writes a drawing of each image, and the detections of all of them.

    Args:
        finder: What finds objects.
        out: Where to write; see `check_out`.
    """

    finder: DetectionPredictor
    out: Path
    results: list[dict[str, Any]] = field(default_factory=list)

    def take(self, number: int, file: ImageFile, name: str, image: Image.Image) -> Summary:
        """Find objects in an image, and draw it.

        Args:
            number: The file's number in the list, from 1.
            file: Where the image is from.
            name: Name of the image.
            image: As `read_image` gives it.
        """
        found = self.finder.find(image)
        self.results += coco_results(found, self.finder, number, file.name)
        save_png(self.out / name, draw(image, found, self.finder.classes))
        return summary(found, self.finder.classes)

    def close(self) -> str:
        """Write the detections of all images, and name what was written besides the drawings."""
        text = "[" + ",".join(f"\n{json.dumps(result)}" for result in self.results) + "\n]\n"
        write_atomically(self.out / RESULTS, lambda file: file.write(text.encode()))
        return RESULTS


def open_predictor(
    path: str, out: Path, device: torch.device, *, topk: int = DetectionOptions.top, **options: Any
) -> DetectionFolder:
    """Load a detector, and write its predictions to a folder.

    Args:
        path: Its file.
        out: The folder.
        device: Where it runs.
        topk: Most objects of an image.
        **options: Other fields of `DetectionOptions`.
    """
    return DetectionFolder(open_finder(path, DetectionOptions(top=topk, **options), device), out)


def coco_results(found: Detections, finder: DetectionPredictor, image_id: int, file_name: str) -> list[dict[str, Any]]:
    """Write detections as COCO's results: left, top, width and height in pixels; also the names of file and class."""
    rows = zip(found.scores.tolist(), found.labels.tolist(), found.boxes.tolist(), strict=True)
    return [
        {
            "image_id": image_id,
            "file_name": file_name,
            "category_id": finder.category_ids[label],
            "category": finder.classes[label],
            "bbox": [round(x, 2) for x in (left, top, right - left, bottom - top)],
            "score": round(score, 5),
        }
        for score, label, (left, top, right, bottom) in rows
    ]


def draw(image: Image.Image, found: Detections, classes: tuple[str, ...]) -> Image.Image:
    """Draw what was found, with a legend that counts it."""
    rows = zip(found.boxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True)
    marks = [Annotation(tuple(box), label, f"{classes[label]} {score:.2f}") for box, label, score in rows]
    entries = [(label, f"{classes[label]} {count}") for label, count in counted(found)]
    return add_legend(paint_boxes(image, marks), entries)


def counted(found: Detections) -> list[tuple[int, int]]:
    """Count the objects of each class that there is, the most frequent first."""
    return Counter(found.labels.tolist()).most_common()


def summary(found: Detections, classes: tuple[str, ...]) -> Summary:
    """Say what was found."""
    line = ", ".join(f"{count} {classes[label]}" for label, count in counted(found)) or "nothing"
    pairs = zip(found.scores.tolist(), found.labels.tolist(), found.boxes.tolist(), strict=True)
    rows = [(classes[label], f"{score:.3f}", *(f"{x:.0f}" for x in box)) for score, label, box in pairs]
    return Summary(line, ("class", "score", "left", "top", "right", "bottom"), rows)
