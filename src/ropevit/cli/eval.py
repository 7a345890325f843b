"""`ropevit eval`: scores of a model below, at and above its training size."""

from collections.abc import Collection, Sequence
from dataclasses import field, fields, make_dataclass
from typing import Annotated, Any

import tyro
from rich import box
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table

from ropevit.cli.console import Console, LiveDisplay, TextColumn, print_line
from ropevit.models.published import DRAWN, SOURCE
from ropevit.tasks.classify.mistakes import WORST_PICTURE
from ropevit.tasks.evaluate import evaluate
from ropevit.tasks.evaluation.config import EvalConfig, given_options
from ropevit.tasks.evaluation.confusion import PICTURE
from ropevit.tasks.evaluation.loop import EvalSizeDone, EvalSizeProgress, EvalStarted, Event
from ropevit.tasks.evaluation.report import REPORT
from ropevit.tasks.evaluation.results import CURVE, TABLE, SizeResult, mode_of
from ropevit.tasks.registry import TASKS
from ropevit.text import format_speed

#: Pictures that some evaluations write, and what they show.
_PICTURES = {PICTURE: "confused classes", WORST_PICTURE: "images of the highest loss"}

#: Number of columns above which a table has no padding.
_MAX_PADDED_COLUMNS = 8


def _arguments_of_tasks() -> type[EvalConfig]:
    """Return a config with a group of options for each task."""
    tasks = {name: task.get("eval_options") for name, task in TASKS.items() if task.eval_options}
    groups = [(name, tyro.conf.OmitArgPrefixes[group], field(default_factory=group)) for name, group in tasks.items()]
    return make_dataclass("EvalArguments", groups, bases=(EvalConfig,), frozen=True, kw_only=True)


def add_task_options() -> None:
    """Add the options of all registered tasks to the verb."""
    group = tyro.conf.arg(name="", constructor=_arguments_of_tasks())
    eval.__annotations__["arguments"] = Annotated[EvalConfig, group]


def config_of(arguments: EvalConfig) -> EvalConfig:
    """Return the config with the options of the one task for which options are given.

    Raises:
        ValueError: If options of several tasks are given.
    """
    shared: dict[str, Any] = {each.name: getattr(arguments, each.name) for each in fields(EvalConfig)}
    own = [getattr(arguments, each.name) for each in fields(arguments) if each.name not in shared]
    given = [group for group in own if given_options(group)]
    if len(given) > 1:
        options = " and ".join(", ".join(given_options(group)) for group in given)
        raise ValueError(f"got {options}, which are options of different tasks; give those of the model's task only")
    shared["options"] = given[0] if given else None
    return EvalConfig(**shared)


def eval(arguments: Annotated[EvalConfig, tyro.conf.arg(name="")]) -> None:  # noqa: A001 (it is the verb)
    """Evaluate a classifier, detector or segmenter below, at and above its training size.

    Reports top-1 and top-5 accuracy next to the paper's, COCO's AP, or mIoU. Writes report.html, eval.csv,
    per_class.csv, eval.json and curve.png; of classifiers and segmenters also which classes are confused, of
    classifiers the images of the highest loss. Ctrl-C keeps finished sizes; --resume continues.

    For example:
      ropevit eval --model rope_mixed_deit_small_patch16_LS --data PATH/imagenet
      ropevit eval --checkpoint runs/fashion --data fashion --sizes 20,28,40
      ropevit eval --model deit_base_patch16_LS --data PATH/imagenet-r --protocol timm --sizes 224
      ropevit eval --model rope_axial_deit_small_patch16_LS --data PATH/imagenet --scaling yarn --sizes 384,512,1024
      ropevit eval --checkpoint runs/detector --data PATH/coco --sizes 480,640,800,1024,1333
      ropevit eval --checkpoint runs/segmenter --data PATH/ade --sizes 256,512,1024 --flip --ratios 0.5,0.75,1.0,1.25
      ropevit eval --checkpoint runs/mixed --data PATH/coco --compare-with runs/eval/ape runs/eval/axial
      torchrun --nproc-per-node 8 -m ropevit eval --checkpoint runs/swin --data PATH/imagenet
    """
    config, console = config_of(arguments), Console()
    with EvalBars(console) as bars:
        try:
            evaluate(config, bars.update)
        except KeyboardInterrupt:
            bars.stop()
            bars.conclude("stopped; the same command with --resume evaluates the remaining sizes")
            raise
    bars.conclude("")


