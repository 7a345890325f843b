"""Early stopping: end a training whose score no longer improves."""

from collections.abc import Mapping
from typing import Any


def out_of_patience(history: Mapping[str, Any], patience: int | None, steps_per_epoch: int) -> bool:
    """Return whether the evaluations of the last epochs were not better than one before.

    Args:
        history: Step of the last evaluation (`evaluated`), of the best one (`best_step`), and that from which the
            training was extended (`extended_at`), before which nothing counts.
        patience: Epochs without a better score after which a training ends; None never ends it.
        steps_per_epoch: Steps per epoch.
    """
    first = max(history["best_step"], history.get("extended_at", 0))
    return patience is not None and history["evaluated"] - first >= patience * steps_per_epoch


def describe_stop(history: Mapping[str, Any], patience: int | None, metric: str) -> str:
    """Return a line about a training that ended early."""
    return (
        f"stopped after step {history['evaluated']}: {metric} has not improved for {patience} epochs, since step "
        f"{history['best_step']}; best.safetensors has the weights of that step"
    )
