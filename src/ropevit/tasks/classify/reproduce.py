"""The paper's ImageNet tables, row by row: the commands that make each, what to expect, and what it costs."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ropevit.models.published import PublishedResult, curve
from ropevit.tasks.classify.config import TrainConfig
from ropevit.tasks.classify.recipes import RECIPES, find_recipe, images_seen, training_cost
from ropevit.tasks.common.run_dir import RunSummary, comparable, differences

#: model -> its recipes, one after the other.
_CHAINS = {
    "deit_small": ("deit3_small",),
    "deit_base": ("deit3_base", "deit3_base_finetune"),
    "deit_large": ("deit3_large", "deit3_large_finetune"),
    "swin_tiny": ("swin_tiny",),
    "swin_small": ("swin_small",),
    "swin_base": ("swin_base",),
}

#: table -> models and position embeddings of its rows.
TABLES = {
    "vit": (("deit_small", "deit_base", "deit_large"), ("ape", "rope_axial", "rope_mixed")),
    "vit-ape": (("deit_small", "deit_base", "deit_large"), ("rope_axial_ape", "rope_mixed_ape")),
    "swin": (("swin_tiny", "swin_small", "swin_base"), ("rpb", "rope_axial", "rope_mixed")),
}

#: Options in which a run may differ from its recipe and still be one of its row.
_ANY = ("seed", "init", "classes")


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast a training is."""

    images_per_second: float
    """Of all its devices together."""
    source: str
    """Who says so."""


@dataclass(frozen=True, kw_only=True)
class ChainStage:
    """One training of a row."""

    config: TrainConfig
    """The recipe with everything that its command says."""

    @property
    def words(self) -> list[str]:
        """Give the arguments of the command after `ropevit`."""
        config, model = self.config, self.config.model
        words = ["train", config.recipe, "--position", model.position, "--data", config.data]
        words += [] if model.init is None else ["--init-from", model.init]
        return [*words, "--out", str(config.run.out)]

    @property
    def images(self) -> int:
        """Count the images that it goes through."""
        return round(images_seen(self.config))

    def mismatches(self, run: RunSummary) -> list[str] | None:
        """Name the options in which a run differs from this; None where it is another training altogether."""
        model = run.settings.get("model", {})
        if (run.settings.get("recipe"), model.get("position")) != (self.config.recipe, self.config.model.position):
            return None
        theirs, ours = comparable(run.settings), comparable(self.config.to_dict())
        odd = differences(*({name: value for name, value in one.items() if name not in _ANY} for one in (ours, theirs)))
        classes = len(run.settings.get("classes", ()))
        return [*odd, *([] if classes == 1000 else [f"classes was 1000, now {classes}"])]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A row of the paper's tables."""

    name: str
    """The model's name in the registry."""
    stages: tuple[ChainStage, ...]
    evaluation: tuple[str, ...]
    """Arguments after `ropevit` of the command that measures it at the paper's sizes."""

    @property
    def expected(self) -> dict[int, PublishedResult]:
        """Give the paper's figures by size."""
        return curve(self.name)

    @property
    def cost(self) -> float:
        """Count the multiply-adds of all its trainings."""
        return sum(training_cost(stage.config) for stage in self.stages)

    def hours(self, speed_of: Callable[[ChainStage], Speed | None], devices: int) -> float | None:
        """Give the device hours of all its trainings, or None where a speed is not known."""
        speeds = [speed_of(stage) for stage in self.stages]
        if not all(speeds):
            return None
        seconds = sum(
            stage.images / speed.images_per_second for stage, speed in zip(self.stages, speeds, strict=True) if speed
        )
        return devices * seconds / 3600


def list_targets(table: str, data: str = "imagenet", root: Path = Path("runs")) -> list[Target]:
    """List the rows of a table.

    Args:
        table: `vit`, `vit-ape` (with an absolute embedding beside the rotation), `swin` or `all`.
        data: What the commands train and measure on.
        root: Where they put their runs.

    Raises:
        ValueError: If there is no such table.
    """
    if table not in (*TABLES, "all"):
        raise ValueError(f"got table {table!r}; choose one of {', '.join(TABLES)}, all")
    chosen = TABLES.values() if table == "all" else [TABLES[table]]
    return [
        make_target(model, position, data, root)
        for models, positions in chosen
        for model in models
        for position in positions
    ]


