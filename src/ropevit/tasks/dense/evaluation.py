"""Shared by the evaluations of detectors and segmenters: checks of file and data, sizes, settings and statistics."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import torch
from torch import nn

from ropevit.data.loading import describe_skipped
from ropevit.tasks.dense.model_file import ConfigT, ModelInfo
from ropevit.tasks.evaluation.inference_modes import InferenceMode, patch_tokens
from ropevit.tasks.evaluation.loop import BaselinePlan, EvalContext, EvalTimer, SizeEvaluation
from ropevit.tasks.evaluation.results import hash_weights
from ropevit.text import join_names
from ropevit.weights.errors import WeightsError


@dataclass(frozen=True, kw_only=True)
class EvalInputs(Generic[ConfigT]):
    """Model, data and settings of an evaluation."""

    context: EvalContext
    """Device, processes and options."""
    model: nn.Module
    """The model in eval mode."""
    info: ModelInfo[ConfigT]
    """Header of its file."""
    source: Any
    """Validation images."""


def check_metadata(info: ModelInfo[Any], names: Sequence[str], path: Path) -> None:
    """Raise WeightsError for a file without the metadata that its evaluation needs.

    Raises:
        WeightsError: Listing the missing metadata.
    """
    if missing := [name for name in names if info.metadata.get(name) is None]:
        raise WeightsError(f"{path} lacks the metadata {', '.join(missing)}; give a file that a training saved")


def check_classes(path: Path, stored: Sequence[str], data: Path, given: Sequence[str]) -> None:
    """Raise ValueError for data with other classes than the model's.

    Args:
        path: The model's file.
        stored: Its classes, in order.
        data: Path of the data.
        given: Classes of the data, in order.

    Raises:
        ValueError: With both counts, and the names that differ.
    """
    if list(stored) == list(given):
        return
    sides = [("only in the checkpoint", stored, given), ("only in the data", given, stored)]
    differing = [(where, [name for name in these if name not in set(those)]) for where, these, those in sides]
    words = [f"{where}: {join_names(names)}" for where, names in differing if names] or ["the same in another order"]
    raise ValueError(
        f"{path} has {len(stored)} classes, {data} has {len(given)} different ones ({'; '.join(words)}); give data "
        "with the classes of its training"
    )


def default_sizes(trained_at: int, factors: Sequence[float]) -> list[int]:
    """Return the default test sizes: the training's, multiplied by each factor."""
    return sorted({max(1, round(factor * trained_at)) for factor in factors})


def plan_fields(
    inputs: EvalInputs[Any], path: Path, name: str, trained_at: int, factors: Sequence[float]
) -> dict[str, Any]:
    """Return the fields of an `EvalPlan` that do not depend on the task, and move the model to the device.

    Raises:
        ValueError: If a size is below 1.
    """
    sizes = sorted(set(inputs.context.config.sizes or default_sizes(trained_at, factors)))
    if sizes[0] < 1:
        raise ValueError(f"got size {sizes[0]}; expected at least 1 pixel")
    inputs.model.to(inputs.context.device)
    return {
        "name": name,
        "weights": str(path),
        "model": inputs.info.config.model,
        "position": inputs.info.config.position,
        "trained_at": trained_at,
        "data": inputs.source.name,
        "sizes": tuple(sizes),
    }


def shared_settings(inputs: EvalInputs[Any], annotations: str) -> dict[str, Any]:
    """Return what identifies the model and the data of an evaluation."""
    return {
        "fingerprint": hash_weights(inputs.model.state_dict()),
        "images": len(inputs.source),
        "annotations": annotations[:16],
    }


def baseline_plans(
    evaluate_size: Callable[[int, InferenceMode], SizeEvaluation], trained_at: int
) -> dict[InferenceMode, BaselinePlan]:
    """Return the baselines of a detector or segmenter.

    Tiles are left out below the training size, not at it, where a longer image is more than one tile.

    Args:
        evaluate_size: Evaluates at a size in an inference mode.
        trained_at: The test size in training, in pixels.
    """
    return {
        "tiles": BaselinePlan(
            evaluate_size=lambda size: evaluate_size(size, "tiles"), differs=lambda size: size >= trained_at
        ),
        "resize": BaselinePlan(
            evaluate_size=lambda size: evaluate_size(size, "resize"), differs=lambda size: size != trained_at
        ),
    }


def long_limit(metadata: Mapping[str, Any], size: int, short: str, long: str) -> int:
    """Return the limit on the longer side at a size, which grows with the shorter one; see `inference_fields`."""
    return round(metadata[long] * size / metadata[short])


def inference_fields(
    inputs: EvalInputs[Any], size: int, short: str, long: str, mode: InferenceMode = "whole"
) -> dict[str, Any]:
    """Return the fields of `InferenceSettings` at a size: the limit on the longer side grows in proportion.

    Args:
        inputs: The evaluation.
        size: Limit on the shorter side in pixels.
        short: Key of the training's limit on the shorter side in the metadata.
        long: Key of that on the longer side.
        mode: How an image is predicted; with `resize`, it is resized to `size` and then to the training size.
    """
    metadata, context = inputs.info.metadata, inputs.context
    first = (size, long_limit(metadata, size, short, long)) if mode == "resize" else None
    size = metadata[short] if mode == "resize" else size
    mean, std = (torch.tensor(metadata[name], device=context.device).view(-1, 1, 1) for name in ("mean", "std"))
    return {
        "short": size,
        "long": long_limit(metadata, size, short, long),
        "mean": mean,
        "std": std,
        "workers": context.config.workers,
        "world": context.world,
        "rank": context.rank,
        "autocast": context.autocast,
        "resize_first": first,
    }


def size_stats(
    timer: EvalTimer, inputs: EvalInputs[Any], unreadable: Sequence[int]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the statistics of a row, and the skipped images of all processes; every process must call it."""
    source = inputs.source
    skipped = [
        line for part in inputs.context.communicator.all_gather(describe_skipped(source, unreadable)) for line in part
    ]
    return timer.stats(len(source) - len(skipped), len(source)), tuple(skipped)


@contextmanager
def count_tokens(backbone: nn.Module, patch_size: int) -> Iterator[list[int]]:
    """Context that collects the patch tokens of each forward pass: of all images of a batch, with their padding.

    Args:
        backbone: Takes images (B, c, H, W).
        patch_size: Side of its patches in pixels.
    """
    counts: list[int] = []

    def count(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        number, _, height, width = inputs[0].shape
        counts.append(number * patch_tokens(height, width, patch_size))

    hook = backbone.register_forward_pre_hook(count)
    try:
        yield counts
    finally:
        hook.remove()


def mean_tokens(counts: Sequence[int], inputs: EvalInputs[Any], images: int) -> int:
    """Return the patch tokens of an image, the mean over the images of all processes; every process must call it.

    Args:
        counts: Patch tokens of each forward pass of this process.
        inputs: The evaluation.
        images: Images evaluated, over all processes.
    """
    total = inputs.context.communicator.all_reduce_sum(torch.tensor(float(sum(counts)), dtype=torch.float64))
    return round(total.item() / max(images, 1))
