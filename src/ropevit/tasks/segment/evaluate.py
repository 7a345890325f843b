"""Evaluation of a segmenter at several image sizes."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro
from jaxtyping import Float
from torch import Tensor

from ropevit.data.ade import AdeSource, open_ade
from ropevit.extras import require
from ropevit.models.rotary import set_scaling
from ropevit.tasks.dense.evaluation import (
    EvalInputs,
    baseline_plans,
    check_classes,
    check_metadata,
    count_tokens,
    inference_fields,
    long_limit,
    mean_tokens,
    plan_fields,
    shared_settings,
    size_stats,
)
from ropevit.tasks.dense.model_file import ModelInfo
from ropevit.tasks.evaluation.config import RATIOS, EvalConfig
from ropevit.tasks.evaluation.confusion import confusion_files
from ropevit.tasks.evaluation.inference_modes import InferenceMode
from ropevit.tasks.evaluation.loop import (
    BaselinePlan,
    EvalContext,
    EvalPlan,
    EvalTimer,
    Report,
    SizeEvaluation,
    distributed,
    evaluate_sizes,
    weights_and_name,
)
from ropevit.tasks.evaluation.results import hash_weights
from ropevit.tasks.evaluation.tuned_scaling import AUTO, TunedScaling, choices_file, resolve_scaling
from ropevit.tasks.registry import TASKS
from ropevit.tasks.segment.base import SegmentationModel
from ropevit.tasks.segment.confusion_matrix import SegmenterSettings, confusion_matrix
from ropevit.tasks.segment.inference import InferenceConfig, in_tiles
from ropevit.tasks.segment.mean_iou import segmentation_scores
from ropevit.tasks.segment.model import SegmenterConfig, load_segmenter
from ropevit.weights.errors import WeightsError

#: Default sizes relative to the test size of the training: 256, 384, 512, 768 and 1024 pixels for 512.
SIZE_FACTORS = (0.5, 0.75, 1.0, 1.5, 2.0)

#: Required metadata of the file.
METADATA = ("mean", "std", "test_short", "test_long", "inference")


class ScalingAdvice(NamedTuple):
    """Advice of a command for models on which RoPE scaling has no effect, for messages."""

    attention_windows: str
    """With a model that attends in windows."""
    sliding_windows: str
    """With sliding windows no larger than the training crops."""


#: The advice of `ropevit eval`.
EVAL_ADVICE = ScalingAdvice("leave out --scaling", "give --whole or a larger --sliding-window")


@dataclass(frozen=True, kw_only=True)
class SegmenterOptions:
    """Options of `ropevit eval` for segmenters.

    Raises:
        ValueError: If a field is out of range.
    """

    whole: bool = False
    """Predict on whole images, even if the model's file says sliding windows."""
    window: Annotated[int | None, tyro.conf.arg(name="sliding-window")] = None
    """Side in pixels of the sliding window, instead of the one in the model's file."""
    stride: int | None = None
    """Stride of the sliding window in pixels, instead of the one in the model's file, or two thirds of the
    window."""
    flip: bool = False
    """Test-time augmentation: average with the horizontally flipped image."""
    ratios: Annotated[tuple[float, ...], RATIOS] = ()
    """Test-time augmentation: average over the image at each test size times these ratios."""

    def __post_init__(self):
        if self.whole and (self.window is not None or self.stride is not None):
            raise ValueError("got --whole with --sliding-window or --stride; whole images have none: leave one out")
        for option, side in (("sliding-window", self.window), ("stride", self.stride)):
            if side is not None and side < 1:
                raise ValueError(f"got --{option} {side}; expected at least 1 pixel")
        if not all(ratio > 0 for ratio in self.ratios) or len(set(self.ratios)) < len(self.ratios):
            raise ValueError(f"got ratios={self.ratios}; expected each above 0, and none twice")


