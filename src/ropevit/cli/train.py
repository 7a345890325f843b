"""`ropevit train`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, NamedTuple

import tyro
from rich import box
from rich.console import RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ropevit.cli.console import Console, TextColumn
from ropevit.cli.errors import one_line_errors
from ropevit.cli.estimate import show_estimate
from ropevit.tasks.classify.config import TrainConfig
from ropevit.tasks.classify.recipes import RECIPES, expected_top1, training_cost
from ropevit.tasks.classify.train import train as train_classifier
from ropevit.tasks.common.distributed import Interrupted
from ropevit.tasks.common.events import EvalDone, EvalProgress, Event, LogLine, Notice, StepDone, TrainStarted
from ropevit.tasks.common.training import Training
from ropevit.tasks.detect import recipes as detect
from ropevit.tasks.detect.train import train as train_detector
from ropevit.tasks.detect.train_config import DetectConfig
from ropevit.tasks.segment import recipes as segment
from ropevit.tasks.segment.train import train as train_segmenter
from ropevit.tasks.segment.train_config import SegmentConfig

HELP = """Train a classifier, a detector or a segmenter by a recipe, from the start or from where it was interrupted.

For example:
  ropevit train --list
  ropevit train detect/dino_swin_tiny --estimate      (what a step needs, without data or memory)
  ropevit train fashion --out runs/fashion
  ropevit train deit3_small --position rope_mixed --data PATH/imagenet --out runs/small_mixed
  ropevit train detect/dino_vitdet_base --position rope_axial --data PATH/coco --out runs/detector
  ropevit train segment/upernet_vit_base --data PATH/ADEChallengeData2016 --out runs/segmenter
  torchrun --nproc-per-node 8 -m ropevit train swin_tiny --data PATH/imagenet --out runs/swin --resume

`ropevit train RECIPE --help` lists the options with the recipe's values."""

#: Asks what a step needs, instead of training.
ESTIMATE = "--estimate"

#: Share of the time waited for images from which on data, not computing, is the bound.
DATA_BOUND = 0.2


def train(
    recipe: tyro.conf.Positional[str] = "",
    list_: Annotated[bool, tyro.conf.arg(name="list")] = False,
) -> None:
    """Train by a recipe: `ropevit train --list` names them, `ropevit train RECIPE --help` its options."""
    raise AssertionError(f"the arguments after {recipe or list_} are read by start_training")


def start_training(arguments: Sequence[str]) -> None:
    """Read the arguments after `ropevit train`: a recipe's name comes first, then options that replace its values."""
    if not arguments or arguments[0] in ("-h", "--help"):
        Console().print(HELP, soft_wrap=True, highlight=False)
        return
    if arguments[0] == "--list":
        Console().print(recipe_table())
        return
    if arguments[0].startswith("-"):
        raise ValueError(f"got {arguments[0]} where the recipe's name comes first; see `ropevit train --list`")
    config = read_config([argument for argument in arguments if argument != ESTIMATE])
    (show_estimate if ESTIMATE in arguments else show_training)(config)


class Trainer(NamedTuple):
    """How a kind of model is trained."""

    recipes: Mapping[str, Callable[..., Any]]
    config: type
    train: Callable[..., dict[str, float]]
    marks: tuple[Any, ...] = ()
    """How tyro shows the options."""


#: What stands before the slash of a recipe's name -> what trains by it.
TRAINERS = {
    "": Trainer(RECIPES, TrainConfig, train_classifier, (tyro.conf.OmitArgPrefixes,)),
    "detect": Trainer(detect.RECIPES, DetectConfig, train_detector),
    "segment": Trainer(segment.RECIPES, SegmentConfig, train_segmenter),
}


#: What stands before the slash -> what such models are called.
KINDS = {"": "classifiers", "detect": "detectors", "segment": "segmenters"}


def find_trainer(name: str) -> Trainer:
    """Find what trains by a recipe.

    Raises:
        ValueError: If there is no such recipe.
    """
    trainer = TRAINERS.get(name.split("/")[0] if "/" in name else "")
    if trainer is not None and name in trainer.recipes:
        return trainer
    close = get_close_matches(name, [recipe for trainer in TRAINERS.values() for recipe in trainer.recipes], 3)
    hint = f"did you mean {' or '.join(close)}? There are" if close else "choose one"
    groups = [f"of {KINDS[kind]} {', '.join(trainer.recipes)}" for kind, trainer in TRAINERS.items()]
    raise ValueError(f"no recipe named {name!r}; {hint} {'; '.join(groups)}")


def read_config(arguments: Sequence[str]) -> Training:
    """Read a recipe's name and the options that replace its values."""
    name, options = arguments[0], arguments[1:]
    trainer = find_trainer(name)
    recipe = trainer.recipes[name]
    prog = f"ropevit train {name}"
    with one_line_errors(f"{prog} --help"):
        return tyro.cli(
            trainer.config,
            default=recipe(),
            args=options,
            prog=prog,
            description=recipe_summary(recipe),
            config=trainer.marks,
        )


def recipe_summary(recipe: Callable[..., object]) -> str:
    """Give what a recipe says of itself."""
    return (recipe.__doc__ or "").replace("\n    ", "\n")


