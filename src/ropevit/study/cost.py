"""Measures the time of a training step of each embedding, after all trainings and in interleaved rounds."""

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ropevit.models.vit import ViT
from ropevit.study.events import Report, Timing
from ropevit.study.panels import PANEL_CLASSES, Panel
from ropevit.study.precision import autocast
from ropevit.study.train import start_model
from ropevit.study.workers import Images, StudyPlan

#: Timed rounds, in each of which every embedding takes one step, and rounds before them to warm up.
ROUNDS, WARM_UP = 20, 2
#: Seconds after which no further round starts, once the minimum number of rounds is done.
MAX_SECONDS, MIN_ROUNDS = 6.0, 5


def measure_costs(plan: StudyPlan, images: Images, report: Report) -> dict[str, dict[str, Any]]:
    """Time forward and backward of a training batch for each panel and embedding, in this process alone.

    The embeddings take turns, so that other load on the machine slows all of them; each time is divided by that of the
    first embedding in the same round.

    Returns:
        For each panel `rounds`, `threads`, and by embedding `ms` and `ratio` (to the first embedding), each as
        lower quartile, median and upper quartile.
    """
    costs = {}
    for name in plan.config.panels:
        panel = PANEL_CLASSES[name](plan.config.settings(name), *(part.to(plan.device) for part in images))
        models = {
            embedding: start_model(panel.model_config(embedding), panel.settings, name, 0).to(plan.device).train()
            for embedding in plan.config.all_embeddings
        }
        report(Timing(panel=name))
        costs[name] = summarize_times(time_rounds(plan, panel, models))
    return costs


def time_rounds(plan: StudyPlan, panel: Panel, models: Mapping[str, ViT]) -> dict[str, list[float]]:
    """Time a step of every model in turn, in several rounds; return the milliseconds by embedding."""
    images, targets = panel.batch(0, 0)
    times: dict[str, list[float]] = {embedding: [] for embedding in models}
    begin = time.perf_counter()
    for index in range(WARM_UP + ROUNDS):
        if index >= WARM_UP + MIN_ROUNDS and time.perf_counter() - begin > MAX_SECONDS:
            break
        for embedding, model in models.items():
            start = time.perf_counter()
            with autocast(plan.device, plan.dtype):
                loss = panel.loss(model, images, targets)
            loss.backward()
            if plan.device.type == "cuda":
                torch.cuda.synchronize(plan.device)
            if index >= WARM_UP:
                times[embedding].append(1000 * (time.perf_counter() - start))
            model.zero_grad(set_to_none=True)
    return times


def summarize_times(times: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Return the quartiles of times, and of their ratios to the first embedding's in the same round."""
    first = next(iter(times.values()))
    return {
        "rounds": len(first),
        "threads": torch.get_num_threads(),
        "ms": {name: quartiles(values) for name, values in times.items()},
        "ratio": {
            name: quartiles([value / base for value, base in zip(values, first, strict=True)])
            for name, values in times.items()
        },
    }


def quartiles(values: Sequence[float]) -> list[float]:
    """Return the lower quartile, the median and the upper quartile."""
    return [round(value, 4) for value in statistics.quantiles(values, n=4, method="inclusive")]


def format_ratio(cost: Mapping[str, Any], embedding: str) -> str:
    """Format the time of a step relative to the first embedding's: 1.05 (1.03 to 1.08)."""
    low, median, high = cost["ratio"][embedding]
    return f"{median:.2f} ({low:.2f} to {high:.2f})"
