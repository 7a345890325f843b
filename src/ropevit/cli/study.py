"""`ropevit study`: compares position embeddings on your images."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import tyro
from rich import box
from rich.table import Table
from rich.text import Text

from ropevit.cli.console import Console, print_line
from ropevit.cli.study_progress import ProgressBars, ProgressLines
from ropevit.extras import require
from ropevit.models.positions import position_label
from ropevit.study.config import StudyConfig
from ropevit.study.outputs import write_outputs
from ropevit.study.panels import PANEL_CLASSES
from ropevit.study.report import MAJORITY_MARK, conclusions, format_marked_score, reference_lines
from ropevit.study.results import PanelResult, panel_results, read_results
from ropevit.study.runner import run_study

#: Maximum number of curves shown as columns; more become rows.
_MAX_COLUMNS = 4
_MAJORITY_NOTE = f"{MAJORITY_MARK} not ranked: close to the majority-class baseline, the score of an untrained model"


def study(config: Annotated[StudyConfig, tyro.conf.arg(name="")]) -> None:
    """Compare position embeddings on your images: below, at and above the training resolution.

    Trains the same small ViT with each embedding under the same seeds, data order and budget; prints the scores and a
    conclusion, draws the curves and writes report.html.

    For example:
      ropevit study
      ropevit study --seeds 3
      ropevit study --data my_images --out runs/mine
      ropevit study --data my_images --out runs/mine --resume
      ropevit study --rope-types all --scaling ntk yarn parts+log --out runs/beyond
      ropevit study --train-scaling "jitter(rescale=2)" "normalize+jitter(rescale=2)" --out runs/jitter
    """
    for package in ("matplotlib", "jinja2"):
        require(package, "figures")  # now, not after training
    console = Console()
    interrupted = False
    shown = ProgressBars(console, len(config.runs())) if console.is_terminal else ProgressLines(console)
    with shown as progress:
        try:
            run_study(config, progress.update)
        except KeyboardInterrupt:
            interrupted = True
    if interrupted and not (config.out / "results.json").exists():
        console.print("stopped before the first training finished; run the same command again")
        raise KeyboardInterrupt
    finish(console, config, read_results(config.out), interrupted)


def finish(console: Console, config: StudyConfig, results: dict[str, Any], interrupted: bool) -> None:
    """Print the results, write the report, and print what is missing."""
    found = panel_results(results["runs"], results.get("floors"))
    for panel in found:
        console.print(score_table(panel, results.get("costs", {}).get(panel.panel)))
    console.print()
    for sentence in conclusions(found, results["data"]):
        console.print(sentence, highlight=False)
    for note in (*results["data"]["notes"], *(f"skipped {file}" for file in results["skipped_files"])):
        console.print(note, highlight=False, style="yellow")
    with console.status("drawing the report"):
        report = write_outputs(config, results)
    curves = f"\ncurves: {config.out / 'curves.png'}" if found else ""
    print_line(console, f"\nreport: {report}{curves}")
    if results["complete"]:
        return
    done, planned = len(results["runs"]), len(config.runs())
    console.print(f"{done} of {planned} trainings are done; the same command with --resume continues", soft_wrap=True)
    raise KeyboardInterrupt if interrupted else SystemExit(1)


def score_table(result: PanelResult, cost: Mapping[str, Any] | None = None) -> Table:
    """Return a table of one panel: a row per test size and a column per embedding, or transposed if there are many.

    Args:
        result: The panel.
        cost: Time of a training step of each embedding, if it was measured separately.
    """
    seeds = len(result.seeds)
    spread = f"mean ± standard deviation of {seeds} seeds" if seeds > 1 else "1 seed"
    title = f"{result.panel} ({PANEL_CLASSES[result.panel].title}): {result.metric}, {spread}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, caption_justify="left")
    if len(result.curves) <= _MAX_COLUMNS:
        _fill_by_size(table, result, cost)
    else:
        _fill_by_curve(table, result)
    notes = [table.caption, f"majority class: {result.majority.name}" if result.majority else None]
    if result.baselines:
        notes.append(f"baselines: with the best at the training size, {position_label(result.baselines[0].embedding)}")
    notes += [_MAJORITY_NOTE] * any(result.at_majority(curve, size) for curve in result.curves for size in result.sizes)
    table.caption = "\n".join(filter(None, notes)) or None
    return table


def _fill_by_size(table: Table, result: PanelResult, cost: Mapping[str, Any] | None) -> None:
    """Fill a table with a row per test size, the best mean of each in bold, then the cost."""
    table.pad_edge, table.collapse_padding = False, True
    table.add_column("test size", no_wrap=True)
    for curve in result.curves:
        longest = max(map(len, curve.label.split()))  # rich would cut a word before it narrows another column
        table.add_column(curve.label, justify="right", min_width=longest)
    lines = reference_lines(result)
    for line in lines:
        table.add_column(line["short"], justify="right", style="dim")
    for column, size in enumerate(result.sizes):
        table.add_row(
            _size_label(result, size), *_score_cells(result, size), *(line["cells"][column] for line in lines)
        )
    table.add_section()
    table.add_row("parameters", *(f"{curve.parameters:,}" for curve in result.curves))
    if cost:
        table.add_row("step time", *(f"{cost['ratio'][curve.embedding][1]:.2f}" for curve in result.curves))
        table.caption = f"step time: relative to {result.curves[0].label}; quartiles: see the report"


def _score_cells(result: PanelResult, size: int) -> Iterator[Text]:
    """Yield the scores at a size, the best in bold if it is above the majority-class baseline."""
    best = result.ranked(size)[0] if result.above_majority(size) else None
    for curve in result.curves:
        yield Text(format_marked_score(result, curve, size), style="bold" if curve is best else "")


def _fill_by_curve(table: Table, result: PanelResult) -> None:
    """Fill a table with a row per curve, the best mean of each size in bold."""
    table.pad_edge, table.collapse_padding = False, True
    table.caption = "parameters and step time: see the report"
    table.add_column("px", overflow="fold")
    for size in result.sizes:
        table.add_column(f"{size}{' (tr.)' if size == result.train_size else ''}", justify="right", no_wrap=True)
    columns = [list(_score_cells(result, size)) for size in result.sizes]
    for curve, cells in zip(result.curves, zip(*columns, strict=True), strict=True):
        table.add_row(curve.label, *(Text(cell.plain.replace(" ", ""), style=cell.style) for cell in cells))
    for line in reference_lines(result):
        table.add_row(line["label"], *(cell.replace(" ", "") for cell in line["cells"]), style="dim")


def _size_label(result: PanelResult, size: int) -> str:
    """Format a size; the training size is marked."""
    return f"{size} px{' (train)' if size == result.train_size else ''}"