@dataclass(frozen=True, kw_only=True)
class SegmenterResult:
    """Scores of a segmenter at one image size, in percent."""

    size: int
    """Maximum of the shorter side in pixels."""
    long: int
    """Maximum of the longer side in pixels."""
    mIoU: float  # noqa: N815 (the metric's usual name)
    """Mean intersection over union of the classes."""
    aAcc: float  # noqa: N815
    """Pixel accuracy: fraction of correctly classified pixels."""
    mAcc: float  # noqa: N815
    """Mean over classes of the fraction of their pixels that are classified correctly."""
    images: int
    """Evaluated images."""
    skipped: int
    """Skipped images, which could not be read."""
    images_per_second: float
    """Throughput of all processes together, including reading."""
    peak_memory_gib: float
    """Maximum over processes of GPU memory, or, on a CPU, of the resident memory since the start."""
    mode: str | None = None
    """Inference mode: images whole, in tiles of the training size, or after a resize to it; None for sliding
    windows of the model's file or of the options."""
    tokens: int | None = None
    """Patch tokens of an image, of all its tiles and views together, on average; of the first stage in a Swin."""

    @property
    def scores(self) -> dict[str, float]:
        """Scores to display, by name."""
        return {"mIoU": self.mIoU, "aAcc": self.aAcc, "mAcc": self.mAcc}

    @property
    def view(self) -> dict[str, int]:
        """Image sizes: the maximum of the longer side."""
        return {"long": self.long}


@dataclass(frozen=True, kw_only=True)
class SegmenterInputs(EvalInputs[SegmenterConfig]):
    """Model, data and settings of the evaluation."""

    inference: InferenceConfig
    """Whole images or sliding windows, and flipping."""
    ratios: tuple[float, ...]
    """Ratios of the views to average over; (1.0,) for one view."""
    scaling: str | None = None
    """RoPE scaling methods that are set; None for none, as a segmenter has no scaling of its own."""
    tuned: TunedScaling | None = None
    """The choice that `--scaling auto` found."""


def evaluate(config: EvalConfig, report: Report = lambda _: None) -> list[SegmenterResult]:
    """Compute mIoU, aAcc and mAcc at every size, and save each result as soon as it is known.

    The size is the maximum of the shorter side; that of the longer one is scaled in proportion. Images are evaluated
    one by one, at their original resolution. Under `torchrun`, the images are divided over the processes.

    Args:
        config: Options of the evaluation.
        report: Called with events, in the main process only.

    Returns:
        Results by size, including those of an interrupted run.

    Raises:
        ValueError: If options, weights, data or the output directory do not fit together.
    """
    config.check(TASKS["segment"])
    require("transformers", "dense")
    with distributed(config, report) as context:
        inputs, path, name = open_inputs(context, config.task_options(SegmenterOptions))
        return evaluate_sizes(_evaluation_plan(inputs, path, name), context)


def open_inputs(context: EvalContext, options: SegmenterOptions) -> tuple[SegmenterInputs, Path, str]:
    """Read the model and open the images; returns the file of the model and its short name, too."""
    config = context.config
    path, name = weights_and_name(config)
    model, info = load_segmenter(path)
    check_metadata(info, METADATA, path)
    inference = choose_inference(InferenceConfig(**info.metadata["inference"]), options)
    scaling, tuned = apply_scaling_override(model, info, config.scaling, inference.window, config.checkpoint)
    source = open_ade(config.data, "val")
    check_classes(path, info.classes, source.root, source.classes)
    inputs = SegmenterInputs(
        context=context,
        model=model.eval(),
        info=info,
        source=source,
        inference=inference,
        ratios=options.ratios or (1.0,),
        scaling=scaling,
        tuned=tuned,
    )
    return inputs, path, name


