"""Evaluates a trained model at every test size: plain, with each RoPE scaling, and by resizing or tiling."""

import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ropevit.models.rotary import set_scaling
from ropevit.models.vit import ViT
from ropevit.rope.scaling import parse_override
from ropevit.study.events import Evaluating, Tuning, describe_training
from ropevit.study.job import RunJob
from ropevit.study.panels import InferenceMode
from ropevit.study.stored_runs import read_result, stored_baselines
from ropevit.study.tuning import describe_search, tune
from ropevit.tasks.evaluation.tuned_scaling import AUTO


def evaluate_missing(model: ViT, job: RunJob, known: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluate a trained model, plain and with each RoPE scaling, wherever no score is stored yet.

    Returns:
        Fields of `result.json`: `scores`, `scaled` by RoPE scaling, and `baselines` (resizing, tiling) at the sizes
        above the training size for a model that was trained without RoPE scaling; with `auto` also `tuned`, what was
        chosen at each size above the training size, and its gain on held-out images.
    """
    begin = time.perf_counter()
    scores = evaluate(model, job, known["scores"])
    methods = _scaling_methods_for(model, job)
    tuned = _tune_missing(model, job, known["tuned"]) if AUTO in methods else {}
    scaled = {
        method: _evaluate_tuned(model, job, tuned, scores, known["scaled"].get(method, {}))
        if method == AUTO
        else _evaluate_scaled(model, job, method, scores, known["scaled"].get(method, {}))
        for method in methods
    }
    baselines = {
        mode: _evaluate_baseline(model, job, mode, known["baselines"].get(mode, {})) for mode in job.panel.baselines
    }
    return {
        "scores": _to_json(scores),
        "scaled": {method: _to_json(found) for method, found in scaled.items()},
        "baselines": {mode: _to_json(found) for mode, found in baselines.items()},
        **({"tuned": tuned} if tuned else {}),
        "eval_seconds": round(known["eval_seconds"] + time.perf_counter() - begin, 3),
    }


def stored_scores(job: RunJob, trained: bool) -> dict[str, Any]:
    """Read the scores that an earlier call stored for the same run, if its training was complete."""
    path = job.folder / "result.json"
    found = read_result(path, job.run, job.images) if trained and path.exists() else {}
    return (
        {"scores": {}, "scaled": {}, "tuned": {}, "eval_seconds": 0.0}
        | found
        | {"baselines": stored_baselines(found, job.panel.baselines[0])}
    )


@torch.no_grad()
def evaluate(model: ViT, job: RunJob, known: Mapping[str, float]) -> dict[int, float]:
    """Return the score in percent at every test size; missing ones are evaluated in float32."""
    model.eval()
    wanted = job.panel.settings.test_sizes
    sizes, scores = [size for size in wanted if str(size) not in known], {}
    for index, size in enumerate(sizes):
        job.report(Evaluating(run=job.run, size=size, index=index, total=len(sizes)))
        scores[size] = job.panel.score(model, size, job.check)
    return {size: known[str(size)] if str(size) in known else scores[size] for size in wanted}


def _scaling_methods_for(model: ViT, job: RunJob) -> tuple[str, ...]:
    """Return the RoPE scaling methods to evaluate a model with: none for a model without RoPE."""
    return job.scaling if model.config.rope else ()


def _evaluate_scaled(
    model: ViT, job: RunJob, scaling: str, plain: Mapping[int, float], known: Mapping[str, float]
) -> dict[int, float]:
    """Evaluate a model with RoPE scaling; at the training size, where it has no effect, the plain score is used."""
    set_scaling(model, scaling)
    same = {str(size): score for size, score in plain.items() if size == job.panel.settings.train_size}
    try:
        return evaluate(model, job, {**known, **same})
    finally:
        set_scaling(model, job.run.train_scaling)


def _tune_missing(model: ViT, job: RunJob, known: Mapping[str, Any]) -> dict[str, Any]:
    """Choose a RoPE scaling method at each size above the training size, where none is stored yet."""
    assert job.tuning is not None
    found = {}
    for size in job.panel.settings.test_sizes:
        if size <= job.panel.settings.train_size:
            continue
        key = str(size)
        found[key] = (
            known[key]
            if key in known
            else describe_search(tune(model, job.tuning, size, job.check, _count_tuning(job, size)))
        )
    return found


def _count_tuning(job: RunJob, size: int) -> Callable[[], None]:
    """Return a function that reports another evaluation of the choice at a size."""
    count = itertools.count(1)
    return lambda: job.report(Tuning(run=job.run, size=size, done=next(count)))


@torch.no_grad()
def _evaluate_tuned(
    model: ViT, job: RunJob, tuned: Mapping[str, Any], plain: Mapping[int, float], known: Mapping[str, float]
) -> dict[int, float]:
    """Evaluate a model with what was chosen at each size; at the others with the plain score."""
    model.eval()
    scores = dict(plain)
    for key, choice in tuned.items():
        if key in known:
            scores[int(key)] = known[key]
        elif choice["scaling"] != choice["baseline"]:
            set_scaling(model, parse_override(choice["scaling"]))
            try:
                scores[int(key)] = job.panel.score(model, int(key), job.check)
            finally:
                set_scaling(model, job.run.train_scaling)
    return scores


@torch.no_grad()
def _evaluate_baseline(model: ViT, job: RunJob, mode: InferenceMode, known: Mapping[str, float]) -> dict[int, float]:
    """Evaluate a baseline: larger images are resized to the training size, or split into tiles of it."""
    settings = job.panel.settings
    sizes = [
        size
        for size in settings.test_sizes
        if size > settings.train_size and describe_training(job.run.to_dict()) is None
    ]
    model.eval()
    return {
        size: known[str(size)] if str(size) in known else job.panel.score(model, size, job.check, mode)
        for size in sizes
    }


def _to_json(scores: Mapping[int, float]) -> dict[str, float]:
    """Round scores, with the keys of JSON."""
    return {str(size): round(score, 4) for size, score in scores.items()}
