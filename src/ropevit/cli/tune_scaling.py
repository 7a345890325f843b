"""`ropevit tune-scaling`: chooses a RoPE scaling method on your images."""

from typing import Annotated

import tyro
from rich import box
from rich.table import Table

from ropevit.cli.console import Console, print_line
from ropevit.cli.pass_bars import pass_bars
from ropevit.tasks.evaluation.tune_scaling import TuneConfig, TuneResult
from ropevit.tasks.evaluation.tune_scaling import tune_scaling as tune
from ropevit.tasks.evaluation.tuned_scaling import AUTO
from ropevit.text import join_names

#: Number of methods in the table, the best first; the model without any is always shown.
_SHOWN = 6


def tune_scaling(config: Annotated[TuneConfig, tyro.conf.arg(name="")]) -> None:
    """Choose a RoPE scaling method for a classifier or segmenter on your images, larger than those of its training.

    Tries methods on one half of the images, measures the gain of the best one on the other half, and keeps it beside
    the weights, where `--scaling auto` of eval, predict and (for classifiers) export finds it. Ctrl-C keeps finished
    passes; --resume continues.

    For example:
      ropevit tune-scaling --checkpoint runs/mine --data my_images --sizes 384
      ropevit tune-scaling --checkpoint runs/mine --data my_images --sizes 384,512 --max-images 5000
      ropevit tune-scaling --checkpoint runs/segmenter --data PATH/ade --sizes 1024 --whole
      ropevit eval --checkpoint runs/mine --data my_images --sizes 224,384,512 --scaling auto
    """
    console = Console()
    with pass_bars(console, "continues") as report:
        result = tune(config, report)
    print_result(console, result)


def print_result(console: Console, result: TuneResult) -> None:
    """Print the methods with their scores, the gain of the chosen one, and what to do."""
    search, choice = result.search, result.choice
    ranked = sorted(search.trials, key=lambda trial: -trial.score)
    shown = [trial for rank, trial in enumerate(ranked) if rank < _SHOWN or trial.scaling == search.baseline]
    title = f"{choice.metric} (%) on the {choice.images_chosen_on} images of the choice, of {len(ranked)} methods"
    print_line(console, title)
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("scaling")
    table.add_column(choice.metric, justify="right")
    for trial in shown:
        table.add_row(trial.scaling, f"{trial.score:.2f}", style="bold" if trial.scaling == search.chosen else "")
    console.print(table)
    print_line(console, f"highest on the images of the choice: {search.chosen}")
    if search.chosen != search.baseline:
        other = f"gain over {search.baseline} on the {choice.images_reported_on} other images, which the choice has"
        print_line(console, f"{other} not seen, in points with a 95 % interval: {search.gain}")
        if len(result.by_size) > 1:
            print_line(console, "; ".join(f"{size} px: {gain}" for size, gain in result.by_size.items()))
    if result.skipped:
        names = join_names(result.skipped, most=3)
        print_line(console, f"left out, unreadable or without labels ({len(result.skipped)}): {names}")
    print_line(console, _advice(result))
    print_line(console, f"written to {result.path}")


def _advice(result: TuneResult) -> str:
    """Return what to do with the outcome."""
    choice, search = result.choice, result.search
    keep = "no scaling is recommended" if search.baseline == "none" else f"{search.baseline} stays"
    if search.chosen == search.baseline:
        return f"no method scored higher: {keep}"
    if not search.gain.shown:
        return f"the interval reaches 0, so no gain is shown: {keep}; more images (--max-images) narrow it"
    verbs = " and ".join([", ".join(result.verbs[:-1]), result.verbs[-1]])
    return f"use it with --scaling {AUTO} in {verbs}, or by name: --scaling '{choice.scaling}'"
