"""Choice of a scaling method for segmenters: counts the pixels of each class in each image with each."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ropevit.data.subset import ImageSubset
from ropevit.extras import require
from ropevit.models.rotary import set_scaling
from ropevit.rope.scaling import parse_override
from ropevit.tasks.evaluation.loop import EvalContext
from ropevit.tasks.evaluation.passes import Codec
from ropevit.tasks.evaluation.results import hash_weights
from ropevit.tasks.evaluation.scaling_search import NONE
from ropevit.tasks.evaluation.tune_scaling import TuneConfig, TuneTarget
from ropevit.tasks.registry import TASKS
from ropevit.tasks.segment.base import SegmentationModel
from ropevit.tasks.segment.confusion_matrix import count_pixels, read
from ropevit.tasks.segment.evaluate import (
    ScalingAdvice,
    SegmenterInputs,
    SegmenterOptions,
    hash_files,
    open_inputs,
    scaling_grid,
    settings_at,
)
from ropevit.tasks.segment.mean_iou import decode_pixels, encode_pixels, mean_iou

#: What to do in `ropevit tune-scaling` where RoPE scaling would change nothing.
ADVICE = ScalingAdvice("give such a segmenter", "give --whole")


def open_target(config: TuneConfig, context: EvalContext) -> TuneTarget:
    """Open a segmenter and its images.

    Raises:
        ValueError: If an option is for classifiers, the model has no RoPE or attends in windows, or a size is not above
            that of its training.
    """
    context.config.check(TASKS["segment"])
    if config.protocol is not None or config.crop_pct is not None:
        raise ValueError("got --protocol or --crop-pct with a segmenter; they are for classifiers: leave them out")
    require("transformers", "dense")
    inputs, path, name = open_inputs(context, SegmenterOptions(whole=config.whole))
    if inputs.info.config.body_config().rope is None:
        raise ValueError(
            f"got {name} with the position embedding {inputs.info.config.position}; RoPE scaling needs a model with "
            "RoPE"
        )
    crop_grid = scaling_grid(inputs.info, "tune-scaling", inputs.inference.window, ADVICE)
    crop = inputs.info.metadata["crop"]
    if min(config.sizes) <= crop:
        raise ValueError(
            f"got size {min(config.sizes)} for a segmenter trained on crops of {crop} px; RoPE scaling is for larger "
            f"sizes, such as {2 * crop}"
        )
    inputs.model.to(context.device)
    classes = len(inputs.source.classes)
    return TuneTarget(
        name=name,
        weights=str(path),
        fingerprint=hash_weights(inputs.model.state_dict()),
        source=inputs.source,
        count=ClassPixels(inputs, crop_grid),
        codec=Codec(encode_pixels, lambda lines: decode_pixels(lines, classes)),
        score=mean_iou,
        baseline=NONE,
        settings=_settings(inputs),
        verbs=("eval", "predict"),
    )


def _settings(inputs: SegmenterInputs) -> dict[str, Any]:
    """Return the settings of the passes: the names of images and classes, and how images are predicted."""
    inference, metadata = inputs.inference, inputs.info.metadata
    return {
        "annotations": hash_files(inputs.source)[:16],
        "window": inference.window,
        "stride": inference.stride,
        "flip": inference.flip,
        "test_short": metadata["test_short"],
        "test_long": metadata["test_long"],
    }


class ClassPixels:
    """Counts the correct, predicted and true pixels (M, n, K, 3) of each class in each image.

    Args:
        inputs: Model and data.
        grid: Rows and columns of the training crops in patches, the reference of scaling.
    """

    def __init__(self, inputs: SegmenterInputs, grid: tuple[int, int]):
        self.inputs, self.grid = inputs, grid

    def __call__(
        self, size: int, scalings: Sequence[str], images: ImageSubset, progress: Callable[[int], None]
    ) -> Tensor:
        """Read the images once, and segment each with every method."""
        model, classes, settings = self.inputs.model, len(images.classes), settings_at(size, self.inputs)
        assert isinstance(model, SegmentationModel)
        counts = torch.zeros(len(scalings), len(images), classes, 3, dtype=torch.int64)
        for number, image in enumerate(read(images, settings)):
            for row, scaling in enumerate(scalings if image.views else ()):
                set_scaling(model, parse_override(scaling), trained_grid=self.grid)
                found = count_pixels(model, image, settings, classes).long()
                counts[row, number] = torch.stack([found.diagonal(), found.sum(0), found.sum(1)], 1)
            progress(number + 1)
        return counts
