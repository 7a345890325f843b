"""`ropevit probe`: k nearest neighbors and a linear probe of frozen features, of images or of patches."""

from typing import Annotated

import tyro
from rich import box
from rich.table import Table

from ropevit.cli.console import Console, print_line
from ropevit.cli.pass_bars import pass_bars
from ropevit.tasks.probe.config import ProbeConfig
from ropevit.tasks.probe.report import CURVE, table_cells
from ropevit.tasks.probe.rows import ProbeRow
from ropevit.tasks.probe.run import TABLE, ProbeResult
from ropevit.tasks.probe.run import probe as run_probe


def probe(config: Annotated[ProbeConfig, tyro.conf.arg(name="")]) -> None:
    """Measure the frozen features of a pretrained model on your labeled images, at every size; nothing is trained.

    k nearest neighbors and a linear probe, with every RoPE scaling method, beside images resized to the training size
    or cut into tiles; where the images have masks, a linear probe of their patches, by mean IoU. Writes probe.csv,
    probe.json, curve.png and report.html. Ctrl-C keeps finished rows; --resume measures the others, also of further
    sizes and methods.

    For example:
      ropevit probe --checkpoint runs/fashion --data fashion --sizes 28,56 --scaling none pi parts+log
      ropevit probe --checkpoint runs/mine --data other_images --sizes 224,448,896 --scaling none pi parts+log auto
      ropevit probe --model dinov3_vits16 --checkpoint dinov3_vits16.pth --data my_images --sizes 256,512 --resume
      ropevit probe --model dinov3_vits16 --checkpoint dinov3_vits16.pth --data my_ade --sizes 224,448,896
    """
    console = Console()
    with pass_bars(console, "measures the remaining rows") as report:
        result = run_probe(config, report)
    print_result(console, result)


def print_result(console: Console, result: ProbeResult) -> None:
    """Print the table, the conclusions, and where the files are."""
    print_line(console, f"{result.kind.score} (%), with the 95 % interval of its difference to the reference")
    console.print(table(result))
    for sentence in (*result.conclusions, *result.remarks):
        print_line(console, sentence)
    folder = result.report.parent
    print_line(console, f"report: {result.report}")
    print_line(console, f"table: {folder / TABLE}, curve: {folder / CURVE}")


def table(result: ProbeResult) -> Table:
    """Return the table of all rows, in 80 characters."""
    found = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    found.add_column("size", no_wrap=True)
    found.add_column("features", overflow="fold", max_width=12)
    for name in ("tokens", "images/s", *result.kind.probes.values()):
        found.add_column(name, justify="right", no_wrap=True)
    for row in result.rows:
        cells = table_cells(row)
        known = (cells[name] for name in ("size", "features", "tokens", "images/s"))
        found.add_row(*known, *(_score(row, probe, bool(cells["change"][probe])) for probe in result.kind.probes))
    return found


def _score(row: ProbeRow, probe: str, compared: bool) -> str:
    """Return an accuracy with the interval of its difference to the reference."""
    change = row.change[probe]
    interval = f"({change.low:+.1f} to {change.high:+.1f})" if compared else "reference"
    return f"{row.scores[probe].value:.1f} {interval:>16}"
