"""Results of a benchmark: one row for each candidate and direction, stored as CSV."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from ropevit.files import write_text


@dataclass(frozen=True, kw_only=True)
class BenchRow:
    """Result of one candidate in one direction; a candidate that cannot run has a note and no numbers."""

    level: str
    shape: str
    about: str
    """Description of the sizes."""
    direction: str
    label: str
    library: str
    """Library of the implementation: "ours" is this package, "plain" textbook versions, "none" without rotation."""
    embedding: str
    compiled: bool
    base: str
    """Label of the baseline of the ratio."""
    milliseconds: float | None = None
    """Time of one call, median over the rounds."""
    ratio: float | None = None
    """Time over that of the baseline in the same round, median over the rounds."""
    ratio_low: float | None = None
    """Lower quartile of the ratio."""
    ratio_high: float | None = None
    """Upper quartile of the ratio."""
    gigabytes_per_second: float | None = None
    """Least memory traffic over the median time."""
    megabytes: float | None = None
    memory: str = ""
    """Meaning of `megabytes`: "peak" (measured) or "kept" (sum of the tensors saved for the backward pass)."""
    images: int = 1
    """Images of a call, of the level scale."""
    pixels: int = 0
    """Pixels of an image, on average, of the level scale."""
    rounds: int = 0
    error: float | None = None
    """Largest relative error against float64."""
    note: str = ""


def write_rows(path: Path, rows: Sequence[BenchRow]) -> None:
    """Write rows as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(BenchRow)], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _format_value(value) for name, value in asdict(row).items()} for row in rows)
    write_text(path, text.getvalue())


def _format_value(value: object) -> object:
    """Round floats to four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else value


def group_rows(rows: Sequence[BenchRow]) -> list[list[BenchRow]]:
    """Group rows that are compared with each other, in order."""
    found: dict[tuple[str, str, str], list[BenchRow]] = {}
    for row in rows:
        found.setdefault((row.level, row.shape, row.direction), []).append(row)
    return list(found.values())
