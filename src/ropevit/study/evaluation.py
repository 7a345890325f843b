"""A trained model is measured: at every test size, with each rule, and by the trivial way to larger images."""

import time
from collections.abc import Mapping
from typing import Any

import torch

from ropevit.models.rotary import set_scaling
from ropevit.models.vit import ViT
from ropevit.study.events import Evaluating
from ropevit.study.job import RunJob
from ropevit.study.stored_runs import read_result


def evaluate_missing(model: ViT, job: RunJob, known: Mapping[str, Any]) -> dict[str, Any]:
    """Measure a trained model, without rules and with each, but for what is known already.

    Returns:
        Fields of `result.json`: `scores`, `scaled` by rule, and `baseline` at the sizes above the training size for a
        model that was trained without rules.
    """
    begin = time.perf_counter()
    scores = evaluate(model, job, known["scores"])
    scaled = {
        rule: evaluate_scaled(model, job, rule, scores, known["scaled"].get(rule, {}))
        for rule in scaling_methods_for(model, job)
    }
    baseline = evaluate_baseline(model, job, known["baseline"])
    return {
        "scores": to_json(scores),
        "scaled": {rule: to_json(found) for rule, found in scaled.items()},
        "baseline": to_json(baseline),
        "eval_seconds": round(known["eval_seconds"] + time.perf_counter() - begin, 3),
    }


def stored_scores(job: RunJob, trained: bool) -> dict[str, Any]:
    """Read what an earlier call has measured of the same training, if it had come to its end."""
    path = job.folder / "result.json"
    found = read_result(path, job.run, job.images) if trained and path.exists() else {}
    return {"scores": {}, "scaled": {}, "baseline": {}, "eval_seconds": 0.0} | found


@torch.no_grad()
def evaluate(model: ViT, job: RunJob, known: Mapping[str, float]) -> dict[int, float]:
    """Measure a trained model at every test size of which the score is not known, in percent; always in float32."""
    model.eval()
    wanted = job.panel.settings.test_sizes
    sizes, scores = [size for size in wanted if str(size) not in known], {}
    for index, size in enumerate(sizes):
        job.report(Evaluating(run=job.run, size=size, index=index, total=len(sizes)))
        scores[size] = job.panel.score(model, size, job.check)
    return {size: known[str(size)] if str(size) in known else scores[size] for size in wanted}


def scaling_methods_for(model: ViT, job: RunJob) -> tuple[str, ...]:
    """List the rules with which a model is measured: none where it has no rotation."""
    return job.scaling if model.config.rope else ()


def evaluate_scaled(
    model: ViT, job: RunJob, scaling: str, plain: Mapping[int, float], known: Mapping[str, float]
) -> dict[int, float]:
    """Measure a trained model with a rule; at the training size, where a rule changes no bit, the score is known."""
    set_scaling(model, scaling)
    same = {str(size): score for size, score in plain.items() if size == job.panel.settings.train_size}
    try:
        return evaluate(model, job, {**known, **same})
    finally:
        set_scaling(model, job.run.train_scaling)


@torch.no_grad()
def evaluate_baseline(model: ViT, job: RunJob, known: Mapping[str, float]) -> dict[int, float]:
    """Measure a model at the training size on larger images that are resized to it, or cut into tiles of it."""
    settings = job.panel.settings
    sizes = [size for size in settings.test_sizes if size > settings.train_size and job.run.train_scaling is None]
    model.eval()
    return {
        size: known[str(size)] if str(size) in known else job.panel.baseline(model, size, job.check) for size in sizes
    }


def to_json(scores: Mapping[int, float]) -> dict[str, float]:
    """Write scores as JSON holds them."""
    return {str(size): round(score, 4) for size, score in scores.items()}
