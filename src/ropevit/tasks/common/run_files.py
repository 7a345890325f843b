"""The files of weights that a training or a study leaves, and what kind of model a file holds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError, safe_open

from ropevit.files import parse_json
from ropevit.weights.reading import check_exists, named_repository
from ropevit.weights.sharded import find_index

Which = Literal["best", "last", "ema"]
#: Files that a training leaves in its directory.
RUN_FILES = {"best": "best.safetensors", "last": "model.safetensors", "ema": "model_ema.safetensors"}

TaskName = Literal["classifier", "detector", "segmenter"]
#: "format" in the header of a file of ours -> kind of the model; every other file is taken for a classifier's.
TASK_OF_FORMAT: dict[str, TaskName] = {"ropevit-detector": "detector", "ropevit-segmenter": "segmenter"}


def checkpoint_in_run(folder: Path, which: Which | None) -> Path:
    """Choose a file of weights in the directory of a training, or of a study's run, which keeps its last weights alone.

    Args:
        folder: The directory.
        which: Which of them; None takes the best of a training, and what a study's run has.

    Raises:
        ValueError: If it is not there.
    """
    path, last = folder / RUN_FILES[which or "best"], folder / RUN_FILES["last"]
    if path.is_file():
        return path
    if which is None and last.is_file() and is_study_model(last):
        return last
    if which is None and (index := find_index(folder)):
        return index  # of weights in several files, as transformers saves them
    there = [name for name, file in RUN_FILES.items() if (folder / file).is_file()]
    if there:
        raise ValueError(f"{folder} has no {path.name}; choose --which {' or '.join(there)}")
    if runs := sorted(file.parent for file in folder.glob(f"runs/*/{last.name}")):
        raise ValueError(
            f"{folder} is a study of {len(runs)} trained models; name the directory of one, such as {runs[-1]}"
        )
    raise ValueError(
        f"{folder} holds no weights ({', '.join(RUN_FILES.values())}); name the directory of a training that was "
        "evaluated at least once, or a file of weights"
    )


def weights_file(checkpoint: str | None, which: Which | None) -> str | None:
    """Find the weights that `--checkpoint` and `--which` mean: one rule for all that takes both.

    Returns:
        A file in the directory that is given; anything else, such as a file, a hub id or None, as it is.

    Raises:
        ValueError: If the directory has no such weights.
    """
    folder = Path(checkpoint or "").expanduser()
    return str(checkpoint_in_run(folder, which)) if checkpoint and folder.is_dir() else checkpoint


def is_study_model(path: Path) -> bool:
    """Tell whether a file is the model of a study's run, by its header."""
    try:
        facts = parse_json(read_header(path).get("metadata", "{}"), path)
    except ValueError:
        return False
    return isinstance(facts, dict) and "panel" in facts


def read_header(path: Path) -> Mapping[str, str]:
    """Read the header of a safetensors file; that of another file, or of a damaged one, is empty."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError):
        return {}  # of another layout, or damaged, which reading it will say


def detect_task(checkpoint: str | None, which: Which | None = None) -> TaskName:
    """Tell what kind of model a checkpoint holds, by the header of its file.

    Args:
        checkpoint: A file or hub id of any layout, or the directory of a training or a study's run; None, a published
            classifier.
        which: Which weights of a directory.

    Raises:
        ValueError: If it is a directory without such weights.
        WeightsError: If it is a path to nothing.
    """
    path = Path(weights_file(checkpoint, which) or "").expanduser()
    if checkpoint and named_repository(checkpoint) is None:
        check_exists(path)
    return TASK_OF_FORMAT.get(read_header(path).get("format", ""), "classifier") if path.is_file() else "classifier"


def describe_task(kind: TaskName, checkpoint: str | None) -> str:
    """Name the kind of a checkpoint's model, and why where a mistyped path may have been taken for a hub id."""
    if checkpoint is None or named_repository(checkpoint) is None:
        return kind
    return f"{kind} (there is no file or directory {checkpoint}, so the hub's is meant)"
