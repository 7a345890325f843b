"""Evaluation of a classifier at several image sizes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import UInt8
from torch import Tensor

from ropevit.data.augment import eval_transform
from ropevit.data.loading import Batch, describe_skipped, eval_batches
from ropevit.data.sources import ImageSource, open_source
from ropevit.device import to_device
from ropevit.models.architectures import Model
from ropevit.models.position_options import position_with_options
from ropevit.models.published import PublishedResult, curve
from ropevit.tasks.classify.classes import ClassMap, RealLabels, match_classes
from ropevit.tasks.classify.eval_model import EvalModel, open_eval_model, scaling_for, with_scaling
from ropevit.tasks.classify.inference_modes import predict_by, tokens_per_image
from ropevit.tasks.classify.mistakes import LoggedPrediction, PredictionLog, mistake_files
from ropevit.tasks.classify.protocol import View, plan_views
from ropevit.tasks.classify.score import Tally, by_label, tally
from ropevit.tasks.evaluation.config import EvalConfig
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
)
from ropevit.tasks.evaluation.report import nearest_size
from ropevit.tasks.evaluation.results import hash_weights
from ropevit.tasks.evaluation.tuned_scaling import TunedScaling
from ropevit.tasks.registry import TASKS

#: Default batch size per process.
BATCH = 128
#: Protocol of models of other families, where none is asked for: the crop of their authors.
FAMILY = "family"


@dataclass(frozen=True, kw_only=True)
class ClassifierOptions:
    """Options of `ropevit eval` for classifiers."""

    protocol: Literal["paper", "timm"] | None = None
    """paper: crop ratio 1 for ViT; 0.875, and windows that grow with the image size, for Swin. timm: crop ratio 0.9,
    and windows of the training size. Default: paper; for models of other families, their authors' crop."""
    crop_pct: float | None = None
    """Crop ratio instead of the protocol's: the test size over the shorter side to which images are resized."""
    real_labels: Path | None = None
    """ReaL labels of the ImageNet validation set, a JSON file: any of an image's labels is correct; images without
    labels are skipped."""


@dataclass(frozen=True, kw_only=True)
class ClassifierResult:
    """Scores of a classifier at one image size, in percent."""

    size: int
    """Side of the input in pixels."""
    top1: float
    """Top-1 accuracy."""
    top5: float | None = None
    """Top-5 accuracy; None with fewer than five classes."""
    images: int
    """Evaluated images."""
    skipped: int
    """Skipped images: unreadable, or without a ReaL label."""
    images_per_second: float
    """Throughput of all processes together, including reading."""
    peak_memory_gib: float
    """Maximum over processes of GPU memory, or, on a CPU, of the resident memory since the start."""
    window: int | None
    """Side of a Swin's windows in tokens."""
    resize: int
    """Shorter side in pixels to which images were resized."""
    crop: float
    """Crop ratio: `size` divided by `resize`."""
    mode: str | None = None
    """Inference mode: images whole, in tiles of the training size, or after a resize to it."""
    tokens: int | None = None
    """Patch tokens of an image, of all its tiles together; of the first stage in a Swin."""

    @property
    def scores(self) -> dict[str, float]:
        """Scores to display, by name."""
        return {"top-1": self.top1} | ({} if self.top5 is None else {"top-5": self.top5})

    @property
    def view(self) -> dict[str, int]:
        """Preprocessing: window size, resizing and crop."""
        return {"resize": self.resize} | ({} if self.window is None else {"window": self.window})


@dataclass(frozen=True, kw_only=True)
class EvalInputs:
    """Model, data and settings of an evaluation."""

    context: EvalContext
    eval_model: EvalModel
    source: ImageSource
    match: ClassMap
    real: RealLabels | None
    tuned: TunedScaling | None = None
    """The choice that `--scaling auto` found."""

    @property
    def training_view(self) -> View:
        """Preprocessing and window size at the training size."""
        return views_at(self, (self.eval_model.trained_at,))[0]

    def shows_mistakes(self, view: View, mode: InferenceMode) -> bool:
        """Return whether an evaluation also collects what was wrong: at the test size nearest to the training's.

        With ReaL labels, images have several true classes, and none is confused with another.
        """
        sizes = [each.size for each in views_at(self, self.context.config.sizes)]
        return mode == "whole" and self.real is None and view.size == nearest_size(sizes, self.eval_model.trained_at)


