"""`ropevit data`: checks a data set, shows images of it, measures its reading speed, or makes a small one."""

import csv
import io
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich import box
from rich.table import Table

from ropevit.cli.console import Console, print_line, progress_bar
from ropevit.data.annotation_formats import ANNOTATION_FORMATS, annotation_format
from ropevit.data.augment import AugmentConfig, AutoAugment, train_transform
from ropevit.data.check import check
from ropevit.data.check_dense import check_dense
from ropevit.data.findings import ADVICE, HARMLESS, DataReport, Finding
from ropevit.data.show import show
from ropevit.data.sources import NAMED_SOURCES, open_source
from ropevit.data.speed import measure_speed
from ropevit.data.tiny import COUNTS, make_tiny
from ropevit.files import unused_path, write_atomically, write_text
from ropevit.text import csv_cell

#: Examples of each kind of problem in the table.
EXAMPLES = 3

#: Formats of `make-tiny`, and what each annotates.
_FORMAT_NAMES = f"{{{','.join(name for name, row in ANNOTATION_FORMATS.items() if row.write_tiny)}}}"
_FORMAT_HELP = (
    "; ".join(f"{name}: {row.annotations}" for name, row in ANNOTATION_FORMATS.items() if row.write_tiny) + "."
)

PathText = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """Find unreadable images, wrong annotations and other problems of a data set; decodes every image.

    Exit code 0: no problems; 1: problems found; 2: wrong input.

    For example:
      ropevit data check imagenet
      ropevit data check 'shards/train-{0000..1023}.tar' --out problems.csv
      ropevit data check coco
    """

    path: PathText
    """Folder with train and val, of class folders or WebDataset shards; a pattern of shards; or a folder in the format
    of COCO or ADE20K."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """CSV file for all findings; must not exist."""


@dataclass(frozen=True, kw_only=True)
class ShowConfig:
    """Draw images of a data set with their classes, boxes or masks into one picture, to see that they are right.

    For example:
      ropevit data show my_images
      ropevit data show my_coco --split val --count 9 --seed 1
    """

    path: PathText
    """Images of classes: fashion or emoji (embedded), a folder, or a pattern of WebDataset shards; or a folder in the
    format of COCO or ADE20K."""
    split: Literal["train", "val"] = "train"
    """Split of which images are drawn."""
    count: int = 16
    """Number of images, up to 100."""
    seed: int = 0
    """Chooses the images; other seeds show others."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE.png")] = None
    """Picture to write; must not exist. Default: data-train.png or data-val.png, then data-train-2.png, ..."""

    def __post_init__(self):
        if self.out is not None and self.out.suffix.lower() != ".png":
            raise ValueError(f"got --out {self.out}; expected a name that ends in .png")


@dataclass(frozen=True, kw_only=True)
class SpeedConfig:
    """Measure the throughput of reading and augmenting training images, the upper limit for training.

    For example:
      ropevit data speed imagenet --workers 16
    """

    path: PathText
    """Training images: fashion or emoji (embedded), a folder with train and val, or a pattern of WebDataset shards."""
    size: int = 224
    """Size of the training images in pixels."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """DataLoader workers; default: one per core."""
    auto_augment: AutoAugment = "three_augment"
    """Augmentation policy."""
    seconds: float = 10.0
    """Duration of each of the two measurements: one core, all workers."""


@dataclass(frozen=True, kw_only=True)
class MakeTinyConfig:
    """Write a small synthetic data set of colored shapes in the format of COCO or ADE20K, always the same.

    For example:
      ropevit data make-tiny coco my_coco
      ropevit data make-tiny ade my_ade --train 200 --val 50
    """

    format: Annotated[str, tyro.conf.Positional, tyro.conf.arg(help=_FORMAT_HELP, metavar=_FORMAT_NAMES)]
    directory: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Output folder; must not exist, or be empty."""
    train: int = COUNTS["train"]
    """Number of training images."""
    val: int = COUNTS["val"]
    """Number of validation images."""


def data(
    command: Annotated[
        Annotated[CheckConfig, tyro.conf.subcommand("check")]
        | Annotated[ShowConfig, tyro.conf.subcommand("show")]
        | Annotated[SpeedConfig, tyro.conf.subcommand("speed")]
        | Annotated[MakeTinyConfig, tyro.conf.subcommand("make-tiny")],
        tyro.conf.arg(name=""),
    ],
) -> None:
    """Check a data set, show images of it, measure its reading throughput, or make a small one.

    For example:
      ropevit data check imagenet
      ropevit data show my_images
      ropevit data speed imagenet
      ropevit data make-tiny coco my_coco
    """
    if isinstance(command, CheckConfig):
        _run_check(command)
    elif isinstance(command, ShowConfig):
        _run_show(command)
    elif isinstance(command, SpeedConfig):
        _run_speed(command)
    else:
        run_make_tiny(command)