class EvalBars(LiveDisplay):
    """Live display of an evaluation: a progress bar per size, then the table."""

    def __init__(self, console: Console):
        columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        super().__init__(Progress(TextColumn("{task.description}"), *columns, console=console))
        self.console = console
        self.task = None
        self.started: EvalStarted | None = None
        self.rows: list[SizeResult] = []
        self.skipped: set[str] = set()

    def update(self, event: Event) -> None:
        """Display an event of the evaluation."""
        match event:
            case EvalStarted():
                self.started, self.rows = event, list(event.rows)
                self.print_line(f"{event.name}: {event.description}")
                for note in event.notes:
                    self.print_line(note)
                if event.rows:
                    done = dict.fromkeys(describe_input(row.size, mode_of(row)) for row in event.rows)
                    self.print_line(f"resumed, with the results of {', '.join(done)} from before")
                self.progress.start()
            case EvalSizeProgress(size=size, done=done, total=total, mode=mode):
                if self.task is None:
                    self.task = self.progress.add_task(describe_input(size, mode), total=total)
                self.progress.update(self.task, completed=done)
            case EvalSizeDone(row=row, skipped=skipped):
                if self.task is not None:
                    self.progress.remove_task(self.task)
                self.task = None
                self.rows.append(row)
                scores = ", ".join(f"{name} {score:.2f}" for name, score in row.scores.items() if score is not None)
                view = ", ".join(f"{name} {n}" for name, n in row.view.items())
                self.print_line(f"{describe_input(row.size, mode_of(row))}: {scores} ({view})")
                for name in skipped:
                    if name not in self.skipped:  # once, not at every size
                        self.print_line(f"skipped {name}")
                self.skipped.update(skipped)

    def conclude(self, line: str) -> None:
        """Print the table, where the files are, and a last line."""
        if self.started is None:
            return
        if self.rows:
            self.console.print(result_table(self.started, sorted(self.rows, key=lambda row: row.size)))
            out = self.started.out
            others = (f"{what} {name}" for name, what in _PICTURES.items() if (out / name).exists())
            print_line(
                self.console,
                f"results are in {out}: {', '.join((f'report {REPORT}', f'table {TABLE}', f'curve {CURVE}', *others))}",
            )
        if line:
            print_line(self.console, line)


def describe_input(size: int, mode: str | None) -> str:
    """Describe the images of a row, such as 448 px, or 448 px, resize."""
    return f"{size} px" if mode in (None, "whole") else f"{size} px, {mode}"


def result_table(started: EvalStarted, rows: Sequence[SizeResult]) -> Table:
    """Return a table of the results, next to the paper's where there are any."""
    caption = f"paper: {SOURCE}; with ±, {DRAWN}" if started.paper else None
    table = Table(
        box=box.SIMPLE_HEAD, title=started.name, title_justify="left", caption=caption, caption_justify="left"
    )
    shown = {
        "skipped": any(row.skipped for row in rows),
        "mode": any(mode_of(row) not in (None, "whole") for row in rows),
        "tokens": any(getattr(row, "tokens", None) is not None for row in rows),
    }
    columns = {name for name, needed in shown.items() if needed}
    lines = [_row_cells(row, started, columns) for row in rows]
    if len(lines[0]) > _MAX_PADDED_COLUMNS:
        table.padding = 0  # to fit into 80 characters
    for name in lines[0]:
        table.add_column(name, justify="right", no_wrap=True)
    for line in lines:
        table.add_row(*line.values())
    return table


def _row_cells(row: SizeResult, started: EvalStarted, columns: Collection[str]) -> dict[str, str]:
    """Return the cells of a row by column name; `columns` says which of the optional ones are shown."""
    size = f"{row.size} (training)" if row.size == started.trained_at else str(row.size)
    scores = {name: "-" if score is None else f"{score:.2f}" for name, score in row.scores.items()}
    tokens, plain = getattr(row, "tokens", None), mode_of(row) in (None, "whole")
    paper = {"paper": str(started.paper.get(row.size, "-")) if plain else "-"} if started.paper else {}
    optional = {
        "mode": mode_of(row) or "-",
        "skipped": f"{row.skipped:,}",
        "tokens": "-" if tokens is None else f"{tokens:,.0f}",
    }
    chosen = {name: {name: text} if name in columns else {} for name, text in optional.items()}
    return {
        "size": size,
        **chosen["mode"],
        **{name: str(number) for name, number in row.view.items()},
        **scores,
        **paper,
        **chosen["tokens"],
        "images": f"{row.images:,}",
        **chosen["skipped"],
        "images/s": format_speed(row.images_per_second),
        "GiB": f"{row.peak_memory_gib:.1f}",
    }
