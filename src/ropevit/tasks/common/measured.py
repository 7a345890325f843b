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

from ropevit.files import write_atomically
from ropevit.tasks.common.directory import differences

SETTINGS, TABLE, CLASSES, CURVE = "eval.json", "eval.csv", "per_class.csv", "curve.png"


@runtime_checkable
class Row(Protocol):
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
        """How pictures were brought to the size, in numbers by name."""
        ...


class Results:
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
        if folder.is_dir() and any(folder.iterdir()):
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
        for line in read_csv(self.folder / CLASSES):
            self.classes[line["class"]] = {size: line[str(size)] for size in sizes}

    def add(self, row: Row, classes: Sequence[float]) -> None:
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
        ValueError: If it is none.
    """
    try:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        if not isinstance(settings["config"], dict) or not isinstance(settings["model"], dict):
            raise ValueError(SETTINGS)
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"found no evaluation in {folder} (no {SETTINGS}); {advice}") from None
    return settings


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
        return kind(**{name: (int if name in whole else float)(text) if text else None for name, text in line.items()})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is not the table that such an evaluation writes ({error}); leave it out") from None


def to_csv(heading: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """Write a table as comma-separated values."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heading)
    writer.writerows(lines)
    return text.getvalue()


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read a table; none is there before the first size is measured."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def fingerprint(state: Mapping[str, Any]) -> str:
    """Tell weights from any others."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        if isinstance(value, Tensor):
            digest.update(name.encode())
            digest.update(value.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
