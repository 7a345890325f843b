"""Early stopping: end a training whose score no longer improves."""

from collections.abc import Mapping
from typing import Any


def out_of_patience(history: Mapping[str, Any], patience: int | None, steps_per_epoch: int) -> bool:
    """Return whether the evaluations of the last epochs were not better than one before.

    Args:
        history: Step of the last evaluation (`evaluated`) and of the best one (`best_step`).
        patience: Epochs without a better score after which a training ends; None never ends it.
        steps_per_epoch: Steps per epoch.
    """
    return patience is not None and history["evaluated"] - history["best_step"] >= patience * steps_per_epoch


def describe_stop(history: Mapping[str, Any], patience: int | None, metric: str) -> str:
    """Return a line about a training that ended early."""
    return (
        f"stopped after step {history['evaluated']}: {metric} has not improved for {patience} epochs, since step "
        f"{history['best_step']}; best.safetensors has the weights of that step"
    )
