"""Evaluation of a detector at several image sizes."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ropevit.data.coco import open_coco
from ropevit.extras import require
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
from ropevit.tasks.detect.average_precision import NAMES, average_precision, coco_results
from ropevit.tasks.detect.inference import DetectorSettings, run_detector
from ropevit.tasks.detect.model import Detector, DetectorConfig, load_detector
from ropevit.tasks.evaluation.config import EvalConfig
from ropevit.tasks.evaluation.inference_modes import InferenceMode
from ropevit.tasks.evaluation.loop import (
    EvalPlan,
    EvalTimer,
    Report,
    SizeEvaluation,
    distributed,
    evaluate_sizes,
    weights_and_name,
)
from ropevit.tasks.registry import TASKS

#: Default sizes relative to the test size of the training: 480, 640, 800, 1024 and 1333 pixels for 800.
SIZE_FACTORS = (0.6, 0.8, 1.0, 1.28, 5 / 3)

#: Required metadata of the file.
METADATA = ("category_ids", "mean", "std", "test_side", "longest", "top")


@dataclass(frozen=True, kw_only=True)
class DetectorOptions:
    """Options of `ropevit eval` for detectors."""

    save_detections: bool = False
    """Write the detections at each size to detections-SIZE.json, in the COCO results format."""


@dataclass(frozen=True, kw_only=True)
class DetectorResult:
    """Scores of a detector at one image size, as defined by COCO, in percent; None for object sizes without objects."""

    size: int
    """Length of the shorter side in pixels."""
    longest: int
    """Maximum length of the longer side in pixels."""
    AP: float
    """Average precision over IoU of 0.50 to 0.95."""
    AP50: float
    """Average precision at IoU 0.50."""
    AP75: float
    """Average precision at IoU 0.75."""
    APs: float | None
    """Average precision of objects below 32 x 32 pixels of the original image."""
    APm: float | None
    """Average precision of objects up to 96 x 96 pixels."""
    APl: float | None
    """Average precision of larger objects."""
    AR1: float
    """Average recall with one detection per image."""
    AR10: float
    """Average recall with 10 detections per image."""
    AR100: float
    """Average recall with 100 detections per image."""
    ARs: float | None
    """Average recall of small objects."""
    ARm: float | None
    """Average recall of medium objects."""
    ARl: float | None
    """Average recall of large objects."""
    images: int
    """Evaluated images."""
    skipped: int
    """Skipped images, which could not be read; their objects count as missed."""
    images_per_second: float
    """Throughput of all processes together, including reading."""
    peak_memory_gib: float
    """Maximum over processes of GPU memory, or, on a CPU, of the resident memory since the start."""
    mode: str | None = None
    """Inference mode: images whole, in tiles of the training size, or after a resize to it."""
    tokens: int | None = None
    """Patch tokens of an image, of all its tiles together and with padding, on average; of the first stage in a
    Swin."""

    @property
    def scores(self) -> dict[str, float | None]:
        """Scores to display, by name."""
        return {name: getattr(self, name) for name in NAMES[:6]}

    @property
    def view(self) -> dict[str, int]:
        """Image sizes: the limit on the longer side."""
        return {"long": self.longest}


def evaluate(config: EvalConfig, report: Report = lambda _: None) -> list[DetectorResult]:
    """Compute COCO average precision at every size, and save each result as soon as it is known.

    The size is the length of the shorter side; the limit of the longer one is scaled in proportion. Under `torchrun`,
    the images are divided over the processes.

    Args:
        config: Options of the evaluation.
        report: Called with events, in the main process only.

    Returns:
        Results by size, including those of an interrupted run.

    Raises:
        ValueError: If options, weights, data or the output directory do not fit together.
    """
    config.check(TASKS["detect"])
    path, name = weights_and_name(config)
    for module in ("transformers", "faster_coco_eval"):
        require(module, "dense")
    with distributed(config, report) as context:
        model, info = load_detector(path)
        check_metadata(info, METADATA, path)
        source = open_coco(config.data, "val", keep_empty=True)
        stored = numbered(info.metadata["category_ids"], info.classes)
        check_classes(path, stored, source.annotations, numbered(source.category_ids, source.classes))
        return evaluate_sizes(
            _evaluation_plan(EvalInputs(context=context, model=model.eval(), info=info, source=source), path, name),
            context,
        )


def numbered(category_ids: Sequence[int], classes: Sequence[str]) -> list[str]:
    """Prefix each class name with its category id."""
    return [f"{number} {name}" for number, name in zip(category_ids, classes, strict=True)]


def _evaluation_plan(inputs: EvalInputs[DetectorConfig], path: Path, name: str) -> EvalPlan:
    """Plan which sizes are evaluated, and how."""
    metadata, source, config = inputs.info.metadata, inputs.source, inputs.context.config
    annotations = hashlib.sha256(source.annotations.read_bytes()).hexdigest()
    options = {
        "batch_size": config.batch_size or 1,
        "save_detections": config.task_options(DetectorOptions).save_detections,
    }
    return EvalPlan(
        **plan_fields(inputs, path, name, metadata["test_side"], SIZE_FACTORS),
        description=f"shorter side, the longer at most {metadata['longest'] / metadata['test_side']:.4g} times that",
        metric=TASKS["detect"].metric,
        resume_settings=shared_settings(inputs, annotations) | options,
        class_names={str(number): each for number, each in zip(source.category_ids, source.classes, strict=True)},
        row_type=DetectorResult,
        evaluate_size=lambda size: evaluate_size(size, inputs),
        baselines=baseline_plans(lambda size, mode: evaluate_size(size, inputs, mode), metadata["test_side"]),
        notes=(f"{len(source.dropped)} boxes without an area are ignored",) if source.dropped else (),
    )


def settings_at(size: int, inputs: EvalInputs[DetectorConfig], mode: InferenceMode) -> DetectorSettings:
    """Return the settings of inference at a size."""
    metadata = inputs.info.metadata
    return DetectorSettings(
        **inference_fields(inputs, size, "test_side", "longest", mode),
        max_detections=metadata["top"],
        batch_size=inputs.context.config.batch_size or 1,
        tile=metadata["test_side"] if mode == "tiles" else None,
    )


def evaluate_size(size: int, inputs: EvalInputs[DetectorConfig], mode: InferenceMode = "whole") -> SizeEvaluation:
    """Evaluate at one size."""
    context, source, metadata = inputs.context, inputs.source, inputs.info.metadata
    timer, settings = EvalTimer(context), settings_at(size, inputs, mode)
    watch = context.watch(size, len(source), mode)
    assert isinstance(inputs.model, Detector)
    with count_tokens(inputs.model.backbone, inputs.info.config.body_config().patch_size) as tokens:
        rows, unreadable = run_detector(inputs.model, source, settings, context.communicator, watch)
    stats, skipped = size_stats(timer, inputs, unreadable)
    result = context.communicator.run_on_main(lambda: average_precision(source.annotations, rows))
    scores = {name: round(result.scores[name], 4) if name in result.scores else None for name in NAMES}
    return SizeEvaluation(
        row=DetectorResult(
            size=size,
            longest=long_limit(metadata, size, "test_side", "longest"),
            **scores,
            **stats,
            mode=mode,
            tokens=mean_tokens(tokens, inputs, stats["images"]),
        ),
        classes=[result.classes[number] for number in source.category_ids],
        skipped=skipped,
        files={f"detections-{size}{'' if mode == 'whole' else f'-{mode}'}.json": coco_results(rows)}
        if context.config.task_options(DetectorOptions).save_detections
        else {},
    )