def make_target(model: str, position: str, data: str, root: Path) -> Target:
    """Put together the trainings of a row, each after the first starting from the weights of the one before."""
    stages: list[ChainStage] = []
    for recipe in _CHAINS[model]:
        config = find_recipe(recipe).with_run(out=root / f"{recipe}-{position}")
        init = str(stages[-1].config.run.out / "model.safetensors") if stages else None
        stages.append(
            ChainStage(config=replace(config, data=data, model=replace(config.model, position=position, init=init)))
        )
    last = stages[-1].config
    measured = "--checkpoint", str(last.run.out), "--weights", "last", "--data", data
    out = "--out", str(root / "eval" / f"{model}-{position}")
    return Target(name=last.model.name, stages=tuple(stages), evaluation=("eval", *measured, *out))


def parse_throughput(given: Sequence[str], targets: Sequence[Target]) -> dict[str, Speed]:
    """Read images per second by recipe; a number alone is for the only model that is listed.

    Args:
        given: `N` or `RECIPE=N`, several of the latter.
        targets: The rows that are listed.

    Raises:
        ValueError: If a number is none, or it is not said which recipe it is for.
    """
    recipes = list(dict.fromkeys(stage.config.recipe for target in targets for stage in target.stages))
    speeds: dict[str, Speed] = {}
    for word in given:
        recipe, _, number = word.rpartition("=")
        if recipe and recipe not in RECIPES:
            raise ValueError(f"got --throughput {word}; no recipe is named {recipe!r}, see `ropevit train --list`")
        try:
            speed = Speed(images_per_second=float(number), source="as given")
        except ValueError:
            speed = Speed(images_per_second=0.0, source="")
        if not 0 < speed.images_per_second < float("inf"):
            raise ValueError(f"got --throughput {word}; expected images per second, such as 2500 or swin_tiny=2500")
        if not recipe and len(recipes) > 1:
            raise ValueError(
                f"got --throughput {word} for {', '.join(recipes)}; say whose it is, such as {recipes[0]}={number}"
            )
        speeds[recipe or recipes[0]] = speed
    return speeds


def speeds_of_runs(runs: Sequence[RunSummary]) -> Callable[[ChainStage], Speed | None]:
    """Give what looks up how fast the runs of a training were: the median of all lines of their logs."""

    def look_up(stage: ChainStage) -> Speed | None:
        own = [run for run in runs if stage.mismatches(run) is not None]
        figures = [figure for run in own for figure in run.curve("images_per_second")[1]]
        if not figures:
            return None
        return Speed(images_per_second=statistics.median(figures), source=", ".join(run.name for run in own))

    return look_up


@dataclass(frozen=True, kw_only=True)
class MatchedRun:
    """A run of a row's last training."""

    run: RunSummary
    top1: float | None
    """At the training size, at the end of the log, in percent."""
    epoch: float
    mismatches: tuple[str, ...]
    """Options in which it differs from the recipe."""

    def __str__(self) -> str:
        """Say what it reached, or how far it is."""
        if self.top1 is None:
            return f"epoch {self.epoch:.4g}, not measured yet"
        short = "" if self.run.finished else f" (epoch {self.epoch:.4g})"
        return f"{self.top1:.2f}{short}{' *' if self.mismatches else ''}"


def match_runs(
    targets: Sequence[Target], runs: Sequence[RunSummary]
) -> tuple[Mapping[str, list[MatchedRun]], list[str]]:
    """Sort runs to the rows that they are of, by recipe and position embedding.

    Returns:
        The runs of the last training of each row by the model's name, and a line for each run that is of no row, or
        differs from its recipe.
    """
    found: dict[str, list[MatchedRun]] = {target.name: [] for target in targets}
    notes = []
    for run in runs:
        places = [(target, stage) for target in targets for stage in target.stages if stage.mismatches(run) is not None]
        what = f"{run.settings.get('recipe')} with {run.settings.get('model', {}).get('position')}"
        if not places:
            notes.append(f"{run.folder} ({what}) is of none of these rows")
            continue
        target, stage = places[0]
        odd = tuple(stage.mismatches(run) or ())
        if odd:
            notes.append(f"* {run.folder} ({what}) was trained otherwise: {'; '.join(odd)}")
        if stage is target.stages[-1]:
            scores = run.curve("top1")
            epoch = run.last("epoch") or 0.0
            top1 = scores[1][-1] if scores[1] else None
            found[target.name].append(MatchedRun(run=run, top1=top1, epoch=epoch, mismatches=odd))
    return found, notes
