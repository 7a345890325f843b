"""The state of a training on disk: its checkpoint and its log, refused where they are damaged."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ropevit.files import parse_json, write_atomically
from ropevit.models.vit import ViT
from ropevit.study.job import RunJob
from ropevit.weights.errors import first_line
from ropevit.weights.reading import read_file


@dataclass
class RunState:
    """A training on its way; all of it is in a checkpoint."""

    model: ViT
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    step_ms: float = 0.0


def save(state: RunState, job: RunJob) -> None:
    """Write a checkpoint, whole or not at all.

    It needs no state of random numbers: every draw comes from a stream that the panel, the seed and the step name.
    """
    content = {
        "model": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "step": state.step,
        "seconds": state.seconds,
        "step_ms": state.step_ms,
        **identity(job),
    }
    write_atomically(job.folder / "checkpoint.pt", lambda file: torch.save(content, file))


def identity(job: RunJob) -> dict[str, Any]:
    """Name the training that a checkpoint belongs to."""
    return {"run": asdict(job.run), "images": job.images}


def resume(state: RunState, job: RunJob) -> None:
    """Put a training where its checkpoint was.

    Raises:
        ValueError: If the file is damaged, or is not a checkpoint of this training.
    """
    path = job.folder / "checkpoint.pt"
    try:
        content, _ = read_file(path)
        check(content, job)
        state.model.load_state_dict(content["model"])
        state.optimizer.load_state_dict(content["optimizer"])
        check_moments(state.optimizer)
    except Exception as error:  # what is damaged can raise anything
        raise ValueError(f"cannot go on from {path}: {first_line(error)}; delete it to train this run again") from error
    state.step, state.seconds, state.step_ms = content["step"], content["seconds"], content["step_ms"]


def check(content: Any, job: RunJob) -> None:
    """Refuse what is no checkpoint of a training, or one of another training.

    Raises:
        ValueError: Saying which.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"it holds {type(content).__name__}, expected a dict")
    steps, step = job.panel.settings.steps, content["step"]
    if type(step) is not int or not 0 <= step <= steps:
        raise ValueError(f"it holds step {step!r} of {steps}")
    for name in ("seconds", "step_ms"):
        if not isinstance(content[name], int | float) or not math.isfinite(content[name]):
            raise ValueError(f"it holds {name}={content[name]!r}")
    for name, wanted in identity(job).items():  # a checkpoint from before they were kept lacks them
        if None not in (found := content.get(name), wanted) and found != wanted:
            raise ValueError("it was trained on other images" if name == "images" else f"it belongs to {found}")


def check_moments(optimizer: torch.optim.Optimizer) -> None:
    """Refuse running averages of another shape than their parameters: torch takes any.

    Raises:
        ValueError: If one does not fit.
    """
    for parameter, moments in optimizer.state.items():
        for name in ("exp_avg", "exp_avg_sq"):
            if moments[name].shape != parameter.shape:
                raise ValueError(f"{name} is {tuple(moments[name].shape)}, expected {tuple(parameter.shape)}")


def truncate_log(path: Path, step: int) -> None:
    """Drop the lines of a log that come after a step, and a last line cut short.

    Raises:
        ValueError: If another line is damaged.
    """
    if not path.exists():
        return
    *lines, last = path.read_bytes().split(b"\n")  # what follows the last line end was cut short, if it is anything
    kept = [line for number, line in enumerate(lines, 1) if step_of(line, f"line {number} of {path}") <= step]
    if last or len(kept) < len(lines):
        write_atomically(path, lambda file: file.write(b"".join(line + b"\n" for line in kept)))


def step_of(line: bytes, source: str) -> int:
    """Read the step of a line of the log.

    Raises:
        ValueError: If it is damaged.
    """
    hint = "delete the log, or the folder to train this run again"
    try:
        content = parse_json(line, source)
    except ValueError as error:
        raise ValueError(f"{error}; {hint}") from None
    if not isinstance(content, dict) or type(content.get("step")) is not int:
        raise ValueError(f"{source} names no step; {hint}")
    return content["step"]
