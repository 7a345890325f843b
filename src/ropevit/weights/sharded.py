"""Reads sharded checkpoints, as transformers saves large models: an index maps each weight to its file."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ropevit.files import read_json
from ropevit.text import join_names
from ropevit.weights.errors import WeightsError

#: Names of an index file; it lies beside the files that it lists.
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SUFFIX = ".index.json"


def find_index(path: Path) -> Path | None:
    """Return the index file at a path, or in the folder at the path; None if there is none."""
    if path.is_dir():
        return next((path / name for name in _INDEXES if (path / name).is_file()), None)
    return path if path.name.endswith(SUFFIX) else None


def read_sharded(index: Path, read: Callable[[Path], tuple[Any, dict[str, str]]]) -> dict[str, Any]:
    """Read all files that an index lists.

    Args:
        index: Path of the index.
        read: Reads one file and returns its entries and header.

    Returns:
        All weights by name.

    Raises:
        WeightsError: If the index is damaged or lists a file in another folder, or a file is missing or does not hold
            the listed weights.
    """
    entries: dict[str, Any] = {}
    for file, names in _files_of(index).items():
        part, _ = read(index.with_name(file))
        held = set(part) if isinstance(part, Mapping) else set()
        if held != names:
            wrong = join_names(sorted(map(str, held ^ names)))
            raise WeightsError(
                f"{index.with_name(file)} does not hold the weights that {index.name} lists ({wrong}); use the index "
                "and the files of one save"
            )
        entries |= part
    return entries


def _files_of(index: Path) -> dict[str, set[str]]:
    """Read an index, and return the names of the weights in each file.

    Raises:
        WeightsError: If it is damaged, or lists a file in another folder.
    """
    try:
        content = read_json(index)
    except (OSError, ValueError) as error:
        raise WeightsError(str(error)) from error
    table = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(table, dict) or not table:
        raise WeightsError(f"{index} has no dict 'weight_map'; give the index that lies beside the weight files")
    files: dict[str, set[str]] = {}
    for name, file in table.items():
        if not isinstance(file, str) or file in (".", "..") or Path(file).name != file:
            raise WeightsError(
                f"{index} lists the file {file!r}; expected files in its own folder: save the model again"
            )
        files.setdefault(file, set()).add(name)
    return files
