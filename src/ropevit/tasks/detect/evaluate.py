"""Evaluation of a detector at many sizes."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ropevit.data.coco import open_coco
from ropevit.extras import require
from ropevit.tasks.common.eval_config import EvalConfig, Flag
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
from ropevit.tasks.detect.average_precision import NAMES, average_precision, coco_results
from ropevit.tasks.detect.inference import DetectorSettings, run_detector
from ropevit.tasks.detect.model import DetectModel, load_detector
from ropevit.tasks.registry import TASKS

#: Default sizes over the training's: 480, 640, 800, 1024 and 1333 pixels of a detector tested at 800.
SIZE_FACTORS = (0.6, 0.8, 1.0, 1.28, 5 / 3)

#: Metadata that a file must hold.
METADATA = ("category_ids", "mean", "std", "test_side", "longest", "top")


@dataclass(frozen=True, kw_only=True)
class DetectorOptions:
    """Detectors only."""

    save_detections: Flag = False
    """Write the detections at each size to detections-SIZE.json, in the COCO results format."""


@dataclass(frozen=True, kw_only=True)
class DetectorResult:
    """A detector at one size; its scores are COCO's, in percent, None of a size of which there are no objects."""

    size: int
    """Length of the shorter side in pixels."""
    longest: int
    """Longest that the longer side may become in pixels, which then decides."""
    AP: float
    """Average precision over IoU of 0.50 to 0.95."""
    AP50: float
    """At IoU 0.50."""
    AP75: float
    """At IoU 0.75."""
    APs: float | None
    """Of objects of less than 32 x 32 pixels of the original image."""
    APm: float | None
    """Of objects up to 96 x 96 pixels."""
    APl: float | None
    """Of larger objects."""
    AR1: float
    """Average recall with one detection an image."""
    AR10: float
    """With 10."""
    AR100: float
    """With 100."""
    ARs: float | None
    """Of small objects."""
    ARm: float | None
    """Of middle-sized objects."""
    ARl: float | None
    """Of large objects."""
    images: int
    """Images measured."""
    skipped: int
    """Images that could not be read; their objects count as not found."""
    images_per_second: float
    """Of all processes together, reading included."""
    peak_memory_gib: float
    """The most that any process used: of its GPU, or, on a CPU, of the whole process since it started."""

    @property
    def scores(self) -> dict[str, float | None]:
        """What is shown of the scores, by name."""
        return {name: getattr(self, name) for name in NAMES[:6]}

    @property
    def view(self) -> dict[str, int]:
        """How images were brought to the size."""
        return {"long": self.longest}


def evaluate(config: EvalConfig, report: Report = lambda _: None) -> list[DetectorResult]:
    """Measure COCO's average precision at every size, and write it down as it comes.

    The size is the length of the shorter side; the limit on the longer one grows in proportion to the training's.
    Started by `torchrun`, the processes share the images.

    Args:
        config: What, on what and how.
        report: Called with what happens, in the first process alone.

    Returns:
        What was measured, now or before, by size.

    Raises:
        ValueError: If the options, the weights, the data or the directory do not allow it.
    """
    config.check(TASKS["detect"])
    path, name = weights_and_name(config)
    for module in ("transformers", "faster_coco_eval"):
        require(module, "dense")
    with distributed(config, report) as site:
        model, info = load_detector(path)
        check_metadata(info, METADATA, path)
        source = open_coco(config.data, "val", keep_empty=True)
        stored = numbered(info.metadata["category_ids"], info.classes)
        check_classes(path, stored, source.annotations, numbered(source.category_ids, source.classes))
        return evaluate_sizes(
            _evaluation_plan(EvalInputs(site=site, model=model.eval(), info=info, source=source), path, name), site
        )


def numbered(category_ids: Sequence[int], classes: Sequence[str]) -> list[str]:
    """Put the category id in front of each class name."""
    return [f"{number} {name}" for number, name in zip(category_ids, classes, strict=True)]


def _evaluation_plan(inputs: EvalInputs[DetectModel], path: Path, name: str) -> EvalPlan:
    """Plan which sizes are evaluated, and how."""
    metadata, source, config = inputs.info.metadata, inputs.source, inputs.site.config
    annotations = hashlib.sha256(source.annotations.read_bytes()).hexdigest()
    options = {
        "batch_size": config.batch_size or 1,
        "save_detections": config.task_options(DetectorOptions).save_detections,
    }
    return EvalPlan(
        **plan_fields(inputs, path, name, metadata["test_side"], SIZE_FACTORS),
        how=f"shorter side, the longer at most {metadata['longest'] / metadata['test_side']:.4g} times that",
        metric=TASKS["detect"].metric,
        fixed=identity(inputs, annotations) | options,
        names={str(number): each for number, each in zip(source.category_ids, source.classes, strict=True)},
        row=DetectorResult,
        measure=lambda size: evaluate_size(size, inputs),
        notes=(f"{len(source.dropped)} boxes without an area are left out",) if source.dropped else (),
    )


def evaluate_size(size: int, inputs: EvalInputs[DetectModel]) -> SizeEvaluation:
    """Evaluate at one size."""
    site, source, metadata = inputs.site, inputs.source, inputs.info.metadata
    timer = EvalTimer(site)
    settings = DetectorSettings(
        **inference_fields(inputs, size, "test_side", "longest"),
        max_detections=metadata["top"],
        batch_size=site.config.batch_size or 1,
    )
    rows, bad = run_detector(inputs.model, source, settings, site.channel, site.watch(size, len(source)))
    stats, skipped = size_stats(timer, inputs, bad)
    result = site.channel.run_on_main(lambda: average_precision(source.annotations, rows))
    scores = {name: round(result.scores[name], 4) if name in result.scores else None for name in NAMES}
    return SizeEvaluation(
        row=DetectorResult(size=size, longest=settings.long, **scores, **stats),
        classes=[result.classes[number] for number in source.category_ids],
        skipped=skipped,
        files={f"detections-{size}.json": coco_results(rows)}
        if site.config.task_options(DetectorOptions).save_detections
        else {},
    )