def evaluate(config: EvalConfig, report: Report = lambda _: None) -> list[ClassifierResult]:
    """Compute top-1 and top-5 accuracy at every size, and save each result as soon as it is known.

    Under `torchrun`, the images are divided over the processes.

    Args:
        config: Options of the evaluation.
        report: Called with events, in the main process only.

    Returns:
        Results by size, including those of an interrupted run.

    Raises:
        ValueError: If options, weights, data or the output directory do not fit together.
    """
    config.check(TASKS["classify"])
    with distributed(config, report) as context:
        return evaluate_sizes(_make_plan(prepare(context)), context)


def prepare(context: EvalContext) -> EvalInputs:
    """Read the weights, open the images and match their classes."""
    config, real = context.config, context.config.task_options(ClassifierOptions).real_labels
    eval_model = open_eval_model(config.model, config.checkpoint, config.weights)
    scaling, tuned = scaling_for(eval_model, config.scaling, config.model, config.checkpoint)
    if (scaling, eval_model.config.scaling) != (None, None):
        eval_model = with_scaling(eval_model, scaling)
    source = open_source(config.data, "val")
    match = match_classes(source, eval_model.classes, eval_model.config.num_classes, eval_model.name)
    if real is not None and not match.imagenet:
        raise ValueError(
            f"got ReaL labels for {source.name}; they are for ImageNet-1k's validation images only: leave out "
            "--real-labels"
        )
    labels = None if real is None else RealLabels(real, source, match.columns)
    return EvalInputs(context=context, eval_model=eval_model, source=source, match=match, real=labels, tuned=tuned)


def _make_plan(inputs: EvalInputs) -> EvalPlan:
    """Return the plan of the evaluation: sizes, settings and metric."""
    eval_model, source, options, config = (
        inputs.eval_model,
        inputs.source,
        inputs.context.config.task_options(ClassifierOptions),
        inputs.context.config,
    )
    protocol = protocol_of(eval_model, options.protocol, options.crop_pct)
    views = views_at(inputs, config.sizes)
    real = None if options.real_labels is None else options.real_labels.name
    scaling = {} if eval_model.config.scaling is None else {"scaling": eval_model.config.scaling}
    fixed = {"fingerprint": hash_weights(eval_model.parsed.state), "images": len(source), "real": real}
    evaluator = _evaluators(views, inputs)
    return EvalPlan(
        name=eval_model.name,
        weights=eval_model.parsed.source,
        model=eval_model.published_name,
        position=position_with_options(eval_model.config),
        trained_at=eval_model.trained_at,
        data=f"{source.name}{', ReaL labels' if real else ''}",
        description=_describe_protocol(protocol, views[0], eval_model.config.scaling),
        metric=TASKS["classify"].metric,
        resume_settings=fixed | {"protocol": protocol, "crop": options.crop_pct} | scaling,
        class_names=dict(zip(source.classes, inputs.match.names, strict=True)),
        row_type=ClassifierResult,
        sizes=tuple(view.size for view in views),
        evaluate_size=evaluator("whole"),
        baselines={
            "tiles": BaselinePlan(evaluate_size=evaluator("tiles"), differs=lambda size: size > eval_model.trained_at),
            "resize": BaselinePlan(
                evaluate_size=evaluator("resize"), differs=lambda size: size != eval_model.trained_at
            ),
        },
        paper=_paper_curve(inputs),
        notes=tuple(_describe_inputs(inputs, views[0])),
    )


