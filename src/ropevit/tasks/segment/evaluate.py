"""Evaluation of a segmenter at many sizes."""

import hashlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

from ropevit.data.ade import open_ade
from ropevit.extras import require
from ropevit.models.rotary import set_scaling
from ropevit.rope.scaling import parse_override
from ropevit.tasks.common.eval_config import RATIOS, EvalConfig, Flag
from ropevit.tasks.common.evaluation import (
    EvalPlan,
    EvalTimer,
    Report,
    SizeEvaluation,
    distributed,
    evaluate_sizes,
    weights_and_name,
)
from ropevit.tasks.dense.evaluation import (
    EvalInputs,
    check_classes,
    check_metadata,
    identity,
    inference_fields,
    plan_fields,
    size_stats,
)
from ropevit.tasks.dense.model_file import ModelInfo
from ropevit.tasks.registry import TASKS
from ropevit.tasks.segment.base import SegmentationModel
from ropevit.tasks.segment.confusion_matrix import SegmenterSettings, confusion_matrix
from ropevit.tasks.segment.inference import InferenceConfig
from ropevit.tasks.segment.mean_iou import segmentation_scores
from ropevit.tasks.segment.model import SegmentModel, load_segmenter
from ropevit.weights.errors import WeightsError

#: Default sizes over the training's: 256, 384, 512, 768 and 1024 pixels of a segmenter tested at 512.
SIZE_FACTORS = (0.5, 0.75, 1.0, 1.5, 2.0)

#: Metadata that a file must hold.
METADATA = ("mean", "std", "test_short", "test_long", "inference")


@dataclass(frozen=True, kw_only=True)
class SegmenterOptions:
    """Segmenters only.

    Raises:
        ValueError: If a field is out of range.
    """

    whole: Flag = False
    """Predict on whole images, even if the model's file says sliding windows."""
    window: int | None = None
    """Side in pixels of the sliding window, instead of the one in the model's file."""
    stride: int | None = None
    """Stride of the sliding window in pixels, instead of the one in the model's file, or two thirds of --window."""
    flip: Flag = False
    """Test-time augmentation: average with the horizontally flipped image."""
    ratios: Annotated[tuple[float, ...], RATIOS] = ()
    """Test-time augmentation: average over the image at each test size times these ratios."""

    def __post_init__(self):
        if self.whole and (self.window is not None or self.stride is not None):
            raise ValueError("got --whole with --window or --stride; whole images have no windows: leave one out")
        for name in ("window", "stride"):
            if (side := getattr(self, name)) is not None and side < 1:
                raise ValueError(f"got {name}={side}; expected at least 1 pixel")
        if not all(ratio > 0 for ratio in self.ratios) or len(set(self.ratios)) < len(self.ratios):
            raise ValueError(f"got ratios={self.ratios}; expected each above 0, and none twice")


@dataclass(frozen=True, kw_only=True)
class SegmenterResult:
    """A segmenter at one size, with scores in percent."""

    size: int
    """Limit on the shorter side in pixels."""
    long: int
    """Limit on the longer side."""
    mIoU: float  # noqa: N815 (so it is called everywhere)
    """Mean over the classes of pixels both true and predicted of a class over those of either."""
    aAcc: float  # noqa: N815
    """Share of the pixels that are right."""
    mAcc: float  # noqa: N815
    """Mean over the classes of the share of their pixels that are right."""
    images: int
    """Images measured."""
    skipped: int
    """Images left out, as they could not be read."""
    images_per_second: float
    """Of all processes together, reading included."""
    peak_memory_gib: float
    """The most that any process used: of its GPU, or, on a CPU, of the whole process since it started."""

    @property
    def scores(self) -> dict[str, float]:
        """What is shown of the scores, by name."""
        return {"mIoU": self.mIoU, "aAcc": self.aAcc, "mAcc": self.mAcc}

    @property
    def view(self) -> dict[str, int]:
        """How images were brought to the size."""
        return {"long": self.long}


@dataclass(frozen=True, kw_only=True)
class SegmenterInputs(EvalInputs[SegmentModel]):
    """Everything that the evaluation at one size needs."""

    inference: InferenceConfig
    ratios: tuple[float, ...]


def evaluate(config: EvalConfig, report: Report = lambda _: None) -> list[SegmenterResult]:
    """Measure mIoU, aAcc and mAcc at every size, and write them down as they come.

    The size is the limit on the shorter side; that on the longer one grows in proportion to the training's. Images are
    taken one by one, and scored at their original size. Started by `torchrun`, the processes share the images.

    Args:
        config: What, on what and how.
        report: Called with what happens, in the first process alone.

    Returns:
        What was measured, now or before, by size.

    Raises:
        ValueError: If the options, the weights, the data or the directory do not allow it.
    """
    config.check(TASKS["segment"])
    path, name = weights_and_name(config)
    require("transformers", "dense")
    with distributed(config, report) as site:
        model, info = load_segmenter(path)
        check_metadata(info, METADATA, path)
        inference = choose_inference(
            InferenceConfig(**info.metadata["inference"]), config.task_options(SegmenterOptions)
        )
        if (scaling := scaling_override(config)) is not None:
            apply_scaling_override(model, info, scaling, inference.window)
        source = open_ade(config.data, "val")
        check_classes(path, info.classes, source.root, source.classes)
        inputs = SegmenterInputs(
            site=site,
            model=model.eval(),
            info=info,
            source=source,
            inference=inference,
            ratios=config.task_options(SegmenterOptions).ratios or (1.0,),
        )
        return evaluate_sizes(_evaluation_plan(inputs, path, name), site)


