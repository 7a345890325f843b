"""Output of `ropevit predict` for classifiers: lines and tables on the console, CSV and JSON files."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from ropevit.arithmetic import ceil_div
from ropevit.cli.console import Console, print_line, progress_bar
from ropevit.cli.errors import show_error
from ropevit.data.listing import ImageFile
from ropevit.files import write_json, write_text
from ropevit.tasks.classify.predict import Prediction, Unreadable
from ropevit.tasks.evaluation.results import to_csv

#: Names of the files in --out.
TABLE, RECORDS = "predictions.csv", "predictions.json"
#: Up to this number of images, each is shown as a table; beyond it, as a line.
_MAX_TABLES = 5
#: Number of classes that the last line counts by name.
_NAMED_CLASSES = 5


@dataclass
class Predictions:
    """Prints predictions as they arrive, and collects them for the output files.

    Args:
        console: Where to print.
        files: The images, in the order of the predictions.
        out: Output folder; None writes nothing.
    """

    console: Console
    files: Sequence[ImageFile]
    out: Path | None = None
    classified: list[tuple[Path, Prediction]] = field(default_factory=list)
    unreadable: list[tuple[Path, Unreadable]] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Number of processed images, including unreadable ones."""
        return len(self.classified) + len(self.unreadable)

    def add(self, prediction: Prediction | Unreadable) -> None:
        """Add the prediction of the next image."""
        path = self.files[self.done].path
        if isinstance(prediction, Unreadable):
            self.unreadable.append((path, prediction))
            show_error(ValueError(prediction))
            return
        self.classified.append((path, prediction))
        if len(self.files) <= _MAX_TABLES:
            _show_table(self.console, path, prediction)
        elif self.out is None:
            ranked = prediction.top_classes[0]
            print_line(self.console, f"{path}: {ranked.name} {ranked.probability:.1%}")

    def run(self, predictions: Iterator[Prediction | Unreadable]) -> None:
        """Print predictions with a progress bar, and write them to files; after Ctrl-C, those made so far."""
        stopped = True
        try:
            with show_progress(self.console, "images", len(self.files), lines=self.out is not None) as update:
                for prediction in predictions:
                    self.add(prediction)
                    update(self.done)
            stopped = False
        finally:
            if self.done and (self.out is not None or len(self.files) > _MAX_TABLES or self.unreadable):
                self.conclude(f"stopped after {self.done:,} of " if stopped else "")

    def conclude(self, prefix: str) -> None:
        """Write the files, and print a summary line."""
        if self.out is not None:
            write_text(self.out / TABLE, self.table())
            write_json(self.out / RECORDS, self.records())
        counts = Counter(prediction.top_classes[0].name for _, prediction in self.classified).most_common()
        parts = [f"{number:,} {name}" for name, number in counts[:_NAMED_CLASSES]]
        if rest := counts[_NAMED_CLASSES:]:
            parts.append(f"{sum(number for _, number in rest):,} of {len(rest)} other classes")
        print_line(self.console, f"{prefix}{len(self.files):,} images: {', '.join(parts) or 'none classified'}")
        if self.unreadable:
            print_line(
                self.console,
                f"{len(self.unreadable):,} unreadable and skipped",
            )
        if self.out is not None:
            print_line(self.console, f"wrote {TABLE} and {RECORDS} to {self.out}")

    def table(self) -> str:
        """Return predictions as CSV: one row per image, two columns (name, probability) per class."""
        most = max((len(prediction.top_classes) for _, prediction in self.classified), default=0)
        heading = ["file", *(f"{what}_{rank}" for rank in range(1, most + 1) for what in ("class", "probability"))]
        rows = ([str(path), *_csv_cells(prediction)] for path, prediction in self.classified)
        return to_csv(heading, rows)

    def records(self) -> dict[str, Any]:
        """Return predictions and unreadable files as a JSON object."""
        return {
            "images": [
                {
                    "file": str(path),
                    "height": prediction.height,
                    "width": prediction.width,
                    "classes": [ranked.name for ranked in prediction.top_classes],
                    "probabilities": [round(ranked.probability, 6) for ranked in prediction.top_classes],
                }
                for path, prediction in self.classified
            ],
            "unreadable": [{"file": str(path), "reason": str(why)} for path, why in self.unreadable],
        }


def _csv_cells(prediction: Prediction) -> Iterator[Any]:
    """Yield the CSV cells of a prediction, without its file."""
    for ranked in prediction.top_classes:
        yield from (ranked.name, round(ranked.probability, 6))


def _show_table(console: Console, path: Path, prediction: Prediction) -> None:
    """Print the predicted classes of one image as a table."""
    print_line(console, f"{path} at {prediction.height} x {prediction.width} pixels (height x width)")
    rows = [(ranked.name, f"{ranked.probability:.1%}") for ranked in prediction.top_classes]
    console.print(make_table(("class", "probability"), rows))


def make_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table with the first column left-aligned, the others right-aligned."""
    table = Table(box=box.SIMPLE_HEAD)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    return table


@contextmanager
def show_progress(console: Console, what: str, total: int, *, lines: bool) -> Iterator[Callable[[int], None]]:
    """Show progress: a bar on a terminal; elsewhere, if `lines`, a line for each tenth, at least ten images apart."""
    if total < 2:
        yield lambda _: None
    elif console.is_terminal:
        with progress_bar(console, what) as show:
            yield lambda done: show(done, total)
    else:
        step = max(10, ceil_div(total, 10))

        def update(done: int) -> None:
            if lines and done % step == 0:
                print_line(console, f"{what}: {done:,} of {total:,}")

        yield update
