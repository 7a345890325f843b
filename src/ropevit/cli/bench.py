"""`ropevit bench`: the cost of rotation on this machine, beside other libraries."""

from collections.abc import Sequence
from typing import Annotated

import tyro
from rich import box
from rich.progress import BarColumn, Progress, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ropevit.bench import BenchConfig, run_bench
from ropevit.bench.report import column_names, row_cells
from ropevit.bench.results import BenchRow, group_rows
from ropevit.cli.console import Console, TextColumn, print_line


def bench(
    level: Annotated[str, tyro.conf.Positional] = "all", /, *, config: Annotated[BenchConfig, tyro.conf.arg(name="")]
) -> None:
    """Benchmark the rotation against other libraries on this machine.

    Every candidate is first checked against float64. Levels: op (split and rotate), layer (split, rotate, attend),
    attention (layer between its two linear layers), model (a whole ViT, inference and training step), all (these four),
    and scale (ViT-S and Swin-T on larger and larger images: many minutes on a CPU).

    For example:
      ropevit bench --quick
      ropevit bench layer --threads 1 --shapes vit224,swin1
      ropevit bench all --device cuda --dtype bfloat16 --compile --out runs/gpu
      ropevit bench scale --rounds 3 --out runs/scale

    Args:
        level: op, layer, attention, model, all or scale.
        config: Options.
    """
    console = Console()
    finished = 0
    columns = BarColumn(), TimeRemainingColumn()
    progress = Progress(TextColumn("{task.description:<44}"), *columns, console=console, transient=True)
    task = progress.add_task("starting", total=None)

    def update(what: str, done: int, total: int) -> None:
        progress.update(task, description=what[:60], completed=done, total=total)

    work = run_bench(level, config, update)  # raises for wrong input before the progress bar is drawn
    try:
        with progress:
            for rows in work:
                finished += len(rows)
                for group in group_rows(rows):
                    progress.console.print(result_table(group))
                    progress.console.print(_footnotes(group), style="dim", highlight=False, soft_wrap=True)
    except KeyboardInterrupt:
        line = f"stopped; finished results are in {config.out}" if finished else "stopped before the first result"
        print_line(console, line)
        raise
    figure = "scale.png" if level == "scale" else "bench.png"
    print_line(console, ", ".join(str(config.out / name) for name in ("bench.md", "bench.csv", figure)))


def result_table(group: Sequence[BenchRow]) -> Table:
    """Return a table of candidates that are compared with each other."""
    first = group[0]
    title = f"{first.level}, {first.shape}: {first.direction}"
    table = Table(title=title, caption=first.about, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD)
    table.pad_edge, table.collapse_padding = False, True
    table.add_column("candidate")
    columns = column_names(group)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for row in group:
        label = Text(row.label, style="bold" if row.library == "ours" else "")
        table.add_row(label, *row_cells(row, columns))
    return table


def _footnotes(group: Sequence[BenchRow]) -> str:
    """Explain the ratio, and why some candidates have no results."""
    lines = [f'ratio: time divided by that of "{group[0].base}", median of the rounds and quartiles']
    return "\n".join([*lines, *(f"{row.label}: {row.note}" for row in group if row.note)])
