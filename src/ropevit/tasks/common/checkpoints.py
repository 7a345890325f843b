"""Checkpoints of a training: what they hold, written so that a killed process leaves none half done, and read back."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ropevit.files import write_atomically
from ropevit.tasks.common.optim import Ema
from ropevit.weights.archive import archive_damage
from ropevit.weights.errors import WeightsError, first_line
from ropevit.weights.reading import load_pickle

NAME = re.compile(r"step-(\d+)\.pt")

#: What a checkpoint holds.
_ENTRIES = {"state", "record", "scaler"}


class CheckpointError(ValueError):
    """No checkpoint of a training can be read, or none could be written."""


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write a checkpoint, then delete all but the newest.

    Args:
        folder: Where checkpoints are.
        step: Steps done.
        state: What to write: tensors and plain values.
        keep: How many to keep.

    Returns:
        The file.

    Raises:
        CheckpointError: If the disk refuses; what was there before stays.
    """
    path = folder / f"step-{step:08d}.pt"
    try:
        write_atomically(path, lambda file: torch.save(state, file))
    except (ValueError, RuntimeError) as error:  # RuntimeError: what torch cannot write
        newest = list_checkpoints(folder)
        kept = f"{newest[-1]} is whole" if newest else "no checkpoint was there before"
        raise CheckpointError(
            f"cannot save step {step}: {first_line(error)} ({kept}); free space, then --resume"
        ) from error
    for old in list_checkpoints(folder)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """List checkpoints, the oldest first."""
    found = [path for path in folder.glob("step-*.pt") if NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=step_of)


def step_of(path: Path) -> int:
    """Tell how many steps were done when a checkpoint was written."""
    return int(path.stem.split("-")[1])


def find_newest(folder: Path) -> tuple[Path | None, list[str]]:
    """Find the newest checkpoint that is whole, every byte of it compared with its checksum.

    Damaged ones are passed over, and renamed so that they are not counted among the newest.

    Returns:
        The file, or None where there is no checkpoint, and a line for each damaged one.

    Raises:
        CheckpointError: If there are checkpoints, or were, but none is whole.
    """
    damaged = []
    for path in reversed(list_checkpoints(folder)):
        problem = damage(path)
        if problem is None:
            return path, damaged
        moved = path.with_suffix(".damaged")
        path.replace(moved)
        damaged.append(f"{path} is damaged ({problem}) and was renamed to {moved.name}")
    if found := sorted(path.name for path in folder.glob("step-*.damaged")):
        problem = damaged[0] if damaged else f"found only damaged checkpoints in {folder} ({', '.join(found)})"
        raise CheckpointError(f"{problem}; no other is there, so start again in another directory")
    return None, []


def damage(path: Path) -> str | None:
    """Say what is wrong with a checkpoint, if anything: with its bytes, or in reading it."""
    if problem := archive_damage(path):
        return problem
    try:
        content = load_pickle(path)
    except WeightsError:
        return "its checksums are right, but it cannot be read"
    return (
        None if isinstance(content, dict) and content.keys() >= _ENTRIES else f"it lacks {', '.join(sorted(_ENTRIES))}"
    )


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint that `find_newest` has found to be whole."""
    return load_pickle(path)


def fsdp_module():
    """Import the functions of FSDP, which few trainings need and which take a second to load."""
    from ropevit.tasks.common import fsdp

    return fsdp


def training_state(model: nn.Module, optimizer: torch.optim.Optimizer, ema: Ema | None, shard: bool) -> dict[str, Any]:
    """Collect whole weights and optimizer state; all processes take part where they are shared out."""
    if shard:
        return fsdp_module().full_state_dict(model, optimizer, ema)
    averages = {} if ema is None else ema.state_dict()
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "ema": averages}


def load_training_state(
    state: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer, ema: Ema | None, shard: bool
) -> None:
    """Put back what `training_state` collected."""
    if shard:
        fsdp_module().load_full_state_dict(state, model, optimizer, ema)
        return
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    if ema is not None:
        ema.load_state_dict(state["ema"])