def show_training(config: Training) -> None:
    """Train, showing how it goes; a termination signal ends it well."""
    console = Console()
    with TrainingBars(console) as bars:
        try:
            scores = find_trainer(config.recipe).train(config, bars.update)
        except Interrupted as stopped:
            bars.close()
            if bars.told:
                console.print(f"{stopped}; the same command with --resume goes on", soft_wrap=True, highlight=False)
            raise (KeyboardInterrupt if stopped.interrupted else SystemExit(0)) from None
    if bars.told:
        figures = ", ".join(f"{name} {score:.2f}" for name, score in scores.items())
        if bars.steps < bars.length:
            goes_on = "the same command with --resume, without --max-steps, goes on"
            console.print(f"a trial of {bars.steps} of {bars.length} steps; {goes_on}", soft_wrap=True, highlight=False)
        console.print(f"{figures}\neverything is in {config.run.out}", soft_wrap=True, highlight=False)


def recipe_table() -> Table:
    """Lay out the recipes with what they are expected to reach and to cost."""
    caption = "of classifiers: top-1 published, at 224 px, with rope_mixed; cost in 10^18 multiply-adds"
    table = Table(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left")
    for name in ("recipe", "pixels", "epochs", "batch", "top-1", "cost"):
        table.add_column(name, justify="left" if name == "recipe" else "right", no_wrap=True)
    for name, recipe in RECIPES.items():
        config = recipe()
        expected = expected_top1(config)
        figures = config.model.size, config.optim.epochs, config.batch_size
        table.add_row(
            name,
            *map(str, figures),
            "" if expected is None else f"{expected:.1f}",
            f"{training_cost(config) / 1e18:.2g}",
        )
    for name, recipe in detect.RECIPES.items():
        config = recipe()
        table.add_row(name, str(config.scale.test_side), str(config.optim.epochs), str(config.batch_size), "", "")
    for name, recipe in segment.RECIPES.items():
        config = recipe()
        table.add_row(name, str(config.augment.crop), f"{config.optim.steps} steps", str(config.batch_size), "", "")
    return table


class LoggedProgress(Progress):
    """A bar with its note on a line of its own, so that neither is cut off in 80 columns."""

    def get_renderables(self) -> Iterable[RenderableType]:
        """Give the bar, then what is noted under it."""
        yield self.make_tasks_table(self.tasks)
        yield from (Text(note) for task in self.tasks if (note := task.fields["note"]))


class TrainingBars:
    """The live display of a training: one bar, and a line for each evaluation."""

    def __init__(self, console: Console):
        columns = BarColumn(bar_width=30), MofNCompleteColumn(), TimeRemainingColumn()
        self.progress = LoggedProgress(TextColumn("{task.description}"), *columns, console=console)
        self.console = console
        self.task = None
        self.told = False
        self.per_epoch = self.steps = self.length = 1
        self.said: set[str] = set()
        self.waits: list[float] = []
        self.warned = False

    def __enter__(self) -> "TrainingBars":
        return self  # drawn from the first event on: wrong input is answered by its error alone

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop drawing."""
        if self.progress.live.is_started:
            self.progress.stop()

    def update(self, event: Event) -> None:
        """Show an event of the training."""
        match event:
            case TrainStarted(first=first, steps=steps, length=length, steps_per_epoch=per_epoch):
                self.told, self.steps, self.length, self.per_epoch = True, steps, length, per_epoch
                if first:
                    self.say(f"going on from step {first} of {steps}")
                self.progress.start()
                self.task = self.progress.add_task("training", completed=first, total=steps, note="")
            case StepDone(step=step):
                self.move(completed=step, description=f"epoch {(step - 1) // self.per_epoch + 1}")
            case LogLine(loss=loss, lr=lr, images_per_second=speed, data_wait=wait, memory_gib=memory):
                bound = "data" if wait > DATA_BOUND else "compute"
                self.move(note=f"loss {loss:.4f}  lr {lr:.2e}  {speed:,.0f} images/s ({bound})  {memory:.1f} GiB")
                self.waits.append(wait)
            case EvalProgress(done=done, total=total):
                self.move(description=f"measuring {done}/{total}")
            case EvalDone(step=step, epoch=epoch, scores=scores, best=best):
                figures = "  ".join(f"{name} {score:.2f}" for name, score in scores.items())
                self.say(f"epoch {epoch:.4g} (step {step}): {figures}{'  best' if best else ''}")
                self.warn()
            case Notice(message=message) if (
                message not in self.said
            ):  # an image left out is named once, not every epoch
                self.said.add(message)
                self.say(message, "yellow")

    def warn(self) -> None:
        """Say once that more processes should read images, where the training waits for them."""
        waits, self.waits = self.waits, []
        if waits and sum(waits) / len(waits) > DATA_BOUND and not self.warned:
            self.warned = True
            share = sum(waits) / len(waits)
            self.say(f"{share:.0%} of the time went by waiting for images: try more --workers", "yellow")

    def move(self, **fields: object) -> None:
        """Change the bar."""
        if self.task is not None:
            self.progress.update(self.task, **fields)  # pyright: ignore[reportArgumentType]

    def say(self, line: str, style: str = "") -> None:
        """Print a line above the bar."""
        self.progress.console.print(line, style=style, highlight=False, soft_wrap=True)