def apply_scaling_override(
    model: SegmentationModel,
    info: ModelInfo[SegmenterConfig],
    scaling: str | None,
    window: int | None,
    checkpoint: str | None = None,
    advice: ScalingAdvice = EVAL_ADVICE,
) -> tuple[str | None, TunedScaling | None]:
    """Set the RoPE scaling of a segmenter, with the grid of its training crops as the reference grid.

    Args:
        model: The segmenter; changed in place.
        info: Header of its file.
        scaling: Scaling methods, such as "ntk" or "yarn+log", `none`, or `auto`; None changes nothing.
        window: Side of the sliding window in pixels; None for whole images.
        checkpoint: The checkpoint by which it was opened, beside which `auto` finds its choice.
        advice: What to do where scaling would change nothing.

    Returns:
        The methods, None for none, and the choice if it is `auto`.

    Raises:
        ValueError: If its blocks attend in windows, whose size does not change; if the sliding window is not larger
            than the training crops; if there is no such method, or the model has no RoPE.
    """
    digest = hash_weights(model.state_dict()) if scaling == AUTO else ""
    methods, tuned = resolve_scaling(scaling, choices_file(None, checkpoint), digest, None)
    if methods is not None:
        grid = scaling_grid(info, f"scaling={methods!r}", window, advice)
        set_scaling(model, methods, trained_grid=grid)
    return methods, tuned


def scaling_grid(
    info: ModelInfo[SegmenterConfig], option: str, window: int | None, advice: ScalingAdvice
) -> tuple[int, int]:
    """Return the rows and columns of the training crops in patches, the reference grid of scaling.

    Args:
        info: Header of the segmenter's file.
        option: What asks for scaling, for messages.
        window: Side of the sliding window in pixels; None for whole images.
        advice: What to do where scaling would change nothing.

    Raises:
        ValueError: If scaling would change nothing, or the file has no crop size.
    """
    backbone = info.config.backbone_config()
    if not backbone.attends_everywhere:
        raise ValueError(
            f"got {option} for {info.config.model} with attention windows, whose size is that of training "
            "at any image size; RoPE scaling needs a ViT with global attention in all blocks: "
            f"{advice.attention_windows}"
        )
    if "crop" not in info.metadata:
        raise WeightsError(
            f"got {option} for a file without the crop size of its training; give one that a training saved"
        )
    crop = info.metadata["crop"]
    if window is not None and window <= crop:
        raise ValueError(
            f"got {option} with sliding windows of {window} pixels, no larger than the training crops of "
            f"{crop}; RoPE scaling is for larger grids: {advice.sliding_windows}"
        )
    rows = crop // backbone.body.patch_size
    return rows, rows


def choose_inference(stored: InferenceConfig, options: SegmenterOptions) -> InferenceConfig:
    """Return the inference settings of the file, overridden by the options.

    Raises:
        ValueError: If there is a stride without windows, or a stride larger than the window.
    """
    window = stored.window if options.window is None else options.window
    stride = stored.stride if options.stride is None else options.stride
    if options.whole:
        window = None
    elif options.stride is not None and window is None:
        raise ValueError(f"got stride={options.stride} for whole images; add --sliding-window, or leave out --stride")
    elif options.window is not None and options.stride is None:
        stride = max(1, round(options.window * 2 / 3))  # 341 of 512, as published
    return replace(stored, window=window, stride=stride, flip=stored.flip or options.flip)


def _evaluation_plan(inputs: SegmenterInputs, path: Path, name: str) -> EvalPlan:
    """Return the plan of the evaluation: sizes, settings and metric."""
    source, inference = inputs.source, inputs.inference
    windows = "whole" if inference.window is None else f"windows of {inference.window} every {inference.stride}"
    views = [f"ratios {', '.join(f'{ratio:g}' for ratio in inputs.ratios)}"] if inputs.ratios != (1.0,) else []
    views += ["flip"] if inference.flip else []
    scaling = inputs.scaling
    options = {"ratios": list(inputs.ratios)} | ({} if scaling is None else {"scaling": scaling})
    views += [] if scaling is None else [f"scaling {scaling}"]
    trained_at = inputs.info.metadata["test_short"]
    fields = plan_fields(inputs, path, name, trained_at, SIZE_FACTORS)
    classes = {str(label): each for label, each in enumerate(source.classes, 1)}

    def evaluate_and_confuse(size: int) -> SizeEvaluation:
        found, counts = evaluate_counts(size, inputs)
        title = f"{name} on {fields['data']}, {size} px"
        return replace(found, draw_mistakes=partial(_confused_pixels, counts, classes, title))

    return EvalPlan(
        **fields,
        description=", ".join(["shorter side", windows, *views]),
        metric=TASKS["segment"].metric,
        resume_settings=shared_settings(inputs, hash_files(source)) | asdict(inference) | options,
        class_names=classes,
        row_type=SegmenterResult,
        evaluate_size=evaluate_and_confuse,
        baselines=_baselines(inputs, trained_at),
        notes=() if inputs.tuned is None else (inputs.tuned.describe_for(source.name),),
    )


