"""Measures frozen features by probes at every size, and writes the results."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from ropevit.extras import require
from ropevit.files import write_text
from ropevit.locks import lock_folder
from ropevit.machine import environment
from ropevit.models.position_options import position_with_options
from ropevit.tasks.classify.evaluate import BATCH
from ropevit.tasks.evaluation.loop import distributed
from ropevit.tasks.evaluation.passes import PassesStarted, PassFormat, PassProgress, PassRecord, PassSkipped, Report
from ropevit.tasks.evaluation.results import to_csv
from ropevit.tasks.probe.config import ProbeConfig
from ropevit.tasks.probe.features import MOST_NAMED, Extractor, Features, Speed
from ropevit.tasks.probe.kinds import IMAGE, ProbeKind
from ropevit.tasks.probe.knn import knn_predict
from ropevit.tasks.probe.linear import LinearProbe, linear_probe
from ropevit.tasks.probe.patch_probe import measure_patches
from ropevit.tasks.probe.plan import Condition, ProbePlan, make_plan
from ropevit.tasks.probe.report import ProbeSummary, write_report
from ropevit.tasks.probe.rows import FACTS, ProbeRow, conclude, majority, make_rows, remark
from ropevit.tasks.probe.splits import check_labels
from ropevit.tasks.registry import CLASSIFY, TASKS
from ropevit.tasks.runs.run_dir import task_of_checkpoint

#: Output files: all results, and the table.
RESULTS, TABLE = "probe.json", "probe.csv"


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """The outcome of a probe."""

    kind: ProbeKind
    """What the probes measure."""
    rows: tuple[ProbeRow, ...]
    trained_at: int
    """The training size in pixels."""
    conclusions: tuple[str, ...]
    remarks: tuple[str, ...]
    """Remarks on the fits of the linear probe, and on few images."""
    report: Path
    """The HTML report."""


def probe(config: ProbeConfig, report: Report = lambda _: None) -> ProbeResult:
    """Measure the frozen features of a model on labeled images, at every size and with every RoPE scaling method.

    Features of training and test images are computed alike; the probes are fitted to the training images and
    measured on the test images: k nearest neighbors and a linear classifier of image features, or, where the images
    have masks, a linear classifier of patch features. Every result is saved as soon as it is known.

    Args:
        config: Model, images, sizes and protocol.
        report: Called with events.

    Returns:
        The rows, including those of an interrupted run that is resumed.

    Raises:
        ValueError: If options, weights, images or the output directory do not fit together.
    """
    task = task_of_checkpoint(config.checkpoint, config.weights)
    if task is not TASKS[CLASSIFY]:
        raise ValueError(f"{config.checkpoint} is a {task.noun}; probe takes classifiers, and models without a head")
    require("jinja2", "figures")  # before the passes, not after them
    with distributed(config.eval_config(), lambda _: None) as context:
        if context.world > 1:
            raise ValueError(f"got {context.world} processes; probe runs in one: start it without torchrun")
        plan = make_plan(config, context)
        out = config.out or Path("runs/probe") / plan.eval_model.name
        with lock_folder(out):
            return _probe_into(out, plan, report)


def _probe_into(out: Path, plan: ProbePlan, report: Report) -> ProbeResult:
    """Measure every condition that the locked output directory lacks."""
    kind, measure = plan.kind, _measure_images if plan.kind is IMAGE else measure_patches
    record = PassRecord(
        out / RESULTS,
        plan.settings(),
        PassFormat(kind.codec, {"probes": list, **FACTS, **kind.facts}, plan.has_pass),
        plan.config.resume,
        _describe(plan),
    )
    sizes = sorted({condition.view.size for condition in plan.conditions})
    notes = (
        f"weights: {plan.eval_model.parsed.source}",
        f"{len(plan.train):,} images to fit the probes to, {len(plan.test):,} to measure them on",
        *plan.notes,
    )
    name = f"{plan.eval_model.name} on {plan.test.name} at {', '.join(map(str, sizes))} px"
    report(PassesStarted(name=name, notes=notes))
    extractor = Extractor(plan)
    result = None
    for condition in plan.conditions:
        key = {"probes": list(kind.probes), **condition.key}
        if record.find(key) is None:
            record.add(key, *measure(extractor, condition, report))
            result = _write(out, plan, record, notes)  # also what is not finished can be read
    return result or _write(out, plan, record, notes)


def _measure_images(
    extractor: Extractor, condition: Condition, report: Report
) -> tuple[Int[Tensor, "2 n 2"], dict[str, Any]]:
    """Return correct and all predictions of each probe and test image, and the facts of a row."""
    plan, speed = extractor.plan, Speed(extractor.plan.context.device)
    total = len(plan.train) + len(plan.test)

    def watch(before: int) -> Any:
        return lambda done: report(PassProgress(text=condition.text, done=before + done, total=total))

    train = extractor.extract(condition, plan.train, speed, watch(0))
    test = extractor.extract(condition, plan.test, speed, watch(len(plan.train)))
    if named := (*train.skipped[:MOST_NAMED], *test.skipped[:MOST_NAMED]):
        report(PassSkipped(names=named))
    check_labels(train.labels, plan.train.classes, plan.train.name)
    text = f"{condition.text}: fitting"
    found, fit = _predict(
        plan, train, test, lambda done, total: report(PassProgress(text=text, done=done, total=total))
    )
    counts = torch.zeros(len(found), len(plan.test), 2, dtype=torch.int64)
    for row, predicted in enumerate(found.values()):
        right = (predicted == test.labels).cpu()
        counts[row, test.places] = torch.stack([right, torch.ones_like(right)], 1).long()
    return counts, {
        "tokens": plan.tokens(condition),
        "images_per_second": speed.images_per_second(),
        "channels": train.values.shape[1],
        **{"penalty": fit.penalty, "iterations": fit.iterations, "converged": fit.converged},
        "train_images": len(train.labels),
        "train_skipped": len(train.skipped),
    }


def _predict(
    plan: ProbePlan, train: Features, test: Features, watch: Callable[[int, int], None]
) -> tuple[Mapping[str, Tensor], LinearProbe]:
    """Return the predictions of each probe for the test images, and the linear one; `watch` sees its fits."""
    config, classes = plan.config, len(plan.test.classes)
    nearest = knn_predict(
        train.values, train.labels, test.values, classes, neighbors=config.neighbors, temperature=config.temperature
    )
    linear = linear_probe(train.values, train.labels, classes, config.seed, watch)
    return {"knn": nearest, "linear": linear.predict(test.values)}, linear


def _write(out: Path, plan: ProbePlan, record: PassRecord, notes: tuple[str, ...]) -> ProbeResult:
    """Write the table, the figure and the report of what is measured so far."""
    trained_at = plan.eval_model.trained_at
    rows = make_rows(plan.kind, [(each, record.counts(each)) for each in record.passes], plan.reference.key)
    cells = [row.cells() for row in rows]
    write_text(out / TABLE, to_csv(list(cells[0]), [list(each.values()) for each in cells]))
    conclusions, remarks = conclude(rows, plan.test.classes), remark(rows)
    done = {(row.size, row.scaling, row.mode) for row in rows}
    summary = ProbeSummary(
        model=plan.eval_model.name,
        position=plan.eval_model.config.position,
        trained_at=trained_at,
        data=plan.test.name,
        kind=plan.kind,
        rows=tuple(rows),
        majority=majority(next(row for row in rows if row.is_reference)),
        conclusions=tuple(conclusions),
        missing=sum(tuple(condition.key.values()) not in done for condition in plan.conditions),
        config=plan.config,
        classes=plan.test.classes,
        notes=(*notes, *remarks),
        environment=record.content["machine"],
    )
    record.finish({"trained_at": trained_at, "rows": cells, "conclusions": conclusions, "remarks": remarks})
    page = write_report(out, summary)
    return ProbeResult(
        kind=plan.kind,
        rows=tuple(rows),
        trained_at=trained_at,
        conclusions=tuple(conclusions),
        remarks=tuple(remarks),
        report=page,
    )


def _describe(plan: ProbePlan) -> dict[str, Any]:
    """Return the facts in probe.json beside settings and results, as in eval.json."""
    config, eval_model = plan.config, plan.eval_model
    dtype = torch.bfloat16 if config.precision == "bfloat16" else torch.float32
    machine = environment(plan.context.device, dtype, config.workers, torch.get_num_threads())
    model = {"name": eval_model.name, "weights": eval_model.parsed.source, "checkpoint": config.checkpoint}
    model |= {"model": eval_model.published_name, "position": position_with_options(eval_model.config)}
    return {
        "data": config.data,
        "model": model | {"trained_at": eval_model.trained_at},
        "machine": machine | {"batch_size": config.batch_size or BATCH},
    }
