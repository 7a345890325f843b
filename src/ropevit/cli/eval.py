"""`ropevit eval`."""

from collections.abc import Sequence
from typing import Annotated

import tyro
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ropevit.models.published import DRAWN, SOURCE
from ropevit.tasks.classify.evaluate import Begun, EvalConfig, Event, Measured, Measuring, evaluate
from ropevit.tasks.classify.measured import CURVE, TABLE, Row


def eval(config: Annotated[EvalConfig, tyro.conf.arg(name="")]) -> None:  # noqa: A001 (it is the verb)
    """Measure a classifier below, at and above its training size: top-1 and top-5, the curve beside the paper's.

    Writes eval.csv, per_class.csv, eval.json and curve.png. Ctrl-C keeps the sizes that are done; --resume goes on.

    For example:
      ropevit eval --model rope_mixed_deit_small_patch16_LS --data PATH/imagenet
      ropevit eval --checkpoint runs/fashion --data fashion --sizes 20,28,40
      ropevit eval --model deit_base_patch16_LS --data PATH/imagenet-r --protocol timm --sizes 224
      torchrun --nproc-per-node 8 -m ropevit eval --checkpoint runs/swin --data PATH/imagenet
    """
    console = Console()
    with EvalBars(console) as bars:
        try:
            evaluate(config, bars.update)
        except KeyboardInterrupt:
            bars.close()
            bars.conclude("stopped; the same command with --resume measures what is missing")
            raise
    bars.conclude("")


class EvalBars:
    """The live display of an evaluation: a bar a size, then the table."""

    def __init__(self, console: Console):
        columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self.progress = Progress(TextColumn("{task.description}"), *columns, console=console)
        self.console = console
        self.task = None
        self.begun: Begun | None = None
        self.rows: list[Row] = []

    def __enter__(self) -> "EvalBars":
        return self  # drawn from the first event on: wrong input is answered by its error alone

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop drawing."""
        if self.progress.live.is_started:
            self.progress.stop()

    def update(self, event: Event) -> None:
        """Show an event of the evaluation."""
        match event:
            case Begun():
                self.begun, self.rows = event, list(event.rows)
                self.say(f"{event.name}: {event.on}")
                for note in event.notes:
                    self.say(note)
                self.progress.start()
            case Measuring(size=size, done=done, total=total):
                if self.task is None:
                    self.task = self.progress.add_task(f"{size} px", total=total)
                self.progress.update(self.task, completed=done)
            case Measured(row=row, left_out=left_out):
                if self.task is not None:
                    self.progress.remove_task(self.task)
                self.task = None
                self.rows.append(row)
                self.say(f"{row.size} px: top-1 {row.top1:.2f}, top-5 {row.top5:.2f} ({how(row)})")
                for name in left_out:
                    self.say(f"left out {name}")

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self.progress.console.print(escape(line), highlight=False, soft_wrap=True)

    def conclude(self, line: str) -> None:
        """Print the table, and where everything is."""
        if self.begun is None:
            return
        if self.rows:
            self.console.print(result_table(self.begun, sorted(self.rows, key=lambda row: row.size)))
            out = self.begun.out
            print_line(self.console, f"everything is in {out}; the table is {TABLE}, the curve {CURVE}")
        if line:
            print_line(self.console, line)


def print_line(console: Console, line: str) -> None:
    """Print a line as it is."""
    console.print(line, soft_wrap=True, markup=False, highlight=False)


def how(row: Row) -> str:
    """Say how pictures were brought to a size."""
    window = "" if row.window is None else f", windows of {row.window}"
    return f"resize {row.resize}, crop {row.size}{window}"


def result_table(begun: Begun, rows: Sequence[Row]) -> Table:
    """Lay out what was measured, beside the paper's figures where there are any."""
    caption = f"paper: {SOURCE}; with ±, {DRAWN}" if begun.paper else None
    table = Table(box=box.SIMPLE_HEAD, title=begun.name, title_justify="left", caption=caption, caption_justify="left")
    paper, window = ["paper"] if begun.paper else [], [] if rows[0].window is None else ["window"]
    for name in ("size", "resize", *window, "top-1", "top-5", *paper, "images", "skipped", "images/s", "GiB"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        size = f"{row.size} (training)" if row.size == begun.trained_at else str(row.size)
        place = str(row.resize), *([str(row.window)] if window else [])
        figures = f"{row.top1:.2f}", f"{row.top5:.2f}", *([str(begun.paper.get(row.size, "-"))] if paper else [])
        counts = f"{row.images:,}", f"{row.skipped:,}", f"{row.images_per_second:,.0f}", f"{row.peak_memory_gib:.1f}"
        table.add_row(size, *place, *figures, *counts)
    return table
