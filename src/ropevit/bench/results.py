"""The results of a benchmark: one row for each candidate and direction, kept as CSV."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from ropevit.files import write_text


@dataclass(frozen=True, kw_only=True)
class BenchRow:
    """One candidate in one direction; a candidate that cannot run has a note and no figures."""

    level: str
    shape: str
    about: str
    """The sizes, in words."""
    direction: str
    label: str
    family: str
    embedding: str
    compiled: bool
    base: str
    """With which the ratio compares."""
    milliseconds: float | None = None
    """Median over the rounds of one call."""
    ratio: float | None = None
    """Median over the rounds of the time over the base's in the same round."""
    ratio_low: float | None = None
    """Lower quartile of the ratio."""
    ratio_high: float | None = None
    """Upper quartile of the ratio."""
    gigabytes_per_second: float | None = None
    """Bytes that cannot be avoided, over the median time."""
    megabytes: float | None = None
    memory: str = ""
    """What `megabytes` is: "peak" (measured) or "kept" (counted: tensors kept for the backward pass)."""
    rounds: int = 0
    error: float | None = None
    """Largest error relative to float64."""
    note: str = ""


def write_rows(path: Path, rows: Sequence[BenchRow]) -> None:
    """Write rows as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(BenchRow)], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: format_value(value) for name, value in asdict(row).items()} for row in rows)
    write_text(path, text.getvalue())


def format_value(value: object) -> object:
    """Shorten numbers to what was measured: four digits."""
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else value


def group_rows(rows: Sequence[BenchRow]) -> list[list[BenchRow]]:
    """Put rows that are compared with each other together, in their order."""
    found: dict[tuple[str, str, str], list[BenchRow]] = {}
    for row in rows:
        found.setdefault((row.level, row.shape, row.direction), []).append(row)
    return list(found.values())
