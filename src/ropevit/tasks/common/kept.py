"""The files of weights that a training leaves, and what kind of model a file holds."""

from pathlib import Path
from typing import Literal

from safetensors import SafetensorError, safe_open

from ropevit.weights.reading import check_exists, named_repository

Which = Literal["best", "last", "ema"]
#: Files that a training leaves in its directory.
FILES = {"best": "best.safetensors", "last": "model.safetensors", "ema": "model_ema.safetensors"}

Kind = Literal["classifier", "detector", "segmenter"]
#: "format" in the header of a file of ours -> kind of the model; every other file is taken for a classifier's.
FORMATS: dict[str, Kind] = {"ropevit-detector": "detector", "ropevit-segmenter": "segmenter"}


def file_of_run(folder: Path, which: Which | None) -> Path:
    """Choose a file of weights in the directory of a training.

    Raises:
        ValueError: If it is not there.
    """
    path = folder / FILES[which or "best"]
    if path.is_file():
        return path
    there = [name for name, file in FILES.items() if (folder / file).is_file()]
    if there:
        raise ValueError(f"{folder} has no {path.name}; choose --which {' or '.join(there)}")
    raise ValueError(
        f"{folder} holds no weights ({', '.join(FILES.values())}); name the directory of a training that was measured "
        "at least once, or a file of weights"
    )


def kind_of(checkpoint: str | None, which: Which | None = None) -> Kind:
    """Tell what kind of model a checkpoint holds, by the header of its file.

    Args:
        checkpoint: A file or hub id of any layout, or the directory of a training; None, a published classifier.
        which: Which weights of a directory.

    Raises:
        ValueError: If it is a directory without such weights.
        WeightsError: If it is a path to nothing.
    """
    path = Path(checkpoint or "").expanduser()
    if checkpoint and path.is_dir():
        path = file_of_run(path, which)
    if checkpoint and named_repository(checkpoint) is None:
        check_exists(path)
    if not path.is_file():
        return "classifier"
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except (SafetensorError, OSError):
        return "classifier"  # of another layout, or damaged, which reading it will say
    return FORMATS.get(header.get("format", ""), "classifier")


def told_kind(kind: Kind, checkpoint: str | None) -> str:
    """Name the kind of a checkpoint's model, and why where a mistyped path may have been taken for a hub id."""
    if checkpoint is None or named_repository(checkpoint) is None:
        return kind
    return f"{kind} (there is no file or directory {checkpoint}, so the hub's is meant)"
