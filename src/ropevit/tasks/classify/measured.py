"""What an evaluation leaves in its directory: tables, settings, a figure; measured once, never overwritten."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ropevit.models.published import Figure
from ropevit.tasks.classify.curve import draw_curve
from ropevit.tasks.common.directory import differences
from ropevit.tasks.common.drawing import figure_bytes
from ropevit.weights.saving import write_atomically

SETTINGS, TABLE, CLASSES, CURVE = "eval.json", "eval.csv", "per_class.csv", "curve.png"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A model at one size."""

    size: int
    """Side of the input in pixels."""
    top1: float
    """Percent of the images whose class is the best guess."""
    top5: float
    """Percent of the images whose class is among the five best guesses."""
    images: int
    """Images measured."""
    skipped: int
    """Images left out: unreadable, or without a ReaL label."""
    images_per_second: float
    """Of all processes together, reading included."""
    peak_memory_gib: float
    """The most that any process used: of its GPU, or, on a CPU, of the whole process since it started."""
    window: int | None
    """Side of a Swin's windows in tokens."""
    resize: int
    """Shorter side in pixels to which pictures were resized."""
    crop: float
    """`size` as a share of it."""


class Results:
    """The directory of an evaluation.

    Args:
        folder: Where.
        settings: What is measured, how and where, as JSON can hold it; under "config" what must not change.
        names: Class names of the data, and what they are called.
        resume: Go on with what is there.

    Raises:
        ValueError: If something is there and is not to be resumed, or was measured otherwise.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], names: Mapping[str, str], resume: bool):
        self.folder, self.settings, self.names = folder, settings, names
        self.rows: list[Row] = []
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
        try:
            before = json.loads((self.folder / SETTINGS).read_text(encoding="utf-8"))["config"]
        except (OSError, ValueError, KeyError):
            raise ValueError(f"found no evaluation in {self.folder} (no {SETTINGS}); choose another --out") from None
        if changed := differences(before, json.loads(json.dumps(self.settings["config"]))):
            raise ValueError(
                f"{self.folder} was measured otherwise ({'; '.join(changed)}); resume it with the same, or choose "
                "another --out"
            )
        self.rows = [parse_row(line) for line in read_csv(self.folder / TABLE)]
        sizes = [row.size for row in self.rows]
        for line in read_csv(self.folder / CLASSES):
            self.classes[line["class"]] = {size: line[str(size)] for size in sizes}

    def add(self, row: Row, classes: Sequence[float]) -> None:
        """Write a size down; its row comes last, so that one that is there is complete.

        Args:
            row: What was measured.
            classes: Top-1 in percent of each class; NaN where it has no images.
        """
        for percent, known in zip(classes, self.classes.values(), strict=True):
            known[row.size] = "" if percent != percent else f"{percent:.2f}"
        self.rows = sorted([*self.rows, row], key=lambda row: row.size)
        sizes = [row.size for row in self.rows]
        lines = ([name, self.names[name], *(known[size] for size in sizes)] for name, known in self.classes.items())
        self.write(CLASSES, to_csv(["class", "name", *map(str, sizes)], lines))
        table = (["" if value is None else value for value in asdict(row).values()] for row in self.rows)
        self.write(TABLE, to_csv([field.name for field in fields(Row)], table))

    def draw(self, label: str, trained_at: int, paper: Mapping[int, Figure]) -> None:
        """Draw the curve of what was measured beside the paper's, if it has one."""
        points = {row.size: row.top1 for row in self.rows}
        picture = figure_bytes(draw_curve(points, label, trained_at, paper), "png")
        write_atomically(self.folder / CURVE, lambda file: file.write(picture))

    def write(self, name: str, text: str) -> None:
        """Write a file whole or not at all."""
        write_atomically(self.folder / name, lambda file: file.write(text.encode()))


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


def parse_row(line: Mapping[str, str]) -> Row:
    """Read a row of the table.

    Raises:
        ValueError: If it is none.
    """
    whole = {"size", "images", "skipped", "window", "resize"}
    try:
        values = {name: (int if name in whole else float)(text) for name, text in line.items() if text}
        return Row(**{"window": None, **values})
    except TypeError as error:
        raise ValueError(
            f"{TABLE} has other columns than an evaluation writes ({error}); choose another --out"
        ) from None