def scaling_override(config: EvalConfig) -> str | None:
    """Return the scaling methods that the options name; a segmenter has none of its own."""
    return None if config.scaling is None else parse_override(config.scaling)


def apply_scaling_override(
    model: SegmentationModel, info: ModelInfo[SegmentModel], scaling: str, window: int | None
) -> None:
    """Give a segmenter rules for larger grids, which count from the grid of the crops that it was trained on.

    Args:
        model: The segmenter.
        info: What its file says.
        scaling: Names of rules.
        window: Side in pixels of the windows in which it looks at an image; None for whole images.

    Raises:
        ValueError: If its blocks attend in windows, which are as in training; if no window that it looks at is larger
            than a crop; if there is no such rule, or no rotation.
    """
    backbone = info.config.backbone_config()
    if not backbone.attends_everywhere:
        raise ValueError(
            f"got scaling={scaling!r} for {info.config.model} with windows, which are as large as in training at any "
            "size; rules are for a ViT whose blocks attend everywhere: leave it out"
        )
    if "crop" not in info.metadata:
        raise WeightsError(
            f"got scaling={scaling!r} for a file that does not say its crop; give one that a training wrote"
        )
    crop = info.metadata["crop"]
    if window is not None and window <= crop:
        raise ValueError(
            f"got scaling={scaling!r} with windows of {window} pixels, no larger than the training's crops of {crop}; "
            "rules are for larger ones: give --whole or a larger --window"
        )
    rows = crop // backbone.body.patch_size
    set_scaling(model, scaling, trained_grid=(rows, rows))


def choose_inference(stored: InferenceConfig, options: SegmenterOptions) -> InferenceConfig:
    """Decide how images are segmented: as the file says, where no option says otherwise.

    Raises:
        ValueError: If there is a stride without windows, or one that leaves out pixels.
    """
    window = stored.window if options.window is None else options.window
    stride = stored.stride if options.stride is None else options.stride
    if options.whole:
        window = None
    elif options.stride is not None and window is None:
        raise ValueError(f"got stride={options.stride} for whole images; give --window, too")
    elif options.window is not None and options.stride is None:
        stride = max(1, round(options.window * 2 / 3))  # 341 of 512, as published
    return replace(stored, window=window, stride=stride, flip=stored.flip or options.flip)


def _evaluation_plan(inputs: SegmenterInputs, path: Path, name: str) -> EvalPlan:
    """Plan which sizes are evaluated, and how."""
    source, inference = inputs.source, inputs.inference
    files = hashlib.sha256("\n".join([*source.files, *source.classes]).encode()).hexdigest()
    how = "whole" if inference.window is None else f"windows of {inference.window} every {inference.stride}"
    views = [f"ratios {', '.join(f'{ratio:g}' for ratio in inputs.ratios)}"] if inputs.ratios != (1.0,) else []
    views += ["mirrored, too"] if inference.flip else []
    scaling = scaling_override(inputs.site.config)
    options = {"ratios": list(inputs.ratios)} | ({} if scaling is None else {"scaling": scaling})
    views += [] if scaling is None else [f"rules {scaling}"]
    return EvalPlan(
        **plan_fields(inputs, path, name, inputs.info.metadata["test_short"], SIZE_FACTORS),
        how=", ".join(["shorter side", how, *views]),
        metric=TASKS["segment"].metric,
        fixed=identity(inputs, files) | asdict(inference) | options,
        names={str(label): each for label, each in enumerate(source.classes, 1)},
        row=SegmenterResult,
        measure=lambda size: evaluate_size(size, inputs),
    )


def evaluate_size(size: int, inputs: SegmenterInputs) -> SizeEvaluation:
    """Evaluate at one size."""
    site, source = inputs.site, inputs.source
    timer = EvalTimer(site)
    settings = SegmenterSettings(
        **inference_fields(inputs, size, "test_short", "test_long"), ratios=inputs.ratios, inference=inputs.inference
    )
    assert isinstance(inputs.model, SegmentationModel)
    counts, bad = confusion_matrix(inputs.model, source, settings, site.channel, site.watch(size, len(source)))
    stats, skipped = size_stats(timer, inputs, bad)
    result = segmentation_scores(counts)
    scores = {name: round(score, 4) for name, score in result.percent().items()}
    return SizeEvaluation(
        row=SegmenterResult(size=size, long=settings.long, **scores, **stats),
        classes=(100 * result.iou).tolist(),
        skipped=skipped,
    )
