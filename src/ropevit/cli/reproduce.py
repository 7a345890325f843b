"""`ropevit reproduce`."""

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
    Speed,
    Target,
    list_targets,
    match_runs,
    parse_throughput,
    speeds_of_runs,
)
from ropevit.tasks.classify.timing import time_training
from ropevit.tasks.common.run_dir import find_runs


@dataclass(frozen=True, kw_only=True)
class ReproduceConfig:
    """Which rows, and what is known of the machine."""

    table: Annotated[Literal["vit", "vit-ape", "swin", "all"], tyro.conf.Positional] = "all"
    """vit: APE, axial and mixed; vit-ape: axial and mixed with APE beside them; swin: RPB, axial and mixed."""
    only: Annotated[str, tyro.conf.arg(metavar="PATTERN")] = "*"
    """Only models whose names match, such as 'rope_mixed_*small*'."""
    data: str = "imagenet"
    """Data set in the commands."""
    out: Path = Path("runs")
    """Directory for runs in the commands."""
    gpus: int = 1
    """GPUs that the commands use, and that --throughput and --runs are of."""
    throughput: Annotated[tuple[str, ...], tyro.conf.arg(metavar="N|RECIPE=N")] = ()
    """Images per second of a training, all GPUs together."""
    runs: tuple[Path, ...] = ()
    """Directories of trainings: what they reached, and how fast they were."""
    measure: bool = False
    """Time a few steps of each training on this machine."""
    device: str = "auto"
    """What --measure takes: auto, cpu, cuda, cuda:N, mps or xpu."""

    def __post_init__(self):
        if self.gpus < 1:
            raise ValueError(f"got gpus={self.gpus}; expected at least 1")
        if sum(map(bool, (self.throughput, self.runs, self.measure))) > 1 and (self.throughput or self.measure):
            raise ValueError("got several of --throughput, --runs and --measure; take hours from one of them")


def reproduce(config: Annotated[ReproduceConfig, tyro.conf.arg(name="")]) -> None:
    """Show how to reproduce the paper's ImageNet tables: commands, expected figures, cost.

    GPU hours are worked out from a measured throughput alone.

    For example:
      ropevit reproduce vit --only 'rope_mixed*' --data PATH/imagenet --gpus 8
      ropevit reproduce swin --only '*mixed_tiny*' --throughput 2500
      ropevit reproduce all --runs runs
    """
    console = Console()
    targets = [row for row in list_targets(config.table, config.data, config.out) if fnmatchcase(row.name, config.only)]
    if not targets:
        raise ValueError(f"no row of {config.table} matches {config.only!r}; `ropevit reproduce all` shows all rows")
    runs = find_runs(config.runs) if config.runs else []
    found, notes = match_runs(targets, runs)
    speed_of, told = speeds(config, targets, runs, console)
    console.print(_overview(targets, found if runs else {}, speed_of, config))
    for line in [*notes, *told]:
        print_line(console, line)
    for target in targets:
        show(console, target, config.gpus)


def speeds(
    config: ReproduceConfig, targets: Sequence[Target], runs: Sequence, console: Console
) -> tuple[Callable[[ChainStage], Speed | None], list[str]]:
    """Choose where throughput comes from, and say so."""
    if config.throughput:
        given = parse_throughput(config.throughput, targets)
        return lambda stage: given.get(stage.config.recipe), [
            f"hours: at {', '.join(config.throughput)} images/s, as given"
        ]
    if config.measure:
        return _measured_speeds(config, targets, console)
    if runs:
        return speeds_of_runs(runs), [
            f"hours: at the median speed of these runs, taking each to be made with --gpus {config.gpus}"
        ]
    return lambda _: None, ["hours: not measured; give --throughput, --runs or --measure"]


def _measured_speeds(
    config: ReproduceConfig, targets: Sequence[Target], console: Console
) -> tuple[Callable[[ChainStage], Speed | None], list[str]]:
    """Time every training on this machine's device."""
    device = resolve_device(config.device)
    kinds = {"cuda": lambda: torch.cuda.get_device_name(device), "cpu": lambda: f"a CPU ({processor()})"}
    named = kinds.get(device.type, lambda: f"{device.type} of {processor()}")()
    timed: dict[str, Speed] = {}
    lines = []
    with console.status("timing") as status:
        for target in targets:
            for stage in target.stages:
                what = f"{stage.config.recipe} {stage.config.model.position}"
                status.update(f"timing {what}")
                timed[what] = speed = time_training(stage.config, device, named)
                lines.append(f"{what}: {speed.images_per_second:.4g} images/s ({speed.source})")
    lines.append("hours: of one such device, at these speeds")
    return lambda stage: timed[f"{stage.config.recipe} {stage.config.model.position}"], lines


def _overview(
    targets: Sequence[Target],
    found: Mapping[str, list[MatchedRun]],
    speed_of: Callable[[ChainStage], Speed | None],
    config: ReproduceConfig,
) -> Table:
    """Lay out the rows: expected and measured top-1 at the training size, and the cost."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("model", no_wrap=True)
    for name in ("224", "384", *(["measured"] if found else []), "10^18 adds", "hours"):
        table.add_column(name, justify="right", overflow="fold")
    devices = 1 if config.measure else config.gpus
    for target in targets:
        hours = target.hours(speed_of, devices)
        own = [", ".join(map(str, found[target.name])) or "-"] if found else []
        figures = (f"{target.expected[size].percent:.1f}" for size in (224, 384))
        time = "not measured" if hours is None else f"{hours:,.0f}"
        table.add_row(target.name, *figures, *own, f"{target.cost / 1e18:.3g}", time)
    hours = "hours: of all trainings of a row, times the devices (GPU hours)"
    table.caption = f"224, 384: top-1 percent on ImageNet-1k at that many pixels, {SOURCE}\n{hours}"
    table.caption_justify = "left"
    return table


def show(console: Console, target: Target, gpus: int) -> None:
    """Print the commands of a row and all that is expected of it."""
    print_line(console, "")
    console.print(target.name, style="bold", highlight=False)
    figures = ", ".join(f"{size}: {figure}" for size, figure in target.expected.items())
    drawn = any(figure.source == DRAWN for figure in target.expected.values())
    print_line(console, f"# top-1 by size: {figures}{f' (±: {DRAWN})' if drawn else ''}")
    for words in (*(stage.words for stage in target.stages), list(target.evaluation)):
        print_line(console, command(words, gpus))


def command(words: Sequence[str], gpus: int) -> str:
    """Write a command for a shell."""
    start = ["ropevit"] if gpus == 1 else ["torchrun", "--nproc-per-node", str(gpus), "-m", "ropevit"]
    return shlex.join([*start, *words])