def _run_check(config: CheckConfig) -> None:
    """Check a data set and print the findings; exit with code 1 if there are problems.

    Raises:
        ValueError: If there is nothing to check, or --out exists.
    """
    if config.path in NAMED_SOURCES:
        raise ValueError(f"got {config.path}, which needs no check; give a folder, or a pattern of shards")
    _check_new(config.out)
    console = Console()
    with progress_bar(console, "reading images") as update:
        report = check_dense(config.path, update) if annotation_format(config.path) else check(config.path, update)
    console.print("\n".join(summary(report)), soft_wrap=True, highlight=False)
    if report.findings:
        console.print(_findings_table(report))
        if config.out:
            _write_findings(config.out, report.findings)
        where = f"all findings are in {config.out}" if config.out else "write all findings with --out FILE.csv"
        print_line(console, where)
    if report.clean:
        console.print(
            "no problems found; what the table lists needs no change" if report.findings else "no problems found"
        )
    else:
        sys.exit(1)


def _check_new(out: Path | None) -> None:
    """Raise ValueError if a file exists."""
    if out and out.exists():
        raise ValueError(f"{out} exists; choose another --out, or remove it")


def _run_show(config: ShowConfig) -> None:
    """Draw images into a PNG file, and name those that cannot be read.

    Raises:
        ValueError: If --out exists, or there is nothing to draw.
    """
    _check_new(config.out)
    console = Console()
    picture = show(config.path, config.split, config.count, config.seed)
    out = config.out or unused_path(Path(f"data-{config.split}.png"))
    write_atomically(out, lambda file: picture.image.save(file, format="PNG"))
    for line in picture.skipped[:EXAMPLES]:
        print_line(console, f"skipped {line}", "yellow")
    print_line(console, f"{picture.shown} images of {config.path} ({config.split}) are in {out}")


def summary(report: DataReport) -> Iterator[str]:
    """Yield lines that summarize what was checked."""
    counts = ", ".join(f"{count} of {split}" for split, count in report.images.items())
    yield f"images: {counts or 'none'}; classes: {report.classes}"
    if report.others:
        yield f"not checked: {', '.join(f'{count} {what}' for what, count in report.others.most_common())}"
    yield from report.notes


def _findings_table(report: DataReport) -> Table:
    """Return a table of the findings, one row per kind."""
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("problem", "count", "what to do", "first examples"):
        justify = "right" if heading == "count" else "left"
        table.add_column(heading, justify=justify, overflow="fold")  # names are never truncated
    for kind, advice in ADVICE.items():
        found = [finding for finding in report.findings if finding.kind == kind]
        if found:
            style = "dim" if kind in HARMLESS else None
            table.add_row(kind, str(len(found)), advice, "\n".join(map(example, found[:EXAMPLES])), style=style)
    return table


def example(finding: Finding) -> str:
    """Describe a finding: its file or class, and the problem."""
    return f"{finding.file or f'{finding.label} ({finding.split})'.strip()}: {finding.detail}"


def _write_findings(path: Path, findings: list[Finding]) -> None:
    """Write all findings as CSV."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["kind", "split", "class", "file", "detail"])
    writer.writerows(map(csv_cell, finding) for finding in findings)
    write_text(path, text.getvalue())


def _run_speed(config: SpeedConfig) -> None:
    """Measure and print the throughput.

    Raises:
        ValueError: If a number is out of range.
    """
    if config.size < 1 or config.workers < 0 or config.seconds <= 0:
        raise ValueError(
            f"got size={config.size}, workers={config.workers}, seconds={config.seconds:g}; expected positive numbers "
            "(workers may be 0)"
        )
    console = Console()
    transform = train_transform(AugmentConfig(auto_augment=config.auto_augment), config.size)
    with progress_bar(console, "fetching shards") as update:
        source = open_source(config.path, "train", update)
    with console.status("reading images"):
        speed = measure_speed(source, transform, config.workers, config.seconds)
    workers = f"{config.workers} worker{'' if config.workers == 1 else 's'}"
    lines = (
        f"one core: {1e3 * speed.read_seconds:.1f} ms to read and {1e3 * speed.augment_seconds:.1f} ms to augment an "
        f"image of {source.name}: {speed.per_core:.0f} images/s",
        f"data: {speed.images_per_second:.0f} images/s with {workers}; the upper limit for training",
    )
    print_line(console, "\n".join(lines))


def run_make_tiny(config: MakeTinyConfig) -> None:
    """Write the data set.

    Raises:
        ValueError: If the folder is not empty.
    """
    make_tiny(config.format, config.directory, config.train, config.val)
    print_line(Console(), f"wrote {config.directory}")
