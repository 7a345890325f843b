"""`ropevit train`: trains by a recipe."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated

import tyro
from rich import box
from rich.console import RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ropevit.cli.console import Console, LiveDisplay, TextColumn, print_line
from ropevit.cli.errors import one_line_errors
from ropevit.cli.estimate import model_line, show_estimate
from ropevit.models.architectures import VARIANTS
from ropevit.models.registry import MODELS, split_model_name
from ropevit.tasks.distributed import Interrupted
from ropevit.tasks.registry import TASKS, TaskSpec, task_of_recipe
from ropevit.tasks.training.events import EvalDone, EvalProgress, Event, LogLine, Notice, StepDone, TrainStarted
from ropevit.tasks.training.run_training import TrainingConfig
from ropevit.text import format_speed, suggest

_HELP = """Train a classifier, detector or segmenter with a recipe, from scratch, from a checkpoint or fine-tuning.

For example:
  ropevit train --list
  ropevit train detect/dino_swin_tiny --estimate      (parameters, MACs and memory of a step; needs no data)
  ropevit train fashion --out runs/fashion
  ropevit train deit3_small --position rope_mixed --data PATH/imagenet --out runs/small_mixed
  ropevit train detect/dino_vitdet_base --position rope_axial --data PATH/coco --out runs/detector
  ropevit train segment/upernet_vit_base --data PATH/ADEChallengeData2016 --out runs/segmenter
  torchrun --nproc-per-node 8 -m ropevit train swin_tiny --data PATH/imagenet --out runs/swin --resume

`ropevit train RECIPE --help` lists the options, with the values of the recipe as defaults."""

#: Print the cost of a step instead of training.
_ESTIMATE = "--estimate"

#: Fraction of the time spent waiting for images above which training is bound by the data.
_DATA_BOUND = 0.2


def train(
    recipe: tyro.conf.Positional[str] = "",
    list_: Annotated[bool, tyro.conf.arg(name="list")] = False,
) -> None:
    """Train with a recipe: `ropevit train --list` lists them, `ropevit train RECIPE --help` its options."""
    raise AssertionError(f"the arguments after {recipe or list_} are read by start_training")


def start_training(arguments: Sequence[str]) -> None:
    """Parse the arguments of `ropevit train`, a recipe and options that replace its values, and run it."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print_line(Console(), _HELP)
        return
    if arguments[0] == "--list":
        Console().print(_recipe_table())
        return
    if arguments[0].startswith("-"):
        raise ValueError(
            f"got {arguments[0]} before the recipe; the name of a recipe comes first, see `ropevit train --list`"
        )
    config = read_config([argument for argument in arguments if argument != _ESTIMATE])
    (show_estimate if _ESTIMATE in arguments else _show_training)(config)


def find_task(recipe: str) -> TaskSpec:
    """Return the task of a recipe.

    Raises:
        ValueError: If there is no such recipe.
    """
    task = task_of_recipe(recipe)
    if task is not None and recipe in task.get("recipes"):
        return task
    known = [name for each in TASKS.values() for name in each.get("recipes")]
    hints = suggest(recipe, known, ""), f"`ropevit train --list` lists all {len(known)}"
    raise ValueError(f"no recipe named {recipe!r}; {' '.join(filter(None, hints))}")


def read_config(arguments: Sequence[str]) -> TrainingConfig:
    """Parse the name of a recipe and the options that replace its values."""
    name, options = arguments[0], _split_model(arguments[1:])
    task = find_task(name)
    recipe = task.get("recipes")[name]
    prog = f"ropevit train {name}"
    with one_line_errors(f"{prog} --help"):
        return tyro.cli(
            task.get("config"),
            default=recipe(),
            args=options,
            prog=prog,
            description=_recipe_summary(recipe),
            config=(tyro.conf.OmitArgPrefixes,) if task.flat_options else (),
        )


def _split_model(options: Sequence[str]) -> list[str]:
    """Replace a registered model after --model by its variant and position embedding.

    A variant that is registered with one position embedding alone, such as dinov3_vitb16, brings that, too.

    Raises:
        ValueError: If --position asks for another embedding than the model's.
    """
    words = [part for word in options for part in (word.split("=", 1) if word.startswith("--") else [word])]
    name = words[words.index("--model") + 1] if "--model" in words[:-1] else ""
    if name in VARIANTS and len(VARIANTS[name][1].names) == 1 and "--position" not in words:
        return [*words, "--position", VARIANTS[name][1].original]
    if name not in MODELS:
        return list(options)
    variant, position = split_model_name(name)
    asked = words[words.index("--position") + 1] if "--position" in words[:-1] else position
    if asked != position:
        raise ValueError(f"got --position {asked} with --model {name}; give --model {variant} with it")
    words[words.index("--model") + 1] = variant
    return [*words, "--position", position]


def _recipe_summary(recipe: Callable[..., object]) -> str:
    """Return the description of a recipe: its docstring."""
    return (recipe.__doc__ or "").replace("\n    ", "\n")


