"""What an evaluation leaves in its directory: tables, settings, a figure; measured once, never overwritten."""

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
from ropevit.tasks.common.run_dir import differences
from ropevit.text import csv_cell

SETTINGS, TABLE, CLASSES, CURVE = "eval.json", "eval.csv", "per_class.csv", "curve.png"

#: Pixels beyond which a number is none of a test size.
LARGEST = 1_000_000

#: Fields of the settings that are read again -> of which type they are.
_FIELDS: dict[str, dict[str, Any]] = {
    "config": {"metric": str | None, "data": str | None},
    "model": {"name": str, "model": str | None, "position": str, "trained_at": int},
}


@runtime_checkable
class SizeResult(Protocol):
    """A model at one size: a dataclass of numbers, whose fields are the columns of the table."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def size(self) -> int:
        """Test size in pixels."""
        ...

    @property
    def images(self) -> int:
        """Images measured."""
        ...

    @property
    def skipped(self) -> int:
        """Images that were not measured."""
        ...

    @property
    def images_per_second(self) -> float:
        """Of all processes together, reading included."""
        ...

    @property
    def peak_memory_gib(self) -> float:
        """The most that any process used: of its GPU, or, on a CPU, of the whole process since it started."""
        ...

    @property
    def scores(self) -> Mapping[str, float | None]:
        """What is shown of the scores in percent, by name: first that of the curve."""
        ...

    @property
    def view(self) -> Mapping[str, int | float]:
        """How images were brought to the size, in numbers by name."""
        ...


class ResultsDir:
    """The directory of an evaluation.

    Args:
        folder: Where.
        settings: What is measured, how and where, as JSON can hold it; under "config" what must not change.
        names: Classes of the data, and what they are called.
        kind: What rows are.
        resume: Go on with what is there.

    Raises:
        ValueError: If something is there and is not to be resumed, or was measured otherwise.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], names: Mapping[str, str], kind: type, resume: bool):
        self.folder, self.settings, self.names, self.kind = folder, settings, names, kind
        self.rows: list[Any] = []
        self.classes: dict[str, dict[int, str]] = {name: {} for name in names}
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"got the file {folder} for the directory of the results; choose another --out")
        if not is_empty(folder):
            if not resume:
                raise ValueError(f"{folder} is not empty; choose another --out, or measure what is missing: --resume")
            self.read()
        else:
            self.write(SETTINGS, json.dumps(settings, indent=2) + "\n")

    def read(self) -> None:
        """Take over what was measured.

        Raises:
            ValueError: If it was measured otherwise.
        """
        before = read_settings(self.folder, "choose another --out")["config"]
        if changed := differences(before, json.loads(json.dumps(self.settings["config"]))):
            raise ValueError(
                f"{self.folder} was measured otherwise ({'; '.join(changed)}); resume it with the same, or choose "
                "another --out"
            )
        self.rows = read_rows(self.folder, self.kind)
        sizes = [row.size for row in self.rows]
        names = {csv_cell(name): name for name in self.names}
        try:
            for line in read_csv(self.folder / CLASSES):
                self.classes[names[line["class"]]] = {size: line[str(size)] for size in sizes}
        except KeyError as error:
            raise ValueError(f"{self.folder / CLASSES} lacks {error}; choose another --out") from None

    def add(self, row: SizeResult, classes: Sequence[float]) -> None:
        """Write a size down; its row comes last, so that one that is there is complete.

        Args:
            row: What was measured.
            classes: Score in percent of each class; NaN where it has none.
        """
        for percent, known in zip(classes, self.classes.values(), strict=True):
            known[row.size] = "" if percent != percent else f"{percent:.2f}"
        self.rows = sorted([*self.rows, row], key=lambda row: row.size)
        sizes = [row.size for row in self.rows]
        lines = ([name, self.names[name], *(known[size] for size in sizes)] for name, known in self.classes.items())
        if self.names:
            self.write(CLASSES, to_csv(["class", "name", *map(str, sizes)], lines))
        table = (["" if value is None else value for value in asdict(row).values()] for row in self.rows)
        self.write(TABLE, to_csv([field.name for field in fields(self.kind)], table))

    def write(self, name: str, text: str) -> None:
        """Write a file whole or not at all."""
        self.write_bytes(name, text.encode())

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a file of any form, such as a figure, whole or not at all."""
        write_atomically(self.folder / name, lambda file: file.write(content))


def read_settings(folder: Path, advice: str) -> dict[str, Any]:
    """Read what was measured, and how.

    Args:
        folder: The directory of an evaluation.
        advice: What to do if it is none.

    Raises:
        ValueError: If it is none, or a field that is read is missing or of a wrong type.
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
    """Say which field of the settings of an evaluation is missing or of a wrong type, if one is."""
    for part, kinds in _FIELDS.items():
        found = settings.get(part) if isinstance(settings, dict) else None
        if not isinstance(found, dict):
            return f"no {part}"
        for name, kind in kinds.items():
            value = found.get(name)
            if not isinstance(value, kind) or isinstance(value, bool):
                return f"{part}.{name} is {str(value)[:40]!r}, which no evaluation writes"
    size = settings["model"]["trained_at"]
    return None if 0 < size <= LARGEST else f"model.trained_at is {str(size)[:40]}, expected pixels"


def read_rows(folder: Path, kind: type) -> list[Any]:
    """Read the table of an evaluation.

    Raises:
        ValueError: If its columns are not those of such rows.
    """
    return [parse_row(line, kind, folder / TABLE) for line in read_csv(folder / TABLE)]


def parse_row(line: Mapping[str, str], kind: type, path: Path) -> Any:
    """Read a row of the table; an empty cell is None.

    Raises:
        ValueError: If it is none.
    """
    types = {field.name: field.type for field in fields(kind)}
    whole = {name for name, found in types.items() if int in (found, *get_args(found))}
    try:
        if empty := [name for name, text in line.items() if not text and type(None) not in get_args(types[name])]:
            raise ValueError(f"no {empty[0]}")
        row = kind(**{name: (int if name in whole else float)(text) if text else None for name, text in line.items()})
        if not 0 < row.size <= LARGEST:
            raise ValueError(f"a size of {row.size} pixels")
        return row
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is not the table that such an evaluation writes ({error}); leave it out") from None


def to_csv(heading: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """Write a table as comma-separated values, of which a spreadsheet computes none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(csv_cell, heading))
    writer.writerows(map(csv_cell, line) for line in lines)
    return text.getvalue()


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read a table; none is there before the first size is measured.

    Raises:
        ValueError: If it is no table.
    """
    if not path.exists():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no table ({error}); it is damaged") from None


def fingerprint(state: Mapping[str, Any]) -> str:
    """Tell weights from any others."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        if isinstance(value, Tensor):
            digest.update(name.encode())
            digest.update(value.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
