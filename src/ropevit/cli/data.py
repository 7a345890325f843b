"""`ropevit data`."""

import csv
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich import box
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table

from ropevit.cli.console import Console, TextColumn
from ropevit.data.augment import AugmentConfig, Kind, train_transform
from ropevit.data.check import check
from ropevit.data.check_dense import check_dense, dense_layout
from ropevit.data.findings import ADVICE, HARMLESS, Finding, Report
from ropevit.data.sources import open_source
from ropevit.data.speed import measure_speed
from ropevit.data.tiny import COUNTS, make_tiny
from ropevit.files import write_text
from ropevit.text import csv_cell

#: Examples that the table of problems shows of each kind.
EXAMPLES = 3

PathText = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """Find files, classes and shards that would spoil a training; every image is read to its end.

    Exit code 0: no problems; 1: problems were found; 2: wrong input.

    For example:
      ropevit data check imagenet
      ropevit data check 'shards/train-{0000..1023}.tar' --out problems.csv
      ropevit data check coco
    """

    path: PathText
    """Folder with train and val, of classes or with tar shards; or a pattern of shards; or a folder as COCO or ADE20K
    unpack."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """CSV file for everything that was found; must not exist."""


@dataclass(frozen=True, kw_only=True)
class SpeedConfig:
    """Measure how fast training images are read and varied: no training on this machine is faster.

    For example:
      ropevit data speed imagenet --workers 16
    """

    path: PathText
    """As for a training: fashion, a folder, or a pattern of shards."""
    size: int = 224
    """Side of a training image in pixels."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Processes that read; the default is one a core."""
    augment: Kind = "three_augment"
    """How images are varied."""
    seconds: float = 10.0
    """How long one core and all workers are timed, each."""


@dataclass(frozen=True, kw_only=True)
class MakeTinyConfig:
    """Write a small data set of coloured shapes in the layout of COCO or ADE20K, always the same.

    For example:
      ropevit data make-tiny coco my_coco
      ropevit data make-tiny ade my_ade --train 200 --val 50
    """

    layout: Annotated[Literal["coco", "ade"], tyro.conf.Positional]
    """coco: boxes; ade: a label for each pixel."""
    directory: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Folder to write; must not exist, or be empty."""
    train: int = COUNTS["train"]
    """Pictures to train on."""
    val: int = COUNTS["val"]
    """Pictures to measure on."""


def data(
    command: Annotated[
        Annotated[CheckConfig, tyro.conf.subcommand("check")]
        | Annotated[SpeedConfig, tyro.conf.subcommand("speed")]
        | Annotated[MakeTinyConfig, tyro.conf.subcommand("make-tiny")],
        tyro.conf.arg(name=""),
    ],
) -> None:
    """Check a data set, measure how fast it is read, or make a small one.

    For example:
      ropevit data check imagenet
      ropevit data speed imagenet
      ropevit data make-tiny coco my_coco
    """
    if isinstance(command, CheckConfig):
        run_check(command)
    elif isinstance(command, SpeedConfig):
        run_speed(command)
    else:
        run_make_tiny(command)


def run_check(config: CheckConfig) -> None:
    """Show what was found; problems end with exit code 1.

    Raises:
        ValueError: If there is nothing to check, or a file in the way.
    """
    if config.path == "fashion":
        raise ValueError("got fashion, the embedded images, which are sound; give a folder, or a pattern of shards")
    if config.out and config.out.exists():
        raise ValueError(f"{config.out} exists; choose another --out, or remove it")
    console = Console()
    with bar(console, "reading images") as update:
        report = check_dense(config.path, update) if dense_layout(config.path) else check(config.path, update)
    console.print("\n".join(summary(report)), soft_wrap=True, highlight=False)
    if report.findings:
        console.print(findings_table(report))
        if config.out:
            write_findings(config.out, report.findings)
        where = f"all of it is in {config.out}" if config.out else "--out FILE.csv keeps all of it"
        console.print(where, soft_wrap=True, highlight=False)
    if report.clean:
        console.print("no problems were found")
    else:
        sys.exit(1)


def summary(report: Report) -> Iterator[str]:
    """Say in lines what was looked at, and what was not."""
    counts = ", ".join(f"{count} of {split}" for split, count in report.images.items())
    yield f"images: {counts or 'none'}; classes: {report.classes}"
    if report.others:
        yield f"not looked at: {', '.join(f'{count} {what}' for what, count in report.others.most_common())}"
    yield from report.notes


def findings_table(report: Report) -> Table:
    """Lay out what was found, kind by kind."""
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("what", "count", "what to do", "first examples"):
        table.add_column(heading, justify="right" if heading == "count" else "left")
    for kind, advice in ADVICE.items():
        found = [finding for finding in report.findings if finding.kind == kind]
        if found:
            style = "dim" if kind in HARMLESS else None
            table.add_row(kind, str(len(found)), advice, "\n".join(map(example, found[:EXAMPLES])), style=style)
    return table


def example(finding: Finding) -> str:
    """Name a file, or a class, and what is wrong with it."""
    return f"{finding.file or f'{finding.label} ({finding.split})'.strip()}: {finding.detail}"


def write_findings(path: Path, findings: list[Finding]) -> None:
    """Write everything that was found as CSV."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["kind", "split", "class", "file", "detail"])
    writer.writerows(map(csv_cell, finding) for finding in findings)
    write_text(path, text.getvalue())


def run_speed(config: SpeedConfig) -> None:
    """Show what was measured.

    Raises:
        ValueError: If a number is out of range.
    """
    if config.size < 1 or config.workers < 0 or config.seconds <= 0:
        raise ValueError(
            f"got size={config.size}, workers={config.workers}, seconds={config.seconds:g}; expected positive numbers "
            "(workers may be 0)"
        )
    console = Console()
    transform = train_transform(AugmentConfig(kind=config.augment), config.size)
    with bar(console, "fetching shards") as update:
        source = open_source(config.path, "train", update)
    with console.status("reading images"):
        speed = measure_speed(source, transform, config.workers, config.seconds)
    workers = f"{config.workers} worker{'' if config.workers == 1 else 's'}"
    lines = (
        f"one core: {1e3 * speed.read_seconds:.1f} ms to read and {1e3 * speed.vary_seconds:.1f} ms to vary an image "
        f"of {source.name}: {speed.per_core:.0f} images/s",
        f"data: {speed.images_per_second:.0f} images/s with {workers}; training is bound by the data above that",
    )
    console.print("\n".join(lines), soft_wrap=True, highlight=False)


def run_make_tiny(config: MakeTinyConfig) -> None:
    """Say what was written.

    Raises:
        ValueError: If there is something in the folder.
    """
    make_tiny(config.layout, config.directory, config.train, config.val)
    Console().print(f"wrote {config.directory}", soft_wrap=True, highlight=False)


@contextmanager
def bar(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """Show how far something is; nothing before its first news."""
    columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    progress = Progress(TextColumn("{task.description}"), *columns, console=console, transient=True)
    task = progress.add_task(what, total=None)

    def update(done: int, total: int) -> None:
        progress.start()
        progress.update(task, completed=done, total=total)

    try:
        yield update
    finally:
        progress.stop()
