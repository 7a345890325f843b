"""Rows of the paper's ImageNet tables, with the commands, expected results and cost of each."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ropevit.models.published import PublishedResult, curve
from ropevit.tasks.classify.config import TrainConfig
from ropevit.tasks.classify.recipes import RECIPES, find_recipe, images_seen, training_cost
from ropevit.tasks.runs.run_dir import comparable, differences
from ropevit.tasks.runs.run_summary import RunSummary

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

#: Options in which a run may differ from its recipe and still belong to its row.
_ANY = ("seed", "init", "classes")


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Throughput of a training."""

    images_per_second: float
    """Images per second of all its devices together."""
    source: str
    """Source of the number."""


@dataclass(frozen=True, kw_only=True)
class ChainStage:
    """One training of a row."""

    config: TrainConfig
    """The recipe with the options of its command."""

    @property
    def words(self) -> list[str]:
        """Return the arguments of the command, after `ropevit`."""
        config, model = self.config, self.config.model
        words = ["train", config.recipe, "--position", model.position, "--data", config.data]
        words += [] if model.init is None else ["--init-from", model.init]
        return [*words, "--out", str(config.run.folder)]

    @property
    def images(self) -> int:
        """Return the number of images seen in the training, over all epochs."""
        return round(images_seen(self.config))

    def mismatches(self, run: RunSummary) -> list[str] | None:
        """Return the options in which a run differs from this one; None if its recipe or position differs."""
        model = run.settings.get("model", {})
        if (run.settings.get("recipe"), model.get("position")) != (self.config.recipe, self.config.model.position):
            return None
        theirs, ours = comparable(run.settings), comparable(self.config.to_dict())
        odd = differences(*({name: value for name, value in one.items() if name not in _ANY} for one in (ours, theirs)))
        classes = len(run.settings.get("classes", ()))
        return [*odd, *([] if classes == 1000 else [f"classes was 1000, now {classes}"])]


@dataclass(frozen=True, kw_only=True)
class ReproductionTarget:
    """A row of the paper's tables."""

    name: str
    """The model's name in the registry."""
    stages: tuple[ChainStage, ...]
    """Trainings, each initialized from the one before."""
    evaluation: tuple[str, ...]
    """Arguments of the command that evaluates it at the paper's sizes, after `ropevit`."""

    @property
    def expected(self) -> dict[int, PublishedResult]:
        """Return the paper's results by size."""
        return curve(self.name)

    @property
    def cost(self) -> float:
        """Return the MACs of all its trainings."""
        return sum(training_cost(stage.config) for stage in self.stages)

    def hours(self, speed_of: Callable[[ChainStage], Speed | None], devices: int) -> float | None:
        """Return the device hours of all its trainings; None if a throughput is unknown."""
        speeds = [speed_of(stage) for stage in self.stages]
        if not all(speeds):
            return None
        seconds = sum(
            stage.images / speed.images_per_second for stage, speed in zip(self.stages, speeds, strict=True) if speed
        )
        return devices * seconds / 3600


def list_targets(table: str, data: str = "imagenet", root: Path = Path("runs")) -> list[ReproductionTarget]:
    """List the rows of a table.

    Args:
        table: `vit`, `vit-ape` (with an absolute embedding beside the rotation), `swin` or `all`.
        data: Data set of the commands.
        root: Directory of their runs.

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


def make_target(model: str, position: str, data: str, root: Path) -> ReproductionTarget:
    """Return a row with its trainings, each after the first initialized from the one before."""
    stages: list[ChainStage] = []
    for recipe in _CHAINS[model]:
        config = find_recipe(recipe).with_run(out=root / f"{recipe}-{position}")
        init = str(stages[-1].config.run.folder / "model.safetensors") if stages else None
        stages.append(
            ChainStage(config=replace(config, data=data, model=replace(config.model, position=position, init=init)))
        )
    last = stages[-1].config
    measured = "--checkpoint", str(last.run.folder), "--weights", "last", "--data", data
    out = "--out", str(root / "eval" / f"{model}-{position}")
    return ReproductionTarget(name=last.model.name, stages=tuple(stages), evaluation=("eval", *measured, *out))


def parse_throughput(given: Sequence[str], targets: Sequence[ReproductionTarget]) -> dict[str, Speed]:
    """Parse images per second by recipe; a number without a recipe is for the only one that is listed.

    Args:
        given: `N`, or any number of `RECIPE=N`.
        targets: The listed rows.

    Raises:
        ValueError: If a number is invalid, or its recipe is ambiguous.
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
                f"got --throughput {word} for {', '.join(recipes)}; name the recipe, such as {recipes[0]}={number}"
            )
        speeds[recipe or recipes[0]] = speed
    return speeds


def speeds_of_runs(runs: Sequence[RunSummary]) -> Callable[[ChainStage], Speed | None]:
    """Return a function that looks up the throughput of a training in runs: the median over their logs."""

    def look_up(stage: ChainStage) -> Speed | None:
        own = [run for run in runs if stage.mismatches(run) is not None]
        values = [value for run in own for value in run.curve("images_per_second")[1]]
        if not values:
            return None
        return Speed(images_per_second=statistics.median(values), source=", ".join(run.name for run in own))

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
        """Return its top-1, or its epoch before the first evaluation."""
        if self.top1 is None:
            return f"epoch {self.epoch:.4g}, not evaluated yet"
        short = "" if self.run.finished else f" (epoch {self.epoch:.4g})"
        return f"{self.top1:.2f}{short}{' *' if self.mismatches else ''}"


def match_runs(
    targets: Sequence[ReproductionTarget], runs: Sequence[RunSummary]
) -> tuple[Mapping[str, list[MatchedRun]], list[str]]:
    """Assign runs to rows, by recipe and position embedding.

    Returns:
        Runs of the last training of each row by the model's name, and a line for each run that belongs to no row or
        differs from its recipe.
    """
    found: dict[str, list[MatchedRun]] = {target.name: [] for target in targets}
    notes = []
    for run in runs:
        matches = [
            (target, stage) for target in targets for stage in target.stages if stage.mismatches(run) is not None
        ]
        what = f"{run.settings.get('recipe')} with {run.settings.get('model', {}).get('position')}"
        if not matches:
            notes.append(f"{run.folder} ({what}) belongs to none of these rows")
            continue
        target, stage = matches[0]
        odd = tuple(stage.mismatches(run) or ())
        if odd:
            notes.append(f"* {run.folder} ({what}) was trained with other options: {'; '.join(odd)}")
        if stage is target.stages[-1]:
            scores = run.curve("top1")
            epoch = run.last("epoch") or 0.0
            top1 = scores[1][-1] if scores[1] else None
            found[target.name].append(MatchedRun(run=run, top1=top1, epoch=epoch, mismatches=odd))
    return found, notes
