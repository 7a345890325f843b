"""Checkpoint of a training run, with checks for damage."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ropevit.files import write_atomically
from ropevit.models.vit import ViT
from ropevit.study.job import RunJob
from ropevit.weights.errors import first_line
from ropevit.weights.reading import read_file


@dataclass
class RunState:
    """State of a training run, as a checkpoint stores it."""

    model: ViT
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    step_ms: float = 0.0


def save(state: RunState, job: RunJob) -> None:
    """Write a checkpoint atomically.

    It holds no generator state: every random number is derived from the panel, the seed and the step.
    """
    content = {
        "model": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "step": state.step,
        "seconds": state.seconds,
        "step_ms": state.step_ms,
        **run_identity(job),
    }
    write_atomically(job.folder / "checkpoint.pt", lambda file: torch.save(content, file))


def run_identity(job: RunJob) -> dict[str, Any]:
    """Return the entries that identify the run of a checkpoint."""
    return {"run": job.run.to_dict(), "images": job.images}


def resume(state: RunState, job: RunJob) -> None:
    """Load the checkpoint into the state.

    Raises:
        ValueError: If the file is damaged, or is not a checkpoint of this training.
    """
    path = job.folder / "checkpoint.pt"
    try:
        content, _ = read_file(path)
        check(content, job)
        state.model.load_state_dict(content["model"])
        state.optimizer.load_state_dict(content["optimizer"])
        _check_moments(state.optimizer)
    except Exception as error:  # a damaged file can raise anything
        raise ValueError(f"cannot go on from {path}: {first_line(error)}; delete it to train this run again") from error
    state.step, state.seconds, state.step_ms = content["step"], content["seconds"], content["step_ms"]


def check(content: object, job: RunJob) -> None:
    """Check that the content of a file is a checkpoint of this run.

    Raises:
        ValueError: If it is not, with the reason.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"it holds {type(content).__name__}, expected a dict")
    steps, step = job.panel.settings.steps, content["step"]
    if type(step) is not int or not 0 <= step <= steps:
        raise ValueError(f"it holds step {step!r} of {steps}")
    for name in ("seconds", "step_ms"):
        if not isinstance(content[name], int | float) or not math.isfinite(content[name]):
            raise ValueError(f"it holds {name}={content[name]!r}")
    for name, wanted in run_identity(job).items():  # a checkpoint from before they were kept lacks them
        if None not in (found := content.get(name), wanted) and found != wanted:
            raise ValueError("it was trained on other images" if name == "images" else f"it belongs to {found}")


def _check_moments(optimizer: torch.optim.Optimizer) -> None:
    """Check that AdamW's running averages have the shapes of their parameters, which torch does not.

    Raises:
        ValueError: If a shape differs.
    """
    for parameter, moments in optimizer.state.items():
        for name in ("exp_avg", "exp_avg_sq"):
            if moments[name].shape != parameter.shape:
                raise ValueError(f"{name} is {tuple(moments[name].shape)}, expected {tuple(parameter.shape)}")
