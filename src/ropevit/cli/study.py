"""`ropevit study`."""

from collections.abc import Sequence
from typing import Annotated, Any

import tyro
from rich import box
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ropevit.cli.console import Console, TextColumn
from ropevit.extras import require
from ropevit.study.config import StudyConfig
from ropevit.study.events import Evaluating, Event, Loading, RunDone, RunFailed, RunStarted, StepDone
from ropevit.study.outputs import write_outputs
from ropevit.study.report import conclusions
from ropevit.study.results import PanelResult, panel_results, read_results, show
from ropevit.study.runner import run_study

#: Curves that have a column each; more are rows.
MOST_COLUMNS = 4


def study(config: Annotated[StudyConfig, tyro.conf.arg(name="")]) -> None:
    """Compare position embeddings on your images: below, at and above the training resolution.

    Trains the same small ViT with each embedding under the same seeds, data order and budget; prints the scores and a
    conclusion, draws the curves and writes report.html.

    For example:
      ropevit study
      ropevit study --seeds 3
      ropevit study --data my_images --out runs/mine
      ropevit study --data my_images --out runs/mine --resume
      ropevit study --families all --scaling ntk yarn parts+log --out runs/beyond
      ropevit study --train-scaling "jitter(rescale=2)" "normalise+jitter(rescale=2)" --out runs/jitter
    """
    for package in ("matplotlib", "jinja2"):
        require(package, "figures")  # now, not after the training
    console = Console()
    interrupted = False
    with Bars(console, len(config.runs())) as bars:
        try:
            run_study(config, bars.update)
        except KeyboardInterrupt:
            interrupted = True
    if interrupted and not (config.out / "results.json").exists():
        console.print("stopped before anything was trained; the same command starts again")
        raise KeyboardInterrupt
    finish(console, config, read_results(config.out), interrupted)


def finish(console: Console, config: StudyConfig, results: dict[str, Any], interrupted: bool) -> None:
    """Show what was found, write the report, and say what is missing."""
    found = panel_results(results["runs"])
    for panel in found:
        console.print(score_table(panel))
    console.print()
    for sentence in conclusions(found, results["data"]):
        console.print(sentence, highlight=False)
    for note in (*results["data"]["notes"], *(f"left out {file}" for file in results["skipped_files"])):
        console.print(note, highlight=False, style="yellow")
    with console.status("drawing the report"):
        report = write_outputs(config, results)
    curves = f"\ncurves: {config.out / 'curves.png'}" if found else ""
    console.print(f"\nreport: {report}{curves}", soft_wrap=True, highlight=False)
    if results["complete"]:
        return
    done, planned = len(results["runs"]), len(config.runs())
    console.print(f"{done} of {planned} trainings are done; the same command with --resume goes on", soft_wrap=True)
    raise KeyboardInterrupt if interrupted else SystemExit(1)


def score_table(result: PanelResult) -> Table:
    """Lay out one panel: a test size a row and an embedding a column, or the other way round where there are many."""
    seeds = len(result.seeds)
    spread = f"mean ± standard deviation of {seeds} seeds" if seeds > 1 else "1 seed"
    table = Table(title=f"{result.panel}: {result.metric}, {spread}", title_justify="left", box=box.SIMPLE_HEAD)
    (by_size if len(result.curves) <= MOST_COLUMNS else by_curve)(table, result)
    return table


def by_size(table: Table, result: PanelResult) -> None:
    """Fill a table with a row for each test size, the best mean of a size bold, then the cost."""
    table.add_column("test size", no_wrap=True)
    for curve in result.curves:
        table.add_column(curve.label, justify="right")
    for size in result.sizes:
        best = result.ranked(size)[0]
        cells = [marked(show(curve, size), curve is best) for curve in result.curves]
        table.add_row(sized(result, size), *cells)
    table.add_section()
    table.add_row("parameters", *(f"{curve.parameters:,}" for curve in result.curves))
    table.add_row("ms a step", *(f"{curve.step_ms:.0f}" for curve in result.curves))


def by_curve(table: Table, result: PanelResult) -> None:
    """Fill a table with a row for each curve, the best mean of a size bold."""
    table.pad_edge, table.collapse_padding = False, True
    table.caption, table.caption_justify = "parameters and time of a step: see the report", "left"
    table.add_column("px", overflow="fold")
    for size in result.sizes:
        table.add_column(f"{size}{' (tr.)' if size == result.train_size else ''}", justify="right", no_wrap=True)
    best = {size: result.ranked(size)[0] for size in result.sizes}
    for curve in result.curves:
        cells = (marked(show(curve, size).replace(" ", ""), curve is best[size]) for size in result.sizes)
        table.add_row(curve.label, *cells)


def sized(result: PanelResult, size: int) -> str:
    """Name a size, and that of the training."""
    return f"{size} px{' (training)' if size == result.train_size else ''}"


def marked(score: str, best: bool) -> Text:
    """Set the best score in bold."""
    return Text(score, style="bold" if best else "")


class Bars:
    """Progress of a study: one bar for the whole, one for each training that runs."""

    def __init__(self, console: Console, runs: int):
        columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}")
        self.progress = Progress(TextColumn("{task.description:<24}"), *columns, console=console)
        self.whole = self.progress.add_task("trainings", total=runs, note="")
        self.tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "Bars":
        return self  # drawn from the first event on: wrong input is answered by its error alone

    def __exit__(self, *_: object) -> None:
        if self.progress.live.is_started:
            self.progress.stop()

    def update(self, event: Event) -> None:
        """Show an event of the study."""
        self.progress.start()
        match event:
            case Loading(done=done, total=total):
                self.bar("reading images", done, total, "")
                if done == total:
                    self.progress.remove_task(self.tasks.pop("reading images"))
            case RunStarted(run=run, first=first, steps=steps):
                self.bar(run.name, first, steps, "")
            case StepDone(run=run, step=step, steps=steps, loss=loss):
                self.bar(run.name, step, steps, f"loss {loss:.3f}")
            case Evaluating(run=run, size=size):
                self.progress.update(self.tasks[run.name], note=f"measuring at {size} px")
            case RunDone(run=run, result=result, kept=kept):
                self.close(run.name, line(run.name, result, kept))
            case RunFailed(run=run, message=message):
                self.close(run.name, Text.assemble((f"{run.name} failed:", "red"), " ", message))

    def bar(self, name: str, done: int, total: int, note: str) -> None:
        """Move the bar of a task, which is made at first sight."""
        if name not in self.tasks:
            self.tasks[name] = self.progress.add_task(name, total=total, note="")
        self.progress.update(self.tasks[name], completed=done, total=total, note=note)

    def close(self, name: str, text: str | Text) -> None:
        """Take a training's bar away, and leave a line in its place."""
        if name in self.tasks:
            self.progress.remove_task(self.tasks.pop(name))
        self.progress.advance(self.whole)
        self.progress.console.print(text, highlight=False, soft_wrap=True)


def line(name: str, result: dict[str, Any], kept: bool) -> str:
    """Sum up one training."""
    scores: Sequence[str] = [f"{size} px {score:.1f}" for size, score in result["scores"].items()]
    when = "kept" if kept else f"{result['train_seconds'] + result['eval_seconds']:.0f} s"
    return f"{name} ({when}): {', '.join(scores)}"
