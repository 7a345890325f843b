"""Write, check and read the checkpoints of a training."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ropevit.files import write_atomically
from ropevit.tasks.training.optim import Ema
from ropevit.weights.archive import archive_damage
from ropevit.weights.errors import WeightsError, first_line
from ropevit.weights.reading import load_pickle

NAME = re.compile(r"step-(\d+)\.pt")

#: Entries of a checkpoint, beside the step.
_ENTRIES = {"state", "record", "scaler"}


class CheckpointError(ValueError):
    """A checkpoint cannot be written, or all existing ones are damaged."""


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write a checkpoint, then delete all but the newest.

    Args:
        folder: Directory of the checkpoints.
        step: Steps done.
        state: Content: tensors and plain values.
        keep: Number of checkpoints to keep.

    Returns:
        Path of the file.

    Raises:
        CheckpointError: If it cannot be written, such as on a full disk; earlier checkpoints are kept.
    """
    path = folder / f"step-{step:08d}.pt"
    try:
        write_atomically(path, lambda file: torch.save(state, file))
    except (ValueError, RuntimeError) as error:  # RuntimeError: of torch.save
        newest = list_checkpoints(folder)
        kept = f"{newest[-1]} is intact" if newest else "there is no earlier checkpoint"
        raise CheckpointError(
            f"cannot save step {step}: {first_line(error)} ({kept}); free space, then --resume"
        ) from error
    for old in list_checkpoints(folder)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """List checkpoints, oldest first."""
    found = [path for path in folder.glob("step-*.pt") if NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=step_of)


def step_of(path: Path) -> int:
    """Return the step of a checkpoint, from its name."""
    return int(path.stem.split("-")[1])


def find_newest(folder: Path) -> tuple[Path | None, list[str]]:
    """Find the newest undamaged checkpoint; all bytes are compared with their checksums.

    Damaged checkpoints are skipped, and renamed so that `save_checkpoint` does not count them.

    Returns:
        Path of the file, None if there is no checkpoint; and a message for each damaged one.

    Raises:
        CheckpointError: If all checkpoints are damaged, including those renamed before.
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
        raise CheckpointError(f"{problem}; there is no other checkpoint, so start again in another directory")
    return None, []


def damage(path: Path) -> str | None:
    """Return why a checkpoint is damaged or unreadable, None if it is neither."""
    if problem := archive_damage(path):
        return problem
    try:
        content = load_pickle(path)
    except WeightsError:
        return "its checksums are correct, but it cannot be read"
    return (
        None if isinstance(content, dict) and content.keys() >= _ENTRIES else f"it lacks {', '.join(sorted(_ENTRIES))}"
    )


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint that `find_newest` has checked."""
    return load_pickle(path)


def fsdp_module():
    """Import `fsdp` on demand: few trainings need it, and the import takes a second."""
    from ropevit.tasks.training import fsdp

    return fsdp


def training_state(model: nn.Module, optimizer: torch.optim.Optimizer, ema: Ema | None, shard: bool) -> dict[str, Any]:
    """Return the full states of model, optimizer and EMA; with `shard`, all processes must call this."""
    if shard:
        return fsdp_module().full_state_dict(model, optimizer, ema)
    averages = {} if ema is None else ema.state_dict()
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "ema": averages}


def load_training_state(
    state: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer, ema: Ema | None, shard: bool
) -> None:
    """Load the states that `training_state` returns."""
    if shard:
        fsdp_module().load_full_state_dict(state, model, optimizer, ema)
        return
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    if ema is not None:
        ema.load_state_dict(state["ema"])
