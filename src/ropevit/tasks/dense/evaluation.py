"""What the evaluations of detectors and segmenters share: checks of file and data, sizes, settings and statistics."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import torch
from torch import nn

from ropevit.data.loading import describe_skipped
from ropevit.tasks.common.eval_results import fingerprint
from ropevit.tasks.common.evaluation import EvalContext, EvalTimer
from ropevit.tasks.dense.model_file import ConfigT, ModelInfo
from ropevit.text import join_names
from ropevit.weights.errors import WeightsError


@dataclass(frozen=True, kw_only=True)
class EvalInputs(Generic[ConfigT]):
    """Everything that the evaluation at one size needs."""

    site: EvalContext
    model: nn.Module
    """In evaluation mode."""
    info: ModelInfo[ConfigT]
    """Header of its file."""
    source: Any
    """Validation images."""


def check_metadata(info: ModelInfo[Any], names: Sequence[str], path: Path) -> None:
    """Refuse a file that does not record how its model is evaluated.

    Raises:
        WeightsError: Naming what is missing.
    """
    if missing := [name for name in names if info.metadata.get(name) is None]:
        raise WeightsError(f"{path} does not say its {', '.join(missing)}; give a file that a training wrote")


def check_classes(path: Path, stored: Sequence[str], data: Path, given: Sequence[str]) -> None:
    """Refuse data with other classes than the model's.

    Args:
        path: The model's file.
        stored: Its classes, in order.
        data: Where the classes of the data are listed.
        given: The classes of the data, in order.

    Raises:
        ValueError: With both counts, and the names that differ.
    """
    if list(stored) == list(given):
        return
    sides = [("only in the checkpoint", stored, given), ("only in the data", given, stored)]
    differing = [(where, [name for name in these if name not in set(those)]) for where, these, those in sides]
    words = [f"{where}: {join_names(names)}" for where, names in differing if names] or ["the same in another order"]
    raise ValueError(
        f"{path} knows {len(stored)} classes, {data} has {len(given)} others ({'; '.join(words)}); give the data that "
        "it was trained for"
    )


def default_sizes(trained_at: int, factors: Sequence[float]) -> list[int]:
    """Return test sizes below, at and above the training's, which the factors multiply."""
    return sorted({max(1, round(factor * trained_at)) for factor in factors})


def plan_fields(
    inputs: EvalInputs[Any], path: Path, name: str, trained_at: int, factors: Sequence[float]
) -> dict[str, Any]:
    """Return the fields of an `EvalPlan` that do not depend on the task, and move the model to the device.

    Raises:
        ValueError: If a size is below 1.
    """
    sizes = sorted(set(inputs.site.config.sizes or default_sizes(trained_at, factors)))
    if sizes[0] < 1:
        raise ValueError(f"got size {sizes[0]}; expected 1 pixel or more")
    inputs.model.to(inputs.site.device)
    return {
        "name": name,
        "weights": str(path),
        "model": inputs.info.config.model,
        "position": inputs.info.config.position,
        "trained_at": trained_at,
        "data": inputs.source.name,
        "sizes": tuple(sizes),
    }


def identity(inputs: EvalInputs[Any], annotations: str) -> dict[str, Any]:
    """Return what identifies the model and the data of an evaluation."""
    return {
        "fingerprint": fingerprint(inputs.model.state_dict()),
        "images": len(inputs.source),
        "annotations": annotations[:16],
    }


def inference_fields(inputs: EvalInputs[Any], size: int, short: str, long: str) -> dict[str, Any]:
    """Return the fields of `InferenceSettings` at a size: the limit on the longer side grows in proportion.

    Args:
        inputs: The evaluation.
        size: Limit on the shorter side in pixels.
        short: Name of the training's limit on the shorter side in the metadata.
        long: Name of that on the longer side.
    """
    metadata, site = inputs.info.metadata, inputs.site
    mean, std = (torch.tensor(metadata[name], device=site.device).view(-1, 1, 1) for name in ("mean", "std"))
    return {
        "short": size,
        "long": round(metadata[long] * size / metadata[short]),
        "mean": mean,
        "std": std,
        "workers": site.config.workers,
        "world": site.world,
        "rank": site.rank,
        "autocast": site.autocast,
    }


def size_stats(timer: EvalTimer, inputs: EvalInputs[Any], bad: Sequence[int]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return what every row holds besides scores, and the skipped images of all processes, which ask together."""
    source = inputs.source
    skipped = [line for part in inputs.site.channel.all_gather(describe_skipped(source, bad)) for line in part]
    return timer.stats(len(source) - len(skipped), len(source)), tuple(skipped)
