"""Output directories of trainings: their config and weights, and the task of a checkpoint."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from safetensors import SafetensorError, safe_open

from ropevit.data.identity import describe_changes
from ropevit.files import parse_json, read_json, write_json
from ropevit.locks import NAME, is_empty
from ropevit.tasks.registry import TaskSpec, task_of_format
from ropevit.tasks.training.config import FIXED, RunConfig, with_current_names
from ropevit.tasks.training.extension import EXTENDED, extend, longer
from ropevit.tasks.training.first_batches import PICTURE
from ropevit.weights.reading import check_exists, named_repository
from ropevit.weights.sharded import find_index

WeightsChoice = Literal["best", "last", "ema"]
#: Weights that a training writes into its directory.
RUN_FILES = {"best": "best.safetensors", "last": "model.safetensors", "ema": "model_ema.safetensors"}


def checkpoint_in_run(folder: Path, weights: WeightsChoice | None) -> Path:
    """Return the path of the weights in the directory of a training run, or of a run of a study (last weights only).

    Args:
        folder: Output directory, or a folder of `save_pretrained` or `ropevit push --out`, which is none.
        weights: Which weights; None means best for a training, and last for anything else.

    Raises:
        ValueError: If they do not exist.
    """
    path, last = folder / RUN_FILES[weights or "best"], folder / RUN_FILES["last"]
    if path.is_file():
        return path
    if weights is None and last.is_file() and (_is_study_model(last) or not (folder / FILE).exists()):
        return last
    if weights is None and (index := find_index(folder)):
        return index  # sharded weights of transformers
    there = [name for name, file in RUN_FILES.items() if (folder / file).is_file()]
    if there:
        raise ValueError(f"{folder} has no {path.name}; choose --weights {' or '.join(there)}")
    if runs := sorted(file.parent for file in folder.glob(f"runs/*/{last.name}")):
        raise ValueError(
            f"{folder} is a study of {len(runs)} trained models; name the directory of one, such as {runs[-1]}"
        )
    raise ValueError(
        f"{folder} holds no weights ({', '.join(RUN_FILES.values())}); name the directory of a training run that was "
        "evaluated at least once, or a file of weights"
    )


def weights_file(checkpoint: str | None, weights: WeightsChoice | None) -> str | None:
    """Resolve `--checkpoint` and `--weights`.

    Returns:
        A file of weights if the checkpoint is a directory; otherwise (a file, a hub id, None) the checkpoint itself.

    Raises:
        ValueError: If the directory has no such weights.
    """
    folder = Path(checkpoint or "").expanduser()
    return str(checkpoint_in_run(folder, weights)) if checkpoint and folder.is_dir() else checkpoint


def _is_study_model(path: Path) -> bool:
    """Return whether a file is the model of a study's run, by its header."""
    try:
        facts = parse_json(_read_header(path).get("metadata", "{}"), path)
    except ValueError:
        return False
    return isinstance(facts, dict) and "panel" in facts