def _describe_protocol(protocol: str, view: View, scaling: str | None) -> str:
    """Return protocol, crop and scaling in words."""
    crop = "squashed to a square" if view.squash else f"crop ratio {view.crop:g}"
    return ", ".join([f"protocol {protocol}", crop, *([] if scaling is None else [f"scaling {scaling}"])])


def _describe_inputs(inputs: EvalInputs, view: View) -> list[str]:
    """Return what a reader should know of the images, the model and the choice of `--scaling auto`."""
    eval_model = inputs.eval_model
    notes = [inputs.match.note] if inputs.match.note else []
    notes += [] if inputs.tuned is None else [inputs.tuned.describe_for(inputs.source.name)]
    if eval_model.crop not in (None, view.crop):
        notes.append(
            f"its training was evaluated with crop ratio {eval_model.crop}, this is {view.crop}: see --crop-pct"
        )
    if eval_model.config.in_channels == 1:
        notes.append("the model takes gray images: colors are converted, 0.299 R + 0.587 G + 0.114 B")
    return notes


def views_at(inputs: EvalInputs, sizes: tuple[int, ...]) -> list[View]:
    """Return the preprocessing and window size at each test size; those by default if `sizes` is empty."""
    eval_model, options = inputs.eval_model, inputs.context.config.task_options(ClassifierOptions)
    return views_of(eval_model, sizes, options.protocol, options.crop_pct)


def views_of(eval_model: EvalModel, sizes: tuple[int, ...], protocol: str | None, crop: float | None) -> list[View]:
    """Return the views of a model; those of another family are its authors', unless protocol or crop are given."""
    protocol = protocol_of(eval_model, protocol, crop)
    if protocol != FAMILY:
        return plan_views(eval_model.config, eval_model.trained_at, sizes, protocol, crop)
    views = plan_views(eval_model.config, eval_model.trained_at, sizes, "paper", eval_model.family_crop)
    return [replace(view, squash=eval_model.squash) for view in views]


def protocol_of(eval_model: EvalModel, protocol: str | None, crop: float | None) -> str:
    """Return the protocol that is asked for, or else the default: `FAMILY` for models with pixels of their own."""
    of_family = crop is None and (eval_model.family_crop is not None or eval_model.squash)
    return protocol or (FAMILY if of_family else "paper")


def _evaluators(views: list[View], inputs: EvalInputs) -> Callable[[InferenceMode], Callable[[int], SizeEvaluation]]:
    """Return a function from an inference mode to one that evaluates at a size.

    A model whose config is the same at several sizes is built once.
    """
    eval_model, built = inputs.eval_model, {}
    by_size = {view.size: view for view in views}

    def build(mode: InferenceMode, view: View) -> Model:
        seen = view if mode == "whole" else inputs.training_view
        config = seen.config_at(eval_model.config)
        if config not in built:
            built.clear()  # one at a time
            built[config] = eval_model.build(config).to(inputs.context.device)
        return built[config]

    def evaluator(mode: InferenceMode) -> Callable[[int], SizeEvaluation]:
        return lambda size: evaluate_size(build(mode, by_size[size]), by_size[size], inputs, mode)

    return evaluator


def evaluate_size(model: Model, view: View, inputs: EvalInputs, mode: InferenceMode = "whole") -> SizeEvaluation:
    """Evaluate at one size; for tiles and resized images, with the model of the training size."""
    source, context, eval_model, unreadable = inputs.source, inputs.context, inputs.eval_model, []
    timer = EvalTimer(context)
    batches = _evaluate_batches(view, inputs, unreadable)
    is_correct = by_label if inputs.real is None else inputs.real.is_correct
    if inputs.real is not None:
        batches = inputs.real.labeled(batches)
    watch = context.watch(view.size, len(source), mode)
    logits_of = predict_by(mode, classifier(model, inputs), eval_model.trained_at)
    log, communicator = PredictionLog(), context.communicator
    record = log.add if inputs.shows_mistakes(view, mode) else None
    counts = tally(logits_of, batches, len(source.classes), communicator, watch, is_correct=is_correct, record=record)
    stats = timer.stats(int(counts.images.sum()), len(source))
    skipped = [line for part in context.communicator.all_gather(describe_skipped(source, unreadable)) for line in part]
    window = (view if mode == "whole" else inputs.training_view).window
    return SizeEvaluation(
        row=ClassifierResult(
            size=view.size,
            **counts.scores(),
            **stats,
            window=window,
            resize=view.resize,
            crop=view.crop,
            mode=mode,
            tokens=tokens_per_image(eval_model.config, view.size, mode, eval_model.trained_at),
        ),
        classes=by_class(counts),
        skipped=tuple(skipped),
        draw_mistakes=partial(_draw_mistakes, log.gather(communicator), view, inputs),
    )


