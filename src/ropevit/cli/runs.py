"""`ropevit runs`: a table and curves of training runs."""

from pathlib import Path
from typing import Annotated

import tyro
from rich import box
from rich.table import Table

from ropevit.cli.console import Console, print_line
from ropevit.tasks.runs.run_summary import RunSummary, by_metric, draw_runs, find_runs
from ropevit.text import format_speed


def runs(
    folders: tyro.conf.Positional[tuple[Path, ...]] = (Path("runs"),),
    out: Annotated[Path | None, tyro.conf.arg(help_behavior_hint="(default: runs.png in the first directory)")] = None,
) -> None:
    """Compare training runs in a table, and plot their curves; one table per task.

    For example:
      ropevit runs runs
      ropevit runs runs/small_ape runs/small_mixed --out small.png

    Args:
        folders: Directories of runs, or directories that contain some.
        out: PNG for the curves; an existing one is replaced.
    """
    found = find_runs(folders)
    console = Console()
    for same_metric in by_metric(found).values():
        console.print(table(same_metric))
    path = draw_runs(found, out or folders[0] / "runs.png")
    print_line(console, f"curves: {path}")


def table(found: list[RunSummary]) -> Table:
    """Return a table of runs with the same metric, one per row."""
    result = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)  # all columns in 80 characters
    result.add_column("run", overflow="fold", min_width=8)
    result.add_column("recipe", overflow="fold", min_width=10)
    for name in ("epoch", "loss", found[0].metric.name, "best", "images/s"):
        result.add_column(name, justify="right", no_wrap=True)
    if any(run.skipped for run in found):
        result.add_column("skipped", justify="right", no_wrap=True)
    for run in found:
        done, speed = run.last("epoch") or 0, run.last("images_per_second")
        result.add_row(
            run.name,
            run.title,
            f"{done:.4g}/{_format_value(run.length_in_epochs, '.4g')}{'' if run.finished else ' …'}",
            _format_value(run.last("loss"), ".4f"),
            _format_value(run.last(run.metric.name), ".2f"),
            _format_value(run.best, ".2f"),
            "-" if speed is None else format_speed(speed),
            *([str(run.skipped)] if any(other.skipped for other in found) else []),
        )
    return result


def _format_value(value: float | None, spec: str) -> str:
    """Format a number, or return a dash if there is none yet."""
    return "-" if value is None else format(value, spec)