def _confused_pixels(counts: Float[Tensor, "K K"], classes: Mapping[str, str], title: str) -> dict[str, bytes]:
    """Return the files about pixels of one class that are labeled as another."""
    pairs = {(true, predicted): float(counts[true, predicted]) for true, predicted in counts.nonzero().tolist()}
    return confusion_files(pairs, classes, title, "pixels")


def hash_files(source: AdeSource) -> str:
    """Return a digest of the names of images and classes, by which `--resume` knows the data again."""
    return hashlib.sha256("\n".join([*source.files, *source.classes]).encode()).hexdigest()


def _baselines(inputs: SegmenterInputs, trained_at: int) -> dict[InferenceMode, BaselinePlan]:
    """Return the baselines: tiles only beside whole images.

    Raises:
        ValueError: If tiles are asked for besides sliding windows.
    """
    found = baseline_plans(lambda size, mode: evaluate_size(size, inputs, mode), trained_at)
    if inputs.inference.window is None:
        return found
    if "tiles" in inputs.context.config.baselines:
        raise ValueError(
            f"got --baselines tiles with a segmenter in windows of {inputs.inference.window} pixels every "
            f"{inputs.inference.stride}, which are tiles already: add --whole to compare with whole images, or leave "
            "it out"
        )
    return {"resize": found["resize"]}


def settings_at(size: int, inputs: SegmenterInputs, mode: InferenceMode | None = None) -> SegmenterSettings:
    """Return the settings of inference at a size; None takes the windows of the file and the options."""
    inference = in_tiles(inputs.inference, inputs.info.metadata["test_short"]) if mode == "tiles" else inputs.inference
    fields = inference_fields(inputs, size, "test_short", "test_long", mode or "whole")
    return SegmenterSettings(**fields, ratios=inputs.ratios, inference=inference)


def evaluate_size(size: int, inputs: SegmenterInputs, mode: InferenceMode | None = None) -> SizeEvaluation:
    """Evaluate at one size; see `settings_at`."""
    return evaluate_counts(size, inputs, mode)[0]


def evaluate_counts(
    size: int, inputs: SegmenterInputs, mode: InferenceMode | None = None
) -> tuple[SizeEvaluation, Float[Tensor, "K K"]]:
    """Evaluate at one size, and return the pixels by true and predicted class, too."""
    context, source = inputs.context, inputs.source
    timer, settings = EvalTimer(context), settings_at(size, inputs, mode)
    assert isinstance(inputs.model, SegmentationModel)
    plain = "whole" if inputs.inference.window is None else None
    watch = context.watch(size, len(source), mode or "whole")
    with count_tokens(inputs.model.backbone, inputs.info.config.body_config().patch_size) as tokens:
        counts, unreadable = confusion_matrix(inputs.model, source, settings, context.communicator, watch)
    stats, skipped = size_stats(timer, inputs, unreadable)
    result = segmentation_scores(counts)
    scores = {name: round(score, 4) for name, score in result.percent().items()}
    evaluation = SizeEvaluation(
        row=SegmenterResult(
            size=size,
            long=long_limit(inputs.info.metadata, size, "test_short", "test_long"),
            **scores,
            **stats,
            mode=mode or plain,
            tokens=mean_tokens(tokens, inputs, stats["images"]),
        ),
        classes=(100 * result.iou).tolist(),
        skipped=skipped,
    )
    return evaluation, counts
