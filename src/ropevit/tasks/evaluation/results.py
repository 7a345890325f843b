"""Output directory of an evaluation: eval.json, eval.csv, per_class.csv and curve.png, read back on --resume."""

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, ClassVar, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor

from ropevit.files import read_json, write_atomically
from ropevit.locks import is_empty
from ropevit.tasks.evaluation.inference_modes import InferenceMode
from ropevit.tasks.runs.run_dir import differences
from ropevit.text import csv_cell

SETTINGS, TABLE, CLASSES, CURVE = "eval.json", "eval.csv", "per_class.csv", "curve.png"
#: Folder of the output directories of evaluations that name none; each has the name of its model.
OUT = Path("runs/eval")

#: Maximum test size in pixels; a larger number in a file is an error.
LARGEST = 1_000_000

#: Fields of eval.json that are read back -> their types.
_FIELDS: dict[str, dict[str, Any]] = {
    "config": {"metric": str | None, "data": str | None},
    "model": {"name": str, "model": str | None, "position": str, "trained_at": int},
}


#: Columns of eval.csv that had another name in older versions -> their name.
_RENAMED_COLUMNS = {"way": "mode"}


@runtime_checkable
class SizeResult(Protocol):
    """Interface of the results at one size: a dataclass of numbers, whose fields are the columns of eval.csv.

    Two more fields are optional: `mode`, how images were predicted (see `ropevit.tasks.evaluation.inference_modes`),
    and `tokens`, the patch tokens of an image; both are None in tables of older versions, `mode` also for a segmenter's
    sliding windows.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def size(self) -> int:
        """Test size in pixels."""
        ...

    @property
    def images(self) -> int:
        """Evaluated images."""
        ...

    @property
    def skipped(self) -> int:
        """Skipped images."""
        ...

    @property
    def images_per_second(self) -> float:
        """Throughput of all processes together, including reading."""
        ...

    @property
    def peak_memory_gib(self) -> float:
        """Maximum over processes of GPU memory, or, on a CPU, of the resident memory since the start."""
        ...

    @property
    def scores(self) -> Mapping[str, float | None]:
        """Scores to display, in percent, by name; the first is that of the curve."""
        ...

    @property
    def view(self) -> Mapping[str, int | float]:
        """Preprocessing of images, as numbers by name."""
        ...


class ResultsDir:
    """Output directory of an evaluation.

    Args:
        folder: Path of the directory.
        settings: Model, data, settings and machine for JSON; the values under "config" must not change on resuming.
        names: Classes of the data and their names.
        row_type: Dataclass of the rows, one for each task.
        resume: Keep the existing results; without it the directory must be empty.
        baselines: Inference modes besides the default one, in the order of their rows.

    Raises:
        ValueError: If the directory is not empty and not to be resumed, or was written with other settings.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        names: Mapping[str, str],
        row_type: type,
        resume: bool,
        baselines: Sequence[str] = (),
    ):
        self.folder, self.settings, self.names, self.row_type = folder, settings, names, row_type
        self.baselines = tuple(baselines)
        self.rows: list[Any] = []
        self.classes: dict[str, dict[str, str]] = {name: {} for name in names}
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"got the file {folder} for a directory; choose another --out")
        if not is_empty(folder):
            if not resume:
                raise ValueError(
                    f"{folder} is not empty; choose another --out, or evaluate the missing sizes with --resume"
                )
            self.read()
        else:
            self.write(SETTINGS, json.dumps(settings, indent=2) + "\n")

    def read(self) -> None:
        """Read the results of earlier runs.

        Raises:
            ValueError: If they have other settings.
        """
        before = read_settings(self.folder, "choose another --out")["config"]
        if changed := differences(before, json.loads(json.dumps(self.settings["config"]))):
            raise ValueError(
                f"{self.folder} was evaluated with other settings ({'; '.join(changed)}); resume it with the same, or "
                "choose another --out"
            )
        self.rows = read_rows(self.folder, self.row_type)
        columns = [self.column(row) for row in self.rows]
        names = {csv_cell(name): name for name in self.names}
        try:
            for line in read_csv(self.folder / CLASSES):
                self.classes[names[line["class"]]] = {column: line[column] for column in columns}
        except KeyError as error:
            raise ValueError(f"{self.folder / CLASSES} lacks {error}; choose another --out") from None

    def add(self, row: SizeResult, classes: Sequence[float]) -> None:
        """Save the results at one size; the row of eval.csv, which marks the size as done, is written last.

        Args:
            row: Results at the size.
            classes: Score of each class in percent; NaN for a class without one.
        """
        for percent, known in zip(classes, self.classes.values(), strict=True):
            known[self.column(row)] = "" if percent != percent else f"{percent:.2f}"
        self.rows = sorted([*self.rows, row], key=self.sort_key)
        columns = [self.column(row) for row in self.rows]
        lines = (
            [name, self.names[name], *(known[column] for column in columns)] for name, known in self.classes.items()
        )
        if self.names:
            self.write(CLASSES, to_csv(["class", "name", *columns], lines))
        table = (["" if value is None else value for value in asdict(row).values()] for row in self.rows)
        self.write(TABLE, to_csv([field.name for field in fields(self.row_type)], table))

    def sort_key(self, row: SizeResult) -> tuple[int, int]:
        """Return the sort key of a row: by size, the default inference mode first."""
        mode = mode_of(row)
        return row.size, self.baselines.index(mode) + 1 if mode in self.baselines else 0

    def column(self, row: SizeResult) -> str:
        """Return the column of a row in the table of classes, such as 64, or 64 resize for a baseline."""
        return f"{row.size} {mode_of(row)}" if mode_of(row) in self.baselines else str(row.size)

    def write(self, name: str, text: str) -> None:
        """Write a text file atomically."""
        self.write_bytes(name, text.encode())

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a binary file atomically, such as a plot."""
        write_atomically(self.folder / name, lambda file: file.write(content))


def read_settings(folder: Path, advice: str) -> dict[str, Any]:
    """Read eval.json.

    Args:
        folder: Output directory of an evaluation.
        advice: End of the error message.

    Raises:
        ValueError: If the directory holds no evaluation, or a field that is read is missing or has a wrong type.
    """
    try:
        settings = read_json(folder / SETTINGS)
        if problem := _wrong_field(settings):
            raise ValueError(problem)
    except OSError:
        raise ValueError(f"found no evaluation in {folder} (no {SETTINGS}); {advice}") from None
    except ValueError as error:
        raise ValueError(f"found no evaluation in {folder} ({SETTINGS}: {error}); {advice}") from None
    return settings


def _wrong_field(settings: Any) -> str | None:
    """Return a description of a missing field or one of a wrong type; None if there is none."""
    for part, kinds in _FIELDS.items():
        found = settings.get(part) if isinstance(settings, dict) else None
        if not isinstance(found, dict):
            return f"no {part}"
        for name, row_type in kinds.items():
            value = found.get(name)
            if not isinstance(value, row_type) or isinstance(value, bool):
                return f"{part}.{name} is {str(value)[:40]!r}, which no evaluation writes"
    size = settings["model"]["trained_at"]
    return None if 0 < size <= LARGEST else f"model.trained_at is {str(size)[:40]}, expected pixels"


def read_rows(folder: Path, row_type: type) -> list[Any]:
    """Read eval.csv as instances of the dataclass `row_type`.

    Raises:
        ValueError: If its columns are not the fields of `row_type`.
    """
    return [parse_row(line, row_type, folder / TABLE) for line in read_csv(folder / TABLE)]


def parse_row(line: Mapping[str, str], row_type: type, path: Path) -> Any:
    """Parse a row of eval.csv; an empty cell is None.

    Raises:
        ValueError: If the row does not fit the dataclass `row_type`.
    """
    line = {_RENAMED_COLUMNS.get(name, name): text for name, text in line.items()}
    types = {field.name: field.type for field in fields(row_type)}
    whole = {name for name, found in types.items() if int in (found, *get_args(found))}
    words = {name for name, found in types.items() if str in (found, *get_args(found))}
    try:
        if empty := [name for name, text in line.items() if not text and type(None) not in get_args(types[name])]:
            raise ValueError(f"no {empty[0]}")
        read = {name: int if name in whole else str if name in words else float for name in types}
        row = row_type(**{name: read[name](text) if text else None for name, text in line.items()})
        if not 0 < row.size <= LARGEST:
            raise ValueError(f"a size of {row.size} pixels")
        if mode_of(row) not in (None, *get_args(InferenceMode)):
            raise ValueError(f"the mode {mode_of(row)!r}")
        return row
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is not a table of such an evaluation ({error}); leave it out") from None


def mode_of(row: SizeResult) -> InferenceMode | None:
    """Return how the images of a row were predicted; None if it does not say."""
    return getattr(row, "mode", None)


def to_csv(heading: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """Format a table as CSV, with cells escaped that a spreadsheet would read as formulas."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(csv_cell, heading))
    writer.writerows(map(csv_cell, line) for line in lines)
    return text.getvalue()


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read a CSV table; a file that does not exist has no rows.

    Raises:
        ValueError: If the file is not a CSV table.
    """
    if not path.exists():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a CSV table ({error}); it is damaged") from None


def hash_weights(state: Mapping[str, Any]) -> str:
    """Return a SHA-256 hash of weights, 16 hexadecimal digits; eval.json and scaling.json hold it as `fingerprint`."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        if isinstance(value, Tensor):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