def _draw_mistakes(predictions: Sequence[LoggedPrediction], view: View, inputs: EvalInputs) -> dict[str, bytes]:
    """Return the files about the mistakes at a size; none without predictions."""
    if not predictions:
        return {}
    title = f"{inputs.eval_model.name} on {inputs.source.name}, {view.size} px"
    transform = eval_transform(view.size, view.crop, view.squash)
    return mistake_files(predictions, inputs.source, inputs.match.names, title, transform)


def _evaluate_batches(view: View, inputs: EvalInputs, unreadable: list[int]) -> Iterator[Batch]:
    """Yield this process's batches at a size; indices of images that cannot be read are appended to `unreadable`."""
    context = inputs.context
    transform = eval_transform(view.size, view.crop, view.squash)
    size = context.config.batch_size or BATCH
    for batch in eval_batches(
        inputs.source, transform, size, context.config.workers, world=context.world, rank=context.rank
    ):
        unreadable += batch.unreadable
        yield batch


def classifier(model: Model, inputs: EvalInputs) -> Callable[[Tensor], Tensor]:
    """Return a function from uint8 images (b, 3, S, S) to logits (b, K) of the data's classes."""
    device = inputs.context.device
    normalize = normalizer(inputs.eval_model, device)
    columns = torch.tensor(inputs.match.columns, device=device)

    def logits_of(images: Tensor) -> Tensor:
        pixels = normalize(images)
        with inputs.context.autocast():
            return model(pixels)[:, columns]

    return logits_of


def normalizer(eval_model: EvalModel, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return a function from uint8 images (b, 3, S, S) to the input of a model (b, c, S, S), on a device."""
    gray = eval_model.config.in_channels == 1
    mean, std = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (eval_model.mean, eval_model.std))

    def normalize(images: Tensor) -> Tensor:
        images = to_device(images, device)
        pixels = (to_gray(images) if gray else images).float() / 255
        return (pixels - mean) / std

    return normalize


def to_gray(images: UInt8[Tensor, "b 3 H W"]) -> UInt8[Tensor, "b 1 H W"]:
    """Convert to gray as Pillow and `predict` do: 0.299 R + 0.587 G + 0.114 B, in integer arithmetic.

    Source: ITU-R BT.601 luma, in fixed point with 16 fractional bits.
    """
    red, green, blue = images.int().unbind(1)
    return ((19595 * red + 38470 * green + 7471 * blue + 2**15) >> 16).to(torch.uint8).unsqueeze(1)


def by_class(counts: Tally) -> list[float]:
    """Return the top-1 accuracy of each class in percent; NaN for a class without images."""
    return (100 * counts.top1.double() / counts.images.double()).tolist()


def _paper_curve(inputs: EvalInputs) -> dict[int, PublishedResult]:
    """Return the paper's results by size, if a published model is evaluated as in the paper on ImageNet-1k."""
    options, name = inputs.context.config.task_options(ClassifierOptions), inputs.eval_model.published_name
    changed = options.crop_pct, options.real_labels, inputs.eval_model.config.scaling
    same = options.protocol in (None, "paper") and changed == (None, None, None)
    return curve(name) if same and inputs.match.imagenet and name is not None else {}