def _show_training(config: TrainingConfig) -> None:
    """Train with a progress display; SIGINT and SIGTERM end with a checkpoint."""
    console = Console()
    with TrainingBars(console, config) as bars:
        try:
            scores = find_task(config.recipe).get("train")(config, bars.update)
        except Interrupted as stopped:
            bars.stop()
            if bars.started:
                print_line(console, f"{stopped}; the same command with --resume continues")
            raise (KeyboardInterrupt if stopped.interrupted else SystemExit(0)) from None
    if bars.started:
        results = ", ".join(f"{name} {score:.2f}" for name, score in scores.items())
        if bars.done == bars.steps < bars.length:  # early stopping says so itself
            hint = "the same command with --resume and without --max-steps continues"
            print_line(console, f"stopped after {bars.done} of {bars.length} steps; {hint}")
        print_line(console, f"{results}\nresults are in {bars.out}")


def _recipe_table() -> Table:
    """Return a table of the recipes with expected accuracy and cost."""
    caption = "classifiers: published top-1 at 224 px with rope_mixed; cost in 10^18 MACs"
    table = Table(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left", pad_edge=False, collapse_padding=True)
    for name in ("recipe", "pixels", "epochs", "batch", "top-1", "cost"):
        table.add_column(name, justify="left" if name == "recipe" else "right", no_wrap=True)
    for task in TASKS.values():
        for name, recipe in task.get("recipes").items():
            config = recipe()
            facts = {} if task.recipe_facts is None else task.get("recipe_facts")(config)
            length = str(config.optim.epochs) if config.optim.steps is None else f"{config.optim.steps} steps"
            batch = str(getattr(config, "batch_size", ""))
            table.add_row(name, facts.get("pixels"), length, batch, facts.get("expected"), facts.get("cost"))
    return table


class LoggedProgress(Progress):
    """Progress bars with a note below each, so that neither is truncated in 80 columns."""

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the bars, then their notes."""
        yield self.make_tasks_table(self.tasks)
        yield from (Text(note) for task in self.tasks if (note := task.fields["note"]))


class TrainingBars(LiveDisplay):
    """Live display of a training: a line about the model, a progress bar, and a line per evaluation."""

    def __init__(self, console: Console, config: TrainingConfig | None = None):
        columns = BarColumn(bar_width=30), MofNCompleteColumn(), TimeRemainingColumn()
        super().__init__(LoggedProgress(TextColumn("{task.description}"), *columns, console=console))
        self.task, self.config = None, config
        self.started, self.out = False, Path()
        self.per_epoch = self.steps = self.length = 1
        self.done = 0
        self.notices: set[str] = set()
        self.waits: list[float] = []
        self.warned = False

    def update(self, event: Event) -> None:
        """Display an event of the training."""
        match event:
            case TrainStarted(first=first, steps=steps, length=length, steps_per_epoch=per_epoch):
                self.started, self.steps, self.length, self.per_epoch = True, steps, length, per_epoch
                self.out, self.done = event.out, first
                if self.config is not None:
                    self.print_line(model_line(self.config, event))
                if first:
                    self.print_line(f"resuming from step {first} of {steps}")
                self.progress.start()
                self.task = self.progress.add_task("training", completed=first, total=steps, note="")
            case StepDone(step=step):
                self.done = step
                self.update_bar(completed=step, description=f"epoch {(step - 1) // self.per_epoch + 1}")
            case LogLine(loss=loss, lr=lr, images_per_second=speed, data_wait=wait, memory_gib=memory):
                bound = "data" if wait > _DATA_BOUND else "compute"
                self.update_bar(
                    note=f"loss {loss:.4f}  lr {lr:.2e}  {format_speed(speed)} images/s ({bound})  {memory:.1f} GiB"
                )
                self.waits.append(wait)
            case EvalProgress(done=done, total=total):
                self.update_bar(description=f"evaluating {done}/{total}")
            case EvalDone(step=step, epoch=epoch, scores=scores, best=best):
                results = "  ".join(f"{name} {score:.2f}" for name, score in scores.items())
                self.print_line(f"epoch {epoch:.4g} (step {step}): {results}{'  best' if best else ''}")
                self.warn_data_bound()
            case Notice(message=message) if message not in self.notices:  # each skipped image once, not every epoch
                self.notices.add(message)
                self.print_line(message, "yellow")

    def warn_data_bound(self) -> None:
        """Suggest more workers, once, if the training waits for images."""
        waits, self.waits = self.waits, []
        if waits and sum(waits) / len(waits) > _DATA_BOUND and not self.warned:
            self.warned = True
            share = sum(waits) / len(waits)
            self.print_line(f"{share:.0%} of the time is spent waiting for images: try more --workers", "yellow")

    def update_bar(self, **fields: object) -> None:
        """Update the progress bar."""
        if self.task is not None:
            self.progress.update(self.task, **fields)  # pyright: ignore[reportArgumentType]
