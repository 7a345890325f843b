"""Prepares trained models for the hub: weights, and a card made from the config, the training and its evaluations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ropevit.models.registry import PUBLISHED, model_name
from ropevit.tasks.dense.backbone import PRETRAINED
from ropevit.tasks.evaluation.results import (
    CURVE,
    OUT,
    SETTINGS,
    TABLE,
    SizeResult,
    hash_weights,
    mode_of,
    read_rows,
    read_settings,
)
from ropevit.tasks.registry import CLASSIFY, TASKS, TaskSpec
from ropevit.tasks.runs.run_dir import FILE, IMAGES, RUN_FILES, WeightsChoice, comparable, weights_file
from ropevit.tasks.runs.run_dir import read_settings as read_training
from ropevit.tasks.runs.run_names import numbered_folders
from ropevit.tasks.training.metrics_log import read_metrics
from ropevit.weights.errors import WeightsError
from ropevit.weights.metadata import stored_metadata
from ropevit.weights.model_card import CardScore, ModelCard, to_table
from ropevit.weights.parse import parse_checkpoint
from ropevit.weights.reading import Checkpoint, named_repository, read_checkpoint
from ropevit.weights.sharing import CARD, WEIGHTS, check_license, classifier_facts
from ropevit.weights.upload import Files

#: Studies whose models label pixels outside of the model, so that nothing else can use them.
_LABELS_PIXELS = ("field", "far")
#: Entries of the config of a training that are said elsewhere in a card.
_SAID = ("classes", "recipe", "metric")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """An evaluation of the weights, read from its output directory."""

    folder: Path
    settings: Mapping[str, Any]
    rows: Sequence[SizeResult]

    @property
    def data(self) -> str:
        """Name of the data."""
        return str(self.settings["config"].get("data"))

    def scores(self) -> list[CardScore]:
        """Return all scores, for the model index."""
        return [
            CardScore(data=self.data, metric=name, value=value, setting=_setting(row))
            for row in self.rows
            for name, value in row.scores.items()
            if value is not None
        ]

    def describe(self, curve: str) -> str:
        """Return settings, table and curve in Markdown.

        Args:
            curve: File name of the curve; empty if there is none.
        """
        config = self.settings["config"]
        names = [name for name in ("protocol", "crop", "scaling", "precision") if config.get(name) is not None]
        how = ", ".join(f"{name} {config[name]}" for name in names)
        rows = [
            (_setting(row), *("-" if value is None else f"{value:.2f}" for value in row.scores.values()), row.images)
            for row in self.rows
        ]
        table = to_table(("size", *self.rows[0].scores, "images"), rows)
        drawn = f"![{config.get('metric')} over image size]({curve})" if curve else ""
        trained_at = self.settings["model"]["trained_at"]
        sentence = f"`ropevit eval` on {self.data} ({how}); trained at {trained_at} px."
        return "\n\n".join(filter(None, (sentence, table, drawn)))


@dataclass(frozen=True, kw_only=True)
class TrainingSection:
    """What a card says of a training; nothing for weights that are in no directory of one."""

    section: str = ""
    """In Markdown."""
    scores: Sequence[CardScore] = ()
    """The score on the validation images, if there is one."""
    base_model: str | None = None
    """Hub id of the published weights that it started from."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """What is pushed of a model."""

    files: Files
    """Files by their names on the hub."""
    notes: tuple[str, ...]
    """Lines for the user, such as what was left out."""


def pack(
    source: Path,
    repo_id: str,
    *,
    weights: WeightsChoice | None = None,
    license: str | None = None,  # noqa: A002
    evals: Sequence[Path] = (),
) -> Package:
    """Collect the weights of a trained model, its card and its evaluations.

    The weights are a copy of the file, bit for bit. Evaluations are those given, or those of these weights among the
    run's folder, its subfolders and runs/eval/NAME.

    Args:
        source: Directory of a training or of a study's run, or a file of weights of this package.
        repo_id: Owner and name on the hub, which the card names.
        weights: Which weights of a directory.
        license: License of the weights, by the hub's identifier.
        evals: Output directories of `ropevit eval`.

    Raises:
        ValueError: If the weights are not a ropevit file, or an evaluation is of other weights.
    """
    check_license(license)
    path = Path(str(weights_file(str(source), weights))).expanduser()
    file = _read_own(path)
    task = _task_of(file)
    run = path.parent if path.name in RUN_FILES.values() and (path.parent / FILE).exists() else None
    found, notes = _evaluations(run, evals, task, hash_weights(_evaluated_weights(path, file, task)))
    files, described = _evaluation_files(found)
    training = TrainingSection() if run is None else _describe_training(run, path, file, task)
    card = ModelCard(
        name=repo_id.split("/")[-1],
        license=license,
        base_model=training.base_model,
        sections={"Training": training.section, "Evaluation": described},
        scores=[score for one in found for score in one.scores()] or training.scores,
        **_facts(task, repo_id),
    )
    if license is None:
        notes.append("no license is stated, so nobody may use the weights: add --license, such as apache-2.0")
    return Package(files={WEIGHTS: path, **files, CARD: card.render(file).encode()}, notes=tuple(notes))


def _read_own(path: Path) -> Checkpoint:
    """Read a file, which must be one of this package."""
    if named_repository(str(path)) is not None and not path.exists():
        raise WeightsError(f"found no file or directory {path}; give a training's directory, or a file of weights")
    file = read_checkpoint(path)
    if "config" not in file.metadata:
        raise WeightsError(
            f"{path} has no config in its header; make a file that has: ropevit convert {path} NEW.safetensors"
        )
    return file


def _task_of(file: Checkpoint) -> TaskSpec:
    """Return the task of a file of this package, whose models can be used from it alone."""
    name = file.metadata["format"]
    task = next((task for task in TASKS.values() if name in task.formats), None)
    if task is None or task.load is None:
        raise WeightsError(f"{file.source} has the format {name!r}, which no installed task can load")
    if stored_metadata(file.metadata, file.source).get("panel") in _LABELS_PIXELS:
        raise WeightsError(
            f"{file.source} labels pixels, which its study does outside the model; push another model, such as the "
            "zoom model of the same study"
        )
    return task


def _evaluated_weights(path: Path, file: Checkpoint, task: TaskSpec) -> Mapping[str, Tensor]:
    """Return the weights whose digest an evaluation stores: of a classifier those of the file, in its precision."""
    return parse_checkpoint(file).state if task is TASKS[CLASSIFY] else task.get("load")(path)[0].state_dict()


def _facts(task: TaskSpec, repo_id: str) -> dict[str, Any]:
    """Return what a task knows of its models: noun, usage and pipeline tag."""
    if task is TASKS[CLASSIFY]:
        return classifier_facts(repo_id)
    usage = f"```\nhf download {repo_id} --local-dir model\nropevit predict photo.jpg --checkpoint model\n```"
    if isinstance(task.load, str):
        module, name = task.load.split(":")
        usage = f'```python\nfrom {module} import {name}\n\nmodel, info = {name}("{repo_id}")\n```\n\n{usage}'
    return {"noun": task.noun, "usage": usage, "pipeline_tag": task.pipeline_tag}


def _evaluations(
    run: Path | None, given: Sequence[Path], task: TaskSpec, digest: str
) -> tuple[list[Evaluation], list[str]]:
    """Read the given evaluations, or find those of the weights.

    Returns:
        Evaluations with at least one size, and notes on folders that were left out.

    Raises:
        ValueError: If a given one is of another task or of other weights.
    """
    found, notes = [], []
    for folder in given or _candidates(run):
        try:
            settings = read_settings(folder, "leave it out of --evals")
        except ValueError as error:
            if given:
                raise
            notes.append(f"left out {folder}: {error}")
            continue
        same = settings["config"].get("fingerprint") == digest and TASKS.get(str(settings.get("task"))) is task
        if same and (rows := read_rows(folder, task.get("result"))):
            found.append(Evaluation(folder=folder, settings=settings, rows=rows))
        elif given:
            problem = "holds no size yet" if same else "is an evaluation of other weights"
            raise ValueError(
                f"{folder} {problem}; leave it out of --evals, or evaluate these weights: see `ropevit eval`"
            )
        else:
            notes.append(f"left out {folder}, an evaluation of other weights, or without a size")
    if not found:
        notes.append("no evaluation was found: `ropevit eval` makes one, whose table and curve the card shows")
    return found, notes


def _candidates(run: Path | None) -> list[Path]:
    """Return the folders of evaluations in that of a training, and the default ones of its name."""
    folders = [] if run is None else [run, *sorted(run.iterdir()), *numbered_folders(OUT / run.resolve().name)]
    return [folder for folder in folders if (folder / SETTINGS).is_file()]


def _evaluation_files(found: Sequence[Evaluation]) -> tuple[dict[str, Path], str]:
    """Return tables and curves of evaluations by their names on the hub, and the section about them in Markdown."""
    files: dict[str, Path] = {}
    sections = []
    for number, one in enumerate(found, 1):
        end = "" if number == 1 else f"-{number}"
        table, curve = f"eval{end}.csv", f"curve{end}.png"
        files |= {table: one.folder / TABLE}
        if (drawn := one.folder / CURVE).exists():
            files[curve] = drawn
        sections.append(one.describe(curve if drawn.exists() else ""))
    return files, "\n\n".join(sections)


def _setting(row: SizeResult) -> str:
    """Return the size of a row and, if it is none of the defaults, the mode."""
    return f"{row.size} px" + ("" if mode_of(row) in (None, "whole") else f", {mode_of(row)}")


def _describe_training(run: Path, path: Path, file: Checkpoint, task: TaskSpec) -> TrainingSection:
    """Describe a training from its directory.

    Args:
        run: The directory.
        path: The chosen weights in it.
        file: Their content.
        task: Their task.
    """
    settings, metadata = read_training(run), stored_metadata(file.metadata, file.source)
    which = next(kind for kind, known in RUN_FILES.items() if known == path.name)
    data, images = Path(str(settings.get("data"))).name, settings.get(IMAGES) or {}
    counts = ", ".join(f"{(images.get(split) or {}).get('images', '?')} {split}" for split in ("train", "val"))
    epochs = [line["epoch"] for line in read_metrics(run) if "epoch" in line]
    length = f", trained for {epochs[-1]:.4g} epochs" if epochs else ""
    sentence = f"Recipe `{settings.get('recipe')}` of `ropevit train` on {data} (images: {counts}){length}. "
    sentence += f"These are the {which} weights, of step {metadata.get('step')}."
    score = (metadata.get("scores") or {}).get(f"ema_{task.metric.name}" if which == "ema" else task.metric.name)
    scores: tuple[CardScore, ...] = ()
    if isinstance(score, int | float):
        chosen = ", on which they were selected" if which == "best" else ""
        sentence += f" {task.metric.label} on the validation images{chosen}: {score:.2f}."
        scores = (CardScore(data=data, metric=task.metric.label, value=score, setting=f"in training{chosen}"),)
    rows = {key: _without_folder(value) for key, value in comparable(settings).items() if key not in _SAID}
    return TrainingSection(
        section=f"{sentence}\n\n{to_table(('option', 'value'), [row for row in rows.items() if row[1] is not None])}",
        scores=scores,
        base_model=_base_model(settings),
    )


def _without_folder(value: Any) -> Any:
    """Return a setting without the folders of a path, which are nobody's business."""
    local = isinstance(value, str) and ("/" in value or "\\" in value) and named_repository(value) is None
    return Path(value).name if local else value


def _base_model(settings: Mapping[str, Any]) -> str | None:
    """Return the hub id of the published weights that a training started from, if any."""
    model = settings.get("model") or {}
    init = str(model.get("init"))
    if init == PRETRAINED:
        init = model_name(str(model.get("model")), str(model.get("position")))
    return PUBLISHED.get(init, init if named_repository(init) is not None else None)
