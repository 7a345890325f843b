"""Segment images of any size; write label maps as ADE20K does, and colored images."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
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
from ropevit.painting import add_legend, paint_labels
from ropevit.tasks.classify.eval_model import pixel_statistics
from ropevit.tasks.evaluation.inference_modes import InferenceMode
from ropevit.tasks.predictions import Summary, save_png
from ropevit.tasks.segment.base import SegmentationModel
from ropevit.tasks.segment.evaluate import ScalingAdvice, apply_scaling_override
from ropevit.tasks.segment.inference import InferenceConfig, in_tiles, segment, view_size
from ropevit.tasks.segment.model import load_segmenter

#: What to do in `ropevit predict` where RoPE scaling would change nothing.
ADVICE = ScalingAdvice("leave out --scaling", "give --inference-mode whole")

#: Directory of the label maps, beside the colored images.
LABELS = "labels"
#: Maximum number of classes in the line of an image; its table and legend list all.
NAMED = 5


@dataclass(frozen=True, kw_only=True)
class SegmentationPredictor:
    """A segmenter with its pre- and post-processing."""

    model: SegmentationModel
    """In evaluation mode."""
    classes: tuple[str, ...]
    """Names, in the order of the logits."""
    short: int
    """Maximum of the shorter side, in pixels."""
    long: int
    """Maximum of the longer side, in pixels."""
    mean: tuple[float, ...]
    """Mean of each channel, for pixels from 0 to 1."""
    std: tuple[float, ...]
    """Standard deviation of each channel."""
    inference: InferenceConfig
    resize_first: tuple[int, int] | None = None
    """Limits on both sides to which an image is resized before it is resized to `short` and `long`."""
    notes: tuple[str, ...] = ()
    """Lines for the user, such as what `--scaling auto` found."""

    def segment(self, image: Image.Image) -> Int[np.ndarray, "H W"]:
        """Return the class of each pixel of an RGB image, from 0."""
        original, mean, std = (image.height, image.width), self.mean, self.std
        for limits in ([] if self.resize_first is None else [self.resize_first]) + [(self.short, self.long)]:
            height, width = (max(1, side) for side in view_size(original, *limits))
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        view = to_tensor(image, mean, std)[None].to(next(self.model.parameters()).device)
        return segment(self.model.logits, [view], original, self.inference)[0].cpu().numpy()


def load_segmentation_predictor(
    path: Path | str,
    size: int | None,
    device: torch.device,
    mode: InferenceMode | None = None,
    scaling: str | None = None,
) -> SegmentationPredictor:
    """Load a trained segmenter with the preprocessing of its evaluation.

    Args:
        path: Its file.
        size: Limit on the shorter side in pixels; None takes that of the training's evaluation.
        device: Where it runs.
        mode: How an image of that size is predicted; None takes the file's settings, whole images or sliding windows.
        scaling: RoPE scaling methods, `none`, or `auto` (what `ropevit tune-scaling` chose for these weights).

    Raises:
        WeightsError: If it is not a segmenter file.
        ValueError: If the size is not positive, its metadata lack the preprocessing, or scaling would change nothing.
    """
    if size is not None and size < 1:
        raise ValueError(f"got size={size}; expected the shorter side in pixels, 1 or more")
    model, info = load_segmenter(path)
    short, long, inference = _stored_evaluation(info.metadata, str(path))
    limits = size or short, round(long * (size or short) / short)
    first, limits = (limits, (short, long)) if mode == "resize" else (None, limits)
    inference = _inference_by(mode, inference, short)
    _, tuned = apply_scaling_override(model, info, scaling, inference.window, str(path), ADVICE)
    return SegmentationPredictor(
        model=model.to(device).eval(),
        classes=tuple(info.classes),
        short=limits[0],
        long=limits[1],
        **pixel_statistics(info.metadata, 3, str(path)),
        inference=inference,
        resize_first=first,
        notes=() if tuned is None else (tuned.describe(),),
    )


def _inference_by(mode: InferenceMode | None, stored: InferenceConfig, side: int) -> InferenceConfig:
    """Return the settings of an inference mode: those of the file for none and after a resize; tiles have `side`."""
    if mode == "tiles":
        return in_tiles(stored, side)
    return replace(stored, window=None) if mode == "whole" else stored


def _stored_evaluation(metadata: Mapping[str, Any], source: str) -> tuple[int, int, InferenceConfig]:
    """Read the settings of the training's evaluation: limits on both sides, and the inference settings."""
    try:
        return metadata["test_short"], metadata["test_long"], InferenceConfig(**metadata["inference"])
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{source} lacks the settings of its evaluation (test_short, test_long, inference); "
            "give a file that a training saved"
        ) from error


@dataclass
class LabelFolder:
    """Writes a colored image and a label map for each image.

    Args:
        labeller: The segmenter.
        out: Output directory; see `check_out`.
    """

    labeller: SegmentationPredictor
    out: Path

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines for the user."""
        return self.labeller.notes

    def take(self, number: int, file: ImageFile, name: str, image: Image.Image) -> Summary:  # noqa: ARG002
        """Segment an image, and write both.

        Args:
            number: The file's number in the list.
            file: Source of the image.
            name: Name of both files.
            image: The image, as `read_image` returns it.
        """
        labels, classes = self.labeller.segment(image), self.labeller.classes
        save_png(self.out / LABELS / name, label_map(labels, len(classes)))
        found = class_fractions(labels)
        legend = [(label, f"{classes[label]} {_format_percent(share)}") for label, share in found]
        save_png(self.out / name, add_legend(paint_labels(image, labels), legend))
        return summary(found, classes)

    def close(self) -> str:
        """Write the class names, that of label 1 first, and return the names of the other outputs."""
        text = "".join(f"{name}\n" for name in self.labeller.classes)
        write_atomically(self.out / CLASSES_FILE, lambda file: file.write(text.encode()))
        return f"{LABELS}/ and {CLASSES_FILE}"


def open_predictor(
    path: str,
    out: Path,
    device: torch.device,
    *,
    size: int | None = None,
    inference_mode: InferenceMode | None = None,
    scaling: str | None = None,
) -> LabelFolder:
    """Load a segmenter, and write its predictions to a folder; arguments as of `load_segmentation_predictor`."""
    return LabelFolder(load_segmentation_predictor(path, size, device, inference_mode, scaling), out)


def label_map(labels: Int[np.ndarray, "H W"], classes: int) -> Image.Image:
    """Return labels as an image that counts classes from 1, as ADE20K does: 8 bits, or 16 above 255 classes."""
    return Image.fromarray((labels + 1).astype(np.uint8 if classes <= 255 else np.uint16))


def class_fractions(labels: Int[np.ndarray, "H W"]) -> list[tuple[int, float]]:
    """Return the classes in the image with their fractions of the pixels, largest first."""
    counts = np.bincount(labels.ravel())
    order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    return [(int(label), float(counts[label] / labels.size)) for label in order]


def _format_percent(share: float) -> str:
    """Format a fraction as percent; nonzero values below 0.5 % print as <1%."""
    return f"{share:.0%}" if share >= 0.005 else "<1%"


def summary(found: list[tuple[int, float]], classes: tuple[str, ...]) -> Summary:
    """Summarize a segmentation in a line and a table."""
    words = [f"{classes[label]} {_format_percent(share)}" for label, share in found[:NAMED]]
    rest = [f"{len(found) - NAMED} more"] if len(found) > NAMED else []
    rows = [(classes[label], f"{share:.1%}") for label, share in found]
    return Summary(", ".join(words + rest), ("class", "pixels"), rows)
