"""The directory of a training: made once, never overwritten, and resumed only with what it was started with."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ropevit.data.identity import describe_changes
from ropevit.files import read_json, write_json
from ropevit.locks import NAME, is_empty
from ropevit.tasks.common.config import FIXED, RunConfig
from ropevit.tasks.common.run_files import RUN_FILES

FILE = "config.json"
#: Under which key the config says which images it was started with.
IMAGES = "images"

#: A file that a killed process was writing.
PARTIAL_FILE = re.compile(r"\..+\.\d+\.part")

#: What may lie in a directory in which no step was taken, beside the lock and what was half written.
BEGINNINGS = (FILE, "metrics.jsonl", "checkpoints", "tensorboard", "wandb", "wandb.id")

#: Fields that others than the training read -> of which type they are; a field may be missing or null.
TYPES: dict[tuple[str, ...], type | tuple[type, ...]] = {
    ("recipe",): str,
    ("metric",): str,
    ("model",): dict,
    ("model", "position"): str,
    ("model", "scaling"): str,
    ("optim",): dict,
    ("optim", "epochs"): (int, float),
    ("optim", "steps"): (int, float),
    ("run",): dict,
    (IMAGES,): dict,
    (IMAGES, "train"): dict,
    (IMAGES, "val"): dict,
}


def open_directory(
    run: RunConfig, settings: Mapping[str, Any], images: Mapping[str, Mapping[str, Any]] | None = None
) -> None:
    """Make the directory and write the config, or check that it holds a training with the same config and images.

    Fields of the run that change how it is computed, not what comes out, may differ, and so may the place of the data.
    A directory in which no step was taken is made anew.

    Args:
        run: Where.
        settings: The whole config as JSON can hold it; what `run` holds is under "run".
        images: What `identify` gives of each split, by name.

    Raises:
        ValueError: If something else is there, or the training was started otherwise.
    """
    if run.out.exists() and not run.out.is_dir():
        raise ValueError(f"got the file {run.out} for the directory of the run; choose another --out")
    if is_empty(run.out) or has_not_trained(run.out):
        remove_partial_files(run.out)
        write_json(run.out / FILE, {**settings, **({} if images is None else {IMAGES: images})})
        return
    if not run.resume:
        more = ", or go on with what is there with --resume" if (run.out / FILE).exists() else ""
        raise ValueError(f"{run.out} is not empty; choose another --out{more}")
    before = read_settings(run.out)
    if changed := differences(comparable(before), comparable(settings)):
        raise ValueError(f"{run.out} was started otherwise ({'; '.join(changed)}); resume it with the same options")
    check_images(run.out, before.get(IMAGES) or {}, images or {})
    check_checkpoints(run.out)
    remove_partial_files(run.out)


def check_checkpoints(folder: Path) -> None:
    """Refuse to start a training over that has left weights, but whose checkpoints are gone.

    Raises:
        ValueError: Naming the weights.
    """
    weights = [name for name in RUN_FILES.values() if (folder / name).exists()]
    if weights and not any((folder / "checkpoints").glob("step-*")):
        raise ValueError(
            f"{folder} holds {', '.join(weights)}, but no checkpoint to resume from; choose another --out, or start "
            f"from its weights: --init {folder / weights[0]}"
        )


def remove_partial_files(folder: Path) -> None:
    """Remove what a killed process was writing."""
    for place in (folder, folder / "checkpoints"):
        for path in place.glob(".*.part"):
            if PARTIAL_FILE.fullmatch(path.name):
                path.unlink()


def has_not_trained(folder: Path) -> bool:
    """Tell whether all that a directory holds is what a training writes before its first step."""
    names = {path.name for path in folder.iterdir() if path.name != NAME and not PARTIAL_FILE.fullmatch(path.name)}
    log, checkpoints = folder / "metrics.jsonl", folder / "checkpoints"
    if not names <= {*BEGINNINGS} or (log.exists() and log.stat().st_size) or any(checkpoints.glob("step-*")):
        return False
    try:
        return not names or "run" in read_settings(folder)
    except ValueError:
        return False


def check_images(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse other images than a training was started with, where it says with which.

    Raises:
        ValueError: Saying what changed.
    """
    found = {split: describe_changes(before[split], now[split]) for split in now if before.get(split)}
    if said := "; ".join(f"{split}: {change}" for split, change in found.items() if change):
        raise ValueError(
            f"the data changed since {folder} was started ({said}); resume it with the images that it was started "
            "with, or choose another --out"
        )


def read_settings(folder: Path) -> dict[str, Any]:
    """Read the config of a run.

    Raises:
        ValueError: If the directory holds none, or one that no training wrote.
    """
    try:
        settings = read_json(folder / FILE)
        check_types(settings)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(
            f"found no training in {folder} ({FILE} cannot be read: {reason}); name the directory of a run"
        ) from error
    return settings


def check_types(settings: Any) -> None:
    """Refuse fields of wrong types.

    Raises:
        ValueError: Naming the first.
    """
    if not isinstance(settings, dict):
        raise ValueError(f"it holds a {type(settings).__name__}, expected an object")
    for names, kind in TYPES.items():
        value: Any = settings
        for name in names:
            value = None if value is None else value.get(name)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise ValueError(f"{'.'.join(names)} is {str(value)[:40]!r}, which no training writes")


def comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten a config, without what may differ."""
    flat = {}
    for key, value in settings.items():
        if key == IMAGES:
            continue
        if isinstance(value, Mapping):
            kept = {name: inner for name, inner in value.items() if key != "run" or name in FIXED}
            flat |= {f"{key}.{name}" if name in flat else name: inner for name, inner in kept.items()}
        elif key != "data":
            flat[key] = value
    return json.loads(json.dumps(flat))


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Name the fields that differ."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return [f"{name} was {before.get(name)!r}, now {now.get(name)!r}" for name in names]
