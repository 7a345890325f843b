"""Weights in several files, as the transformers library saves large models: an index names the file of each weight."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ropevit.files import read_json
from ropevit.text import join_names
from ropevit.weights.errors import WeightsError

#: How an index is called; it lies beside the files that it names.
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SUFFIX = ".index.json"


def find_index(path: Path) -> Path | None:
    """Return the index that a path is, or that lies in the folder that it is; None where there is none."""
    if path.is_dir():
        return next((path / name for name in _INDEXES if (path / name).is_file()), None)
    return path if path.name.endswith(SUFFIX) else None


def read_sharded(index: Path, read: Callable[[Path], tuple[Any, dict[str, str]]]) -> dict[str, Any]:
    """Read all the files that an index names.

    Args:
        index: The index.
        read: Reads one file: its entries and its header.

    Returns:
        All weights by name.

    Raises:
        WeightsError: If the index is damaged or names a file elsewhere, or a file is missing or does not hold what the
            index says.
    """
    entries: dict[str, Any] = {}
    for file, names in _files_of(index).items():
        part, _ = read(index.with_name(file))
        held = set(part) if isinstance(part, Mapping) else set()
        if held != names:
            wrong = join_names(sorted(map(str, held ^ names)))
            raise WeightsError(
                f"{index.with_name(file)} does not hold what {index.name} says ({wrong}); take all files of one save"
            )
        entries |= part
    return entries


def _files_of(index: Path) -> dict[str, set[str]]:
    """Read an index: the names of the weights in each file.

    Raises:
        WeightsError: If it is damaged, or names a file elsewhere.
    """
    try:
        content = read_json(index)
    except (OSError, ValueError) as error:
        raise WeightsError(str(error)) from error
    table = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(table, dict) or not table:
        raise WeightsError(f"{index} has no table weight_map; give the index that lies beside the files of weights")
    files: dict[str, set[str]] = {}
    for name, file in table.items():
        if not isinstance(file, str) or file in (".", "..") or Path(file).name != file:
            raise WeightsError(f"{index} names the file {file!r}; expected files beside it")
        files.setdefault(file, set()).add(name)
    return files
