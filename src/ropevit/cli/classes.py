"""What `ropevit predict` shows and writes of a classifier."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from ropevit.cli.console import Console, print_line, progress_bar
from ropevit.cli.errors import show_error
from ropevit.data.listing import ImageFile
from ropevit.files import write_json, write_text
from ropevit.kernels.windows import ceil_div
from ropevit.tasks.classify.predict import Prediction, Unreadable
from ropevit.tasks.common.eval_results import to_csv

#: What is written into --out.
TABLE, RECORDS = "predictions.csv", "predictions.json"
#: So many images are shown in a table each, more in a line each.
FEW = 5
#: Classes that the last line counts by name.
NAMED = 5


@dataclass
class Predictions:
    """Shows predictions as they come, and keeps them to be written.

    Args:
        console: Where.
        files: The images, in the order in which predictions come.
        out: Folder to write; None writes nothing.
    """

    console: Console
    files: Sequence[ImageFile]
    out: Path | None = None
    found: list[tuple[Path, Prediction]] = field(default_factory=list)
    unread: list[tuple[Path, Unreadable]] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Number of images that are through, those that could not be read included."""
        return len(self.found) + len(self.unread)

    def add(self, prediction: Prediction | Unreadable) -> None:
        """Take what was found in the next image."""
        path = self.files[self.done].path
        if isinstance(prediction, Unreadable):
            self.unread.append((path, prediction))
            show_error(ValueError(prediction))
            return
        self.found.append((path, prediction))
        if len(self.files) <= FEW:
            _show_table(self.console, path, prediction)
        elif self.out is None:
            guess = prediction.guesses[0]
            print_line(self.console, f"{path}: {guess.name} {guess.probability:.1%}")

    def run(self, predictions: Iterator[Prediction | Unreadable]) -> None:
        """Show predictions with a progress bar, and write them; after Ctrl-C those that there are."""
        stopped = True
        try:
            with progress(self.console, "images", len(self.files), lines=self.out is not None) as update:
                for prediction in predictions:
                    self.add(prediction)
                    update(self.done)
            stopped = False
        finally:
            if self.done and (self.out is not None or len(self.files) > FEW or self.unread):
                self.conclude(f"stopped after {self.done:,} of " if stopped else "")

    def conclude(self, before: str) -> None:
        """Write the files, and say in a line what was found."""
        if self.out is not None:
            write_text(self.out / TABLE, self.table())
            write_json(self.out / RECORDS, self.records())
        counts = Counter(prediction.guesses[0].name for _, prediction in self.found).most_common()
        parts = [f"{number:,} {name}" for name, number in counts[:NAMED]]
        if rest := counts[NAMED:]:
            parts.append(f"{sum(number for _, number in rest):,} of {len(rest)} other classes")
        print_line(self.console, f"{before}{len(self.files):,} images: {', '.join(parts) or 'none classified'}")
        if self.unread:
            print_line(
                self.console,
                f"{len(self.unread):,} could not be read and {'is' if len(self.unread) == 1 else 'are'} left out",
            )
        if self.out is not None:
            print_line(self.console, f"wrote {TABLE} and {RECORDS} to {self.out}")

    def table(self) -> str:
        """Lay predictions out as comma-separated values: a row an image, two columns a guess."""
        most = max((len(prediction.guesses) for _, prediction in self.found), default=0)
        heading = ["file", *(f"{what}_{rank}" for rank in range(1, most + 1) for what in ("class", "probability"))]
        rows = ([str(path), *cells(prediction)] for path, prediction in self.found)
        return to_csv(heading, rows)

    def records(self) -> dict[str, Any]:
        """Give predictions, and what could not be read, as JSON holds them."""
        return {
            "images": [
                {
                    "file": str(path),
                    "height": prediction.height,
                    "width": prediction.width,
                    "classes": [guess.name for guess in prediction.guesses],
                    "probabilities": [round(guess.probability, 6) for guess in prediction.guesses],
                }
                for path, prediction in self.found
            ],
            "unreadable": [{"file": str(path), "reason": str(why)} for path, why in self.unread],
        }


def cells(prediction: Prediction) -> Iterator[Any]:
    """Give the cells of a row of the table, the file's apart."""
    for guess in prediction.guesses:
        yield from (guess.name, round(guess.probability, 6))


def _show_table(console: Console, path: Path, prediction: Prediction) -> None:
    """Print the guesses for one image as a table."""
    print_line(console, f"{path} at {prediction.height} x {prediction.width} pixels (height x width)")
    rows = [(guess.name, f"{guess.probability:.1%}") for guess in prediction.guesses]
    console.print(lay_out(("class", "probability"), rows))


def lay_out(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Make a table of names and numbers."""
    table = Table(box=box.SIMPLE_HEAD)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    return table


@contextmanager
def progress(console: Console, what: str, total: int, *, lines: bool) -> Iterator[Callable[[int], None]]:
    """Show progress: a bar on a terminal; elsewhere, if `lines`, a line at each tenth, ten or more images apart."""
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
