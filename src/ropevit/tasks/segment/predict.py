"""Label the pixels of images of any size, and write the labels as ADE20K does, beside drawings."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from PIL import Image

from ropevit.data.ade_classes import CLASSES_FILE
from ropevit.data.images import to_tensor
from ropevit.data.listing import ImageFile
from ropevit.files import write_atomically
from ropevit.tasks.classify.eval_model import pixel_statistics
from ropevit.tasks.common.drawing import Summary, add_legend, paint_labels, save_png
from ropevit.tasks.segment.base import SegmentationModel
from ropevit.tasks.segment.inference import InferenceConfig, segment, view_size
from ropevit.tasks.segment.model import load_segmenter

#: Folder of the label maps, beside the drawings.
LABELS = "labels"
#: Classes that the line of an image names; its table and legend have all.
NAMED = 5


@dataclass(frozen=True, kw_only=True)
class SegmentationPredictor:
    """A segmenter with all that it takes to label the pixels of images."""

    model: SegmentationModel
    """In evaluation mode."""
    classes: tuple[str, ...]
    """Names, in the order of the scores."""
    short: int
    """Most pixels of the shorter side that images are resized to."""
    long: int
    """Most pixels of their longer side."""
    mean: tuple[float, ...]
    """Mean of each channel, for pixels from 0 to 1."""
    std: tuple[float, ...]
    """Spread of each channel."""
    inference: InferenceConfig

    def label(self, image: Image.Image) -> Int[np.ndarray, "H W"]:
        """Give the class of each pixel of an RGB image, from 0."""
        height, width = (max(1, side) for side in view_size((image.height, image.width), self.short, self.long))
        view = to_tensor(image.resize((width, height), Image.Resampling.BILINEAR), self.mean, self.std)
        view = view[None].to(next(self.model.parameters()).device)
        return segment(self.model.logits, [view], (image.height, image.width), self.inference)[0].cpu().numpy()


def open_labeller(path: Path | str, size: int | None, device: torch.device) -> SegmentationPredictor:
    """Load a segmenter that a training left, to label pixels as it was measured.

    Args:
        path: Its file.
        size: Most pixels of the shorter side; None takes that of the training's measurements.
        device: Where it runs.

    Raises:
        WeightsError: If it is no segmenter of ours.
        ValueError: If the size is not positive, or the file does not say how it was measured.
    """
    if size is not None and size < 1:
        raise ValueError(f"got size={size}; expected the shorter side in pixels, 1 or more")
    model, info = load_segmenter(path)
    short, long, inference = measured(info.metadata, str(path))
    return SegmentationPredictor(
        model=model.to(device).eval(),
        classes=tuple(info.classes),
        short=size or short,
        long=round(long * (size or short) / short),
        **pixel_statistics(info.metadata, 3, str(path)),
        inference=inference,
    )


def measured(facts: Mapping[str, Any], source: str) -> tuple[int, int, InferenceConfig]:
    """Read how a training measured: at which short and long side, and in which windows and views."""
    try:
        return facts["test_short"], facts["test_long"], InferenceConfig(**facts["inference"])
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{source} does not say how it was measured (test_short, test_long, inference); "
            "take a file that a training wrote"
        ) from error


@dataclass
class LabelFolder:
    """Writes a drawing and a label map of each image.

    Args:
        labeller: What labels pixels.
        out: Where to write; see `check_out`.
    """

    labeller: SegmentationPredictor
    out: Path

    def take(self, number: int, file: ImageFile, name: str, image: Image.Image) -> Summary:  # noqa: ARG002
        """Label an image, and write both.

        Args:
            number: The file's number in the list.
            file: Where the image is from.
            name: Name of the drawing and of the label map.
            image: As `read_image` gives it.
        """
        labels, classes = self.labeller.label(image), self.labeller.classes
        save_png(self.out / LABELS / name, label_map(labels, len(classes)))
        found = shares(labels)
        legend = [(label, f"{classes[label]} {percent(share)}") for label, share in found]
        save_png(self.out / name, add_legend(paint_labels(image, labels), legend))
        return summary(found, classes)

    def close(self) -> str:
        """Write the names of the classes, that of label 1 first, and name what was written besides the drawings."""
        text = "".join(f"{name}\n" for name in self.labeller.classes)
        write_atomically(self.out / CLASSES_FILE, lambda file: file.write(text.encode()))
        return f"{LABELS}/ and {CLASSES_FILE}"


def open_predictor(path: str, out: Path, device: torch.device, *, size: int | None = None) -> LabelFolder:
    """Load a segmenter, and write its predictions to a folder; arguments as of `open_labeller`."""
    return LabelFolder(open_labeller(path, size, device), out)


def label_map(labels: Int[np.ndarray, "H W"], classes: int) -> Image.Image:
    """Make an image of labels that counts classes from 1 as ADE20K does: a byte a pixel, two above 255 classes."""
    return Image.fromarray((labels + 1).astype(np.uint8 if classes <= 255 else np.uint16))


def shares(labels: Int[np.ndarray, "H W"]) -> list[tuple[int, float]]:
    """Give each class that there is with its share of the pixels, the largest first."""
    counts = np.bincount(labels.ravel())
    order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    return [(int(label), float(counts[label] / labels.size)) for label in order]


def percent(share: float) -> str:
    """Write a share; a class that there is has more than nothing."""
    return f"{share:.0%}" if share >= 0.005 else "<1%"


def summary(found: list[tuple[int, float]], classes: tuple[str, ...]) -> Summary:
    """Say what was found."""
    words = [f"{classes[label]} {percent(share)}" for label, share in found[:NAMED]]
    rest = [f"{len(found) - NAMED} more"] if len(found) > NAMED else []
    rows = [(classes[label], f"{share:.1%}") for label, share in found]
    return Summary(", ".join(words + rest), ("class", "pixels"), rows)