def _read_header(path: Path) -> Mapping[str, str]:
    """Read the metadata of a safetensors file; {} for other or damaged files."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError):
        return {}  # another format, or damaged: loading reports it


def task_of_checkpoint(checkpoint: str | None, weights: WeightsChoice | None = None) -> TaskSpec:
    """Return the task of the model in a checkpoint, by the header of its file.

    Args:
        checkpoint: A file or hub id in any layout, or the directory of a training run or of a study's run; None for a
            published classifier.
        weights: Which weights of a directory.

    Raises:
        ValueError: If it is a directory without such weights.
        WeightsError: If the path does not exist.
    """
    path = Path(weights_file(checkpoint, weights) or "").expanduser()
    if checkpoint and named_repository(checkpoint) is None:
        check_exists(path)
    return task_of_format(_read_header(path).get("format", "") if path.is_file() else "")


def describe_task(task: TaskSpec, checkpoint: str | None) -> str:
    """Return the noun of a task for messages, with a hint where a mistyped path may have been read as a hub id."""
    if checkpoint is None or named_repository(checkpoint) is None:
        return task.noun
    return f"{task.noun} (there is no file or directory {checkpoint}, so the hub's is meant)"


FILE = "config.json"
#: Key of the identity of the images in config.json.
IMAGES = "images"

#: Name of a temporary file of `write_atomically`; it remains if the process is killed.
_PARTIAL_FILE = re.compile(r"\..+\.\d+\.part")

#: Entries of a directory before the first step, besides lock and partial files.
_BEGINNINGS = (FILE, PICTURE, "metrics.jsonl", "checkpoints", "tensorboard", "wandb", "wandb.id")

#: Fields of config.json that other code reads -> their types; a field may be missing or null.
_TYPES: dict[tuple[str, ...], type | tuple[type, ...]] = {
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


class Extension(NamedTuple):
    """More epochs or steps for a training, to be stored with `store_extension`."""

    settings: dict[str, Any]
    """Content of config.json with the new length."""
    note: str
    """Line for the user."""


def open_directory(
    run: RunConfig, settings: Mapping[str, Any], images: Mapping[str, Mapping[str, Any]] | None = None
) -> Extension | None:
    """Create the directory of a run and write config.json; on resuming, check that config and images are the same.

    Fields of `run` that do not change the results may differ, and so may the path of the data; the training may be
    longer than before. A directory in which no step has been taken is overwritten.

    Args:
        run: Output directory, and whether to resume.
        settings: Full config for JSON, with that of the run under "run".
        images: Identity of the images of each split, from `identify`.

    Returns:
        The new length of a training that is longer than before; config.json still has the old one.

    Raises:
        ValueError: If the directory holds something else, or a training with another config or other images.
    """
    out = run.folder
    if out.exists() and not out.is_dir():
        raise ValueError(f"got the file {out} for a directory; choose another --out")
    if is_empty(out) or _has_not_trained(out):
        _remove_partial_files(out)
        write_json(out / FILE, {**settings, **({} if images is None else {IMAGES: images})})
        return None
    if not run.resume:
        more = ", or continue the training in it with --resume" if (out / FILE).exists() else ""
        raise ValueError(f"{out} is not empty; choose another --out{more}")
    before, extension = read_settings(out), None
    if unit := longer(before, settings):
        extension = Extension(*extend(before, settings, unit))
        before = extension.settings
    if changed := differences(comparable(before), comparable(settings)):
        raise ValueError(f"{out} was started with other options ({'; '.join(changed)}); resume it with the same")
    check_unchanged(out, before.get(IMAGES) or {}, images or {})
    _check_checkpoints(out)
    _remove_partial_files(out)
    return extension


def store_extension(folder: Path, extension: Extension) -> None:
    """Store the new length of a training, whose checkpoint was loaded, in config.json."""
    write_json(folder / FILE, extension.settings)


def remove_final_weights(folder: Path) -> None:
    """Remove the last weights and their EMA, which say that a training is complete; the best ones stay."""
    for choice in ("last", "ema"):
        (folder / RUN_FILES[choice]).unlink(missing_ok=True)


def _check_checkpoints(folder: Path) -> None:
    """Check that a directory with weights also has checkpoints: without them, a training would start again.

    Raises:
        ValueError: If it has weights only.
    """
    weights = [name for name in RUN_FILES.values() if (folder / name).exists()]
    if weights and not any((folder / "checkpoints").glob("step-*")):
        raise ValueError(
            f"{folder} holds {', '.join(weights)}, but no checkpoint to resume from; choose another --out, or start "
            f"from its weights: --init-from {folder / weights[0]}"
        )


def _remove_partial_files(folder: Path) -> None:
    """Remove the partial files of a killed process."""
    for place in (folder, folder / "checkpoints"):
        for path in place.glob(".*.part"):
            if _PARTIAL_FILE.fullmatch(path.name):
                path.unlink()


def _has_not_trained(folder: Path) -> bool:
    """Return whether a directory holds only what a training writes before its first step."""
    names = {path.name for path in folder.iterdir() if path.name != NAME and not _PARTIAL_FILE.fullmatch(path.name)}
    log, checkpoints = folder / "metrics.jsonl", folder / "checkpoints"
    if not names <= {*_BEGINNINGS} or (log.exists() and log.stat().st_size) or any(checkpoints.glob("step-*")):
        return False
    try:
        return not names or "run" in read_settings(folder)
    except ValueError:
        return False


def check_unchanged(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Check that the images are those that the training recorded, if it did.

    Raises:
        ValueError: If they differ.
    """
    found = {split: describe_changes(before[split], now[split]) for split in now if before.get(split)}
    if changed := "; ".join(f"{split}: {change}" for split, change in found.items() if change):
        raise ValueError(
            f"the data changed since {folder} was started ({changed}); resume it with the images that it was started "
            "with, or choose another --out"
        )


def read_settings(folder: Path) -> dict[str, Any]:
    """Read the config of a run, with the names of today for the fields of an older one.

    Raises:
        ValueError: If there is none, or it was not written by a training.
    """
    try:
        settings = read_json(folder / FILE)
        _check_types(settings)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(
            f"found no training in {folder} ({FILE} cannot be read: {reason}); name the directory of a run"
        ) from error
    return with_current_names(settings)


def _check_types(settings: Any) -> None:
    """Check the types of the fields that other code reads.

    Raises:
        ValueError: If a type is wrong.
    """
    if not isinstance(settings, dict):
        raise ValueError(f"it holds a {type(settings).__name__}, expected an object")
    for names, kind in _TYPES.items():
        value: object = settings
        for name in names:
            value = None if value is None else value.get(name)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise ValueError(f"{'.'.join(names)} is {str(value)[:40]!r}, which no training writes")


def comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a config that must not change on resuming, in one flat dict."""
    flat = {}
    for key, value in settings.items():
        if key in (IMAGES, EXTENDED):
            continue
        if isinstance(value, Mapping):
            kept = {name: inner for name, inner in value.items() if key != "run" or name in FIXED}
            flat |= {f"{key}.{name}" if name in flat else name: inner for name, inner in kept.items()}
        elif key != "data":
            flat[key] = value
    return json.loads(json.dumps(flat))


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a description of each field that differs; a flag that older versions did not have was off."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    names = [name for name in names if name in before or now[name] is not False]
    return [f"{name} was {before.get(name)!r}, now {now.get(name)!r}" for name in names]
