"""The directory of a training: made once, never overwritten, and resumed only with what it was started with."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ropevit.files import write_atomically
from ropevit.tasks.common.config import FIXED, RunConfig

FILE = "config.json"


def open_directory(run: RunConfig, settings: Mapping[str, Any]) -> None:
    """Make the directory and write the config, or check that it holds a training with the same config.

    Fields of the run that change how it is computed, not what comes out, may differ, and so may the place of the data.

    Args:
        run: Where.
        settings: The whole config as JSON can hold it; what `run` holds is under "run".

    Raises:
        ValueError: If something else is there, or the training was started otherwise.
    """
    if run.out.exists() and not run.out.is_dir():
        raise ValueError(f"got the file {run.out} for the directory of the run; choose another --out")
    if run.resume:
        for part in [*run.out.glob(".*.part"), *(run.out / "checkpoints").glob(".*.part")]:
            part.unlink()  # what a killed process was writing
    there = run.out.is_dir() and any(run.out.iterdir())
    if there and not run.resume:
        raise ValueError(f"{run.out} is not empty; choose another --out, or go on with what is there with --resume")
    if not there:
        write_atomically(run.out / FILE, lambda file: file.write((json.dumps(settings, indent=2) + "\n").encode()))
        return
    changed = differences(comparable(read_settings(run.out)), comparable(settings))
    if changed:
        raise ValueError(f"{run.out} was started otherwise ({'; '.join(changed)}); resume it with the same options")


def read_settings(folder: Path) -> dict[str, Any]:
    """Read the config of a run.

    Raises:
        ValueError: If the directory holds none.
    """
    try:
        return json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"found no training in {folder} ({FILE} cannot be read); name the directory of a run"
        ) from error


def comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten a config, without what may differ."""
    flat = {}
    for key, value in settings.items():
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
