"""Measuring a detector at many sizes."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ropevit.data.coco import CocoSource, open_coco
from ropevit.data.loading import describe_skipped
from ropevit.extras import require
from ropevit.tasks.common.eval_config import EvalConfig
from ropevit.tasks.common.eval_results import fingerprint
from ropevit.tasks.common.evaluation import (
    EvalContext,
    EvalPlan,
    EvalTimer,
    Report,
    SizeEvaluation,
    distributed,
    evaluate_sizes,
    listed,
)
from ropevit.tasks.dense.model_file import ModelInfo
from ropevit.tasks.detect.average_precision import NAMES, average_precision, coco_results
from ropevit.tasks.detect.batches import normalise
from ropevit.tasks.detect.inference import InferenceSettings, run_detector
from ropevit.tasks.detect.model import DetectModel, Detector, load_detector
from ropevit.weights.errors import WeightsError

#: Default sizes over the training's: 480, 640, 800, 1024 and 1333 pixels of a detector tested at 800.
PARTS = (0.6, 0.8, 1.0, 1.28, 5 / 3)

#: What a file must say besides the weights.
FACTS = ("category_ids", "mean", "std", "test_side", "longest", "top")


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
        """How pictures were brought to the size."""
        return {"long": self.longest}


@dataclass(frozen=True, kw_only=True)
class EvalInputs:
    """All that is needed to measure at a size."""

    site: EvalContext
    model: Detector
    info: ModelInfo[DetectModel]
    source: CocoSource


def evaluate(config: EvalConfig, path: Path, name: str, report: Report = lambda _: None) -> list[DetectorResult]:
    """Measure COCO's average precision at every size, and write it down as it comes.

    The size is the length of the shorter side; the limit on the longer one grows in proportion to the training's.
    Started by `torchrun`, the processes share the images.

    Args:
        config: What, on what and how.
        path: File of the detector.
        name: A short name of it, for a directory.
        report: Called with what happens, in the first process alone.

    Returns:
        What was measured, now or before, by size.

    Raises:
        ValueError: If the options, the weights, the data or the directory do not allow it.
    """
    config.check("detector")
    for module in ("transformers", "faster_coco_eval"):
        require(module, "dense")
    with distributed(config, report) as site:
        model, info = load_detector(path)
        check_facts(info, path)
        source = open_coco(config.data, "val", keep_empty=True)
        check_classes(info, source, path)
        plan = make_plan(EvalInputs(site=site, model=model.eval(), info=info, source=source), path, name)
        return evaluate_sizes(plan, site)


def check_facts(info: ModelInfo[DetectModel], path: Path) -> None:
    """Refuse a file that does not say how its detector is tested.

    Raises:
        WeightsError: Naming what is missing.
    """
    if missing := [name for name in FACTS if info.metadata.get(name) is None]:
        raise WeightsError(f"{path} does not say its {', '.join(missing)}; give a file that a training wrote")


def check_classes(info: ModelInfo[DetectModel], source: CocoSource, path: Path) -> None:
    """Refuse data with other classes than the detector's.

    Raises:
        ValueError: With both counts, and the ids and names that differ.
    """
    known, given = (
        list(zip(ids, classes, strict=True))
        for ids, classes in ((info.metadata["category_ids"], info.classes), (source.category_ids, source.classes))
    )
    if known == given:
        return
    parts = [("only in the checkpoint", set(known) - set(given)), ("only in the data", set(given) - set(known))]
    names = [(where, [f"{number} {name}" for number, name in sorted(odd)]) for where, odd in parts if odd]
    told = "; ".join(f"{where}: {listed(odd)}" for where, odd in names)
    raise ValueError(
        f"{path} knows {len(known)} categories, {source.annotations} lists {len(given)} others ({told}); give the data "
        "that it was trained for"
    )


def default_sizes(test_side: int) -> list[int]:
    """Choose sizes below, at and above that of the training."""
    return sorted({max(1, round(part * test_side)) for part in PARTS})


def make_plan(bench: EvalInputs, path: Path, name: str) -> EvalPlan:
    """Plan which sizes are measured, and how."""
    facts, source, config = bench.info.metadata, bench.source, bench.site.config
    sizes = sorted(set(config.sizes or default_sizes(facts["test_side"])))
    if sizes[0] < 1:
        raise ValueError(f"got size {sizes[0]}; expected 1 pixel or more")
    batch_size = config.batch_size or 1
    annotations = hashlib.sha256(source.annotations.read_bytes()).hexdigest()[:16]
    fixed = {"fingerprint": fingerprint(bench.model.state_dict()), "images": len(source), "annotations": annotations}
    fixed |= {"batch_size": batch_size, "save_detections": config.detector.save_detections}
    body = bench.info.config
    bench.model.to(bench.site.device)
    return EvalPlan(
        name=name,
        weights=str(path),
        model=body.model,
        position=body.position,
        trained_at=facts["test_side"],
        data=source.name,
        how=f"shorter side, the longer at most {facts['longest'] / facts['test_side']:.4g} times that",
        metric="AP",
        fixed=fixed,
        names={str(number): each for number, each in zip(source.category_ids, source.classes, strict=True)},
        row=DetectorResult,
        sizes=tuple(sizes),
        measure=lambda size: evaluate_size(size, bench),
        notes=(f"{len(source.dropped)} boxes without an area are left out",) if source.dropped else (),
    )


def evaluate_size(size: int, bench: EvalInputs) -> SizeEvaluation:
    """Measure at one size."""
    site, facts, source = bench.site, bench.info.metadata, bench.source
    meter, search = EvalTimer(site), inference_settings(size, site, facts)
    rows, bad = run_detector(bench.model, source, search, site.channel, site.watch(size, len(source)))
    missed = [line for part in site.channel.all_gather(describe_skipped(source, bad)) for line in part]
    figures = meter.stats(len(source) - len(missed), len(source))
    found = site.channel.run_on_main(lambda: average_precision(source.annotations, rows))
    scores = {name: round(found.scores[name], 4) if name in found.scores else None for name in NAMES}
    return SizeEvaluation(
        row=DetectorResult(size=size, longest=search.longest, **scores, **figures),
        classes=[found.classes[number] for number in source.category_ids],
        skipped=tuple(missed),
        files={f"detections-{size}.json": coco_results(rows)} if site.config.detector.save_detections else {},
    )


def inference_settings(size: int, site: EvalContext, facts: Mapping[str, Any]) -> InferenceSettings:
    """Look at a size as the training's evaluation did at its own, but an image at a time unless told otherwise."""
    mean, std = (torch.tensor(facts[name], device=site.device).view(-1, 1, 1) for name in ("mean", "std"))
    return InferenceSettings(
        short=size,
        longest=round(facts["longest"] * size / facts["test_side"]),
        top=facts["top"],
        batch_size=site.config.batch_size or 1,
        workers=site.config.workers,
        world=site.world,
        rank=site.rank,
        normalise=partial(normalise, mean=mean, std=std),
        autocast=site.autocast,
    )
