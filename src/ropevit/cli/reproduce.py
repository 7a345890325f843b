"""`ropevit reproduce`: commands, expected results and cost of the paper's tables."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from rich import box
from rich.table import Table

from ropevit.cli.console import Console, print_line
from ropevit.device import resolve_device
from ropevit.machine import processor
from ropevit.models.published import DRAWN, SOURCE
from ropevit.tasks.classify.reproduce import (
    ChainStage,
    MatchedRun,
    ReproductionTarget,
    Speed,
    list_targets,
    match_runs,
    parse_throughput,
    speeds_of_runs,
)
from ropevit.tasks.classify.timing import time_training
from ropevit.tasks.runs.run_summary import find_runs


@dataclass(frozen=True, kw_only=True)
class ReproduceConfig:
    """Rows of the tables, and the throughput for the cost."""

    table: Annotated[Literal["vit", "vit-ape", "swin", "all"], tyro.conf.Positional] = "all"
    """vit: APE, axial and mixed; vit-ape: axial and mixed combined with APE; swin: RPB, axial and mixed."""
    only: Annotated[str, tyro.conf.arg(metavar="PATTERN")] = "*"
    """Only models whose names match, such as 'rope_mixed_*small*'."""
    data: str = "imagenet"
    """Data set in the commands."""
    out: Path = Path("runs")
    """Directory for runs in the commands."""
    gpus: int = 1
    """Number of GPUs in the commands, and in the trainings of --throughput and --runs."""
    throughput: Annotated[tuple[str, ...], tyro.conf.arg(metavar="N|RECIPE=N")] = ()
    """Training throughput in images per second, over all GPUs: for all recipes, or per recipe."""
    runs: tuple[Path, ...] = ()
    """Directories of training runs, whose accuracy and throughput are used."""
    measure: bool = False
    """Measure the throughput of a few steps of each training on this machine."""
    device: str = "auto"
    """Device of --measure: auto, cpu, cuda, cuda:N, mps or xpu."""

    def __post_init__(self):
        if self.gpus < 1:
            raise ValueError(f"got gpus={self.gpus}; expected at least 1")
        if sum(map(bool, (self.throughput, self.runs, self.measure))) > 1 and (self.throughput or self.measure):
            raise ValueError("got several of --throughput, --runs and --measure; give one of them, for the hours")


def reproduce(config: Annotated[ReproduceConfig, tyro.conf.arg(name="")]) -> None:
    """Show how to reproduce the paper's ImageNet tables: commands, expected accuracy, cost.

    GPU hours are computed only from a measured throughput.

    For example:
      ropevit reproduce vit --only 'rope_mixed*' --data PATH/imagenet --gpus 8
      ropevit reproduce swin --only '*mixed_tiny*' --throughput 2500
      ropevit reproduce all --runs runs
    """
    console = Console()
    targets = [row for row in list_targets(config.table, config.data, config.out) if fnmatchcase(row.name, config.only)]
    if not targets:
        of_table = "" if config.table == "all" else f" of {config.table}"
        raise ValueError(f"no row{of_table} matches {config.only!r}; `ropevit reproduce all` shows all rows")
    runs = find_runs(config.runs) if config.runs else []
    found, notes = match_runs(targets, runs)
    speed_of, speed_notes = speeds(config, targets, runs, console)
    console.print(_overview(targets, found if runs else {}, speed_of, config))
    for line in [*notes, *speed_notes]:
        print_line(console, line)
    for target in targets:
        show(console, target, config.gpus)


def speeds(
    config: ReproduceConfig, targets: Sequence[ReproductionTarget], runs: Sequence, console: Console
) -> tuple[Callable[[ChainStage], Speed | None], list[str]]:
    """Return a function for the throughput of each training, and notes on its source."""
    if config.throughput:
        given = parse_throughput(config.throughput, targets)
        return lambda stage: given.get(stage.config.recipe), [
            f"hours: at {', '.join(config.throughput)} images/s, as given"
        ]
    if config.measure:
        return _measured_speeds(config, targets, console)
    if runs:
        return speeds_of_runs(runs), [
            f"hours: at the median speed of these runs, assuming that each used --gpus {config.gpus}"
        ]
    return lambda _: None, ["hours: not measured; give --throughput, --runs or --measure"]


def _measured_speeds(
    config: ReproduceConfig, targets: Sequence[ReproductionTarget], console: Console
) -> tuple[Callable[[ChainStage], Speed | None], list[str]]:
    """Measure the throughput of every training on this machine."""
    device = resolve_device(config.device)
    names = {"cuda": lambda: torch.cuda.get_device_name(device), "cpu": lambda: f"a CPU ({processor()})"}
    device_name = names.get(device.type, lambda: f"{device.type} of {processor()}")()
    timed: dict[str, Speed] = {}
    lines = []
    with console.status("timing") as status:
        for target in targets:
            for stage in target.stages:
                key = f"{stage.config.recipe} {stage.config.model.position}"
                status.update(f"timing {key}")
                timed[key] = speed = time_training(stage.config, device, device_name)
                lines.append(f"{key}: {speed.images_per_second:.4g} images/s ({speed.source})")
    lines.append("hours: on one such device, at these speeds")
    return lambda stage: timed[f"{stage.config.recipe} {stage.config.model.position}"], lines


def _overview(
    targets: Sequence[ReproductionTarget],
    found: Mapping[str, list[MatchedRun]],
    speed_of: Callable[[ChainStage], Speed | None],
    config: ReproduceConfig,
) -> Table:
    """Return a table of the rows: expected and own top-1, and the cost."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("model", no_wrap=True)
    for name in ("224", "384", *(["own"] if found else []), "10^18 MACs", "hours"):
        table.add_column(name, justify="right", overflow="fold")
    devices = 1 if config.measure else config.gpus
    for target in targets:
        hours = target.hours(speed_of, devices)
        own = [", ".join(map(str, found[target.name])) or "-"] if found else []
        accuracy = (f"{target.expected[size].percent:.1f}" for size in (224, 384))
        time = "not measured" if hours is None else f"{hours:,.0f}"
        table.add_row(target.name, *accuracy, *own, f"{target.cost / 1e18:.3g}", time)
    hours = "hours: of all trainings of a row, times the number of devices (GPU hours)"
    table.caption = f"224, 384: top-1 percent on ImageNet-1k at that many pixels, {SOURCE}\n{hours}"
    table.caption_justify = "left"
    return table


def show(console: Console, target: ReproductionTarget, gpus: int) -> None:
    """Print the expected accuracy of a row, and its commands."""
    print_line(console, "")
    console.print(target.name, style="bold", highlight=False)
    accuracy = ", ".join(f"{size}: {result}" for size, result in target.expected.items())
    drawn = any(result.source == DRAWN for result in target.expected.values())
    print_line(console, f"# top-1 by size: {accuracy}{f' (±: {DRAWN})' if drawn else ''}")
    for words in (*(stage.words for stage in target.stages), list(target.evaluation)):
        print_line(console, command(words, gpus))


def command(words: Sequence[str], gpus: int) -> str:
    """Return a shell command."""
    start = ["ropevit"] if gpus == 1 else ["torchrun", "--nproc-per-node", str(gpus), "-m", "ropevit"]
    return shlex.join([*start, *words])
