"""Output directories of trainings: their config and weights, the task of a checkpoint, and the comparison of runs."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from ropevit.data.identity import describe_changes
from ropevit.drawing import legend_label, write_figure
from ropevit.extras import require
from ropevit.files import parse_json, read_json, write_json
from ropevit.locks import NAME, is_empty
from ropevit.tasks.common.config import FIXED, RunConfig, with_current_names
from ropevit.tasks.common.first_batches import PICTURE
from ropevit.tasks.common.metrics_log import read_metrics
from ropevit.tasks.registry import Metric, TaskSpec, task_of_format
from ropevit.weights.reading import check_exists, named_repository
from ropevit.weights.sharded import find_index

WeightsChoice = Literal["best", "last", "ema"]
#: Weights that a training writes into its directory.
RUN_FILES = {"best": "best.safetensors", "last": "model.safetensors", "ema": "model_ema.safetensors"}


def checkpoint_in_run(folder: Path, weights: WeightsChoice | None) -> Path:
    """Return the path of the weights in the directory of a training, or of a run of a study (last weights only).

    Args:
        folder: Output directory, or a folder of `save_pretrained` or `ropevit push --out`, which is none.
        weights: Which weights; None means best for a training, and last for anything else.

    Raises:
        ValueError: If they do not exist.
    """
    path, last = folder / RUN_FILES[weights or "best"], folder / RUN_FILES["last"]
    if path.is_file():
        return path
    if weights is None and last.is_file() and (_is_study_model(last) or not (folder / FILE).exists()):
        return last
    if weights is None and (index := find_index(folder)):
        return index  # sharded weights of transformers
    there = [name for name, file in RUN_FILES.items() if (folder / file).is_file()]
    if there:
        raise ValueError(f"{folder} has no {path.name}; choose --weights {' or '.join(there)}")
    if runs := sorted(file.parent for file in folder.glob(f"runs/*/{last.name}")):
        raise ValueError(
            f"{folder} is a study of {len(runs)} trained models; name the directory of one, such as {runs[-1]}"
        )
    raise ValueError(
        f"{folder} holds no weights ({', '.join(RUN_FILES.values())}); name the directory of a training that was "
        "evaluated at least once, or a file of weights"
    )


def weights_file(checkpoint: str | None, weights: WeightsChoice | None) -> str | None:
    """Resolve `--checkpoint` and `--weights`.

    Returns:
        A file of weights if the checkpoint is a directory; otherwise (a file, a hub id, None) the checkpoint itself.

    Raises:
        ValueError: If the directory has no such weights.
    """
    folder = Path(checkpoint or "").expanduser()
    return str(checkpoint_in_run(folder, weights)) if checkpoint and folder.is_dir() else checkpoint


def _is_study_model(path: Path) -> bool:
    """Return whether a file is the model of a study's run, by its header."""
    try:
        facts = parse_json(_read_header(path).get("metadata", "{}"), path)
    except ValueError:
        return False
    return isinstance(facts, dict) and "panel" in facts


def _read_header(path: Path) -> Mapping[str, str]:
    """Read the metadata of a safetensors file; {} for other or damaged files."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError):
        return {}  # another format, or damaged: loading reports it


def task_of_checkpoint(checkpoint: str | None, weights: WeightsChoice | None = None) -> TaskSpec:
    """Return the task of the model in a checkpoint, by the header of its file.

    Args:
        checkpoint: A file or hub id in any layout, or the directory of a training or of a run of a study; None for a
            published classifier.
        weights: Which weights of a directory.

    Raises:
        ValueError: If it is a directory without such weights.
        WeightsError: If the path does not exist.
    """
    path = Path(weights_file(checkpoint, weights) or "").expanduser()
    if checkpoint and named_repository(checkpoint) is None:
        check_exists(path)
    return task_of_format(_read_header(path).get("format", "") if path.is_file() else "")


def describe_task(task: TaskSpec, checkpoint: str | None) -> str:
    """Return the noun of a task for messages, with a hint where a mistyped path may have been read as a hub id."""
    if checkpoint is None or named_repository(checkpoint) is None:
        return task.noun
    return f"{task.noun} (there is no file or directory {checkpoint}, so the hub's is meant)"


FILE = "config.json"
#: Key of the identity of the images in config.json.
IMAGES = "images"

#: Name of a temporary file of `write_atomically`; it remains if the process is killed.
_PARTIAL_FILE = re.compile(r"\..+\.\d+\.part")

#: Entries of a directory before the first step, besides lock and partial files.
_BEGINNINGS = (FILE, PICTURE, "metrics.jsonl", "checkpoints", "tensorboard", "wandb", "wandb.id")

#: Fields of config.json that other code reads -> their types; a field may be missing or null.
_TYPES: dict[tuple[str, ...], type | tuple[type, ...]] = {
    ("recipe",): str,
    ("metric",): str,
    ("model",): dict,
    ("model", "position"): str,
    ("model", "scaling"): str,
    ("optim",): dict,
    ("optim", "epochs"): (int, float),
    ("optim", "steps"): (int, float),
    ("run",): dict,
    (IMAGES,): dict,
    (IMAGES, "train"): dict,
    (IMAGES, "val"): dict,
}


def open_directory(
    run: RunConfig, settings: Mapping[str, Any], images: Mapping[str, Mapping[str, Any]] | None = None
) -> None:
    """Create the directory of a run and write config.json; on resuming, check that config and images are the same.

    Fields of `run` that do not change the results may differ, and so may the path of the data. A directory in which no
    step has been taken is overwritten.

    Args:
        run: Output directory, and whether to resume.
        settings: Full config for JSON, with that of the run under "run".
        images: Identity of the images of each split, from `identify`.

    Raises:
        ValueError: If the directory holds something else, or a training with another config or other images.
    """
    if run.out.exists() and not run.out.is_dir():
        raise ValueError(f"got the file {run.out} for a directory; choose another --out")
    if is_empty(run.out) or _has_not_trained(run.out):
        _remove_partial_files(run.out)
        write_json(run.out / FILE, {**settings, **({} if images is None else {IMAGES: images})})
        return
    if not run.resume:
        more = ", or continue the training in it with --resume" if (run.out / FILE).exists() else ""
        raise ValueError(f"{run.out} is not empty; choose another --out{more}")
    before = read_settings(run.out)
    if changed := differences(comparable(before), comparable(settings)):
        raise ValueError(f"{run.out} was started with other options ({'; '.join(changed)}); resume it with the same")
    check_unchanged(run.out, before.get(IMAGES) or {}, images or {})
    _check_checkpoints(run.out)
    _remove_partial_files(run.out)


def _check_checkpoints(folder: Path) -> None:
    """Check that a directory with weights also has checkpoints: without them, a training would start again.

    Raises:
        ValueError: If it has weights only.
    """
    weights = [name for name in RUN_FILES.values() if (folder / name).exists()]
    if weights and not any((folder / "checkpoints").glob("step-*")):
        raise ValueError(
            f"{folder} holds {', '.join(weights)}, but no checkpoint to resume from; choose another --out, or start "
            f"from its weights: --init-from {folder / weights[0]}"
        )


def _remove_partial_files(folder: Path) -> None:
    """Remove the partial files of a killed process."""
    for place in (folder, folder / "checkpoints"):
        for path in place.glob(".*.part"):
            if _PARTIAL_FILE.fullmatch(path.name):
                path.unlink()


def _has_not_trained(folder: Path) -> bool:
    """Return whether a directory holds only what a training writes before its first step."""
    names = {path.name for path in folder.iterdir() if path.name != NAME and not _PARTIAL_FILE.fullmatch(path.name)}
    log, checkpoints = folder / "metrics.jsonl", folder / "checkpoints"
    if not names <= {*_BEGINNINGS} or (log.exists() and log.stat().st_size) or any(checkpoints.glob("step-*")):
        return False
    try:
        return not names or "run" in read_settings(folder)
    except ValueError:
        return False


def check_unchanged(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Check that the images are those that the training recorded, if it did.

    Raises:
        ValueError: If they differ.
    """
    found = {split: describe_changes(before[split], now[split]) for split in now if before.get(split)}
    if changed := "; ".join(f"{split}: {change}" for split, change in found.items() if change):
        raise ValueError(
            f"the data changed since {folder} was started ({changed}); resume it with the images that it was started "
            "with, or choose another --out"
        )


def read_settings(folder: Path) -> dict[str, Any]:
    """Read the config of a run, with the names of today for the fields of an older one.

    Raises:
        ValueError: If there is none, or it was not written by a training.
    """
    try:
        settings = read_json(folder / FILE)
        _check_types(settings)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(
            f"found no training in {folder} ({FILE} cannot be read: {reason}); name the directory of a run"
        ) from error
    return with_current_names(settings)


def _check_types(settings: Any) -> None:
    """Check the types of the fields that other code reads.

    Raises:
        ValueError: If a type is wrong.
    """
    if not isinstance(settings, dict):
        raise ValueError(f"it holds a {type(settings).__name__}, expected an object")
    for names, kind in _TYPES.items():
        value: Any = settings
        for name in names:
            value = None if value is None else value.get(name)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise ValueError(f"{'.'.join(names)} is {str(value)[:40]!r}, which no training writes")


def comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a config that must not change on resuming, in one flat dict."""
    flat = {}
    for key, value in settings.items():
        if key == IMAGES:
            continue
        if isinstance(value, Mapping):
            kept = {name: inner for name, inner in value.items() if key != "run" or name in FIXED}
            flat |= {f"{key}.{name}" if name in flat else name: inner for name, inner in kept.items()}
        elif key != "data":
            flat[key] = value
    return json.loads(json.dumps(flat))


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a description of each field that differs; a flag that older versions did not have was off."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    names = [name for name in names if name in before or now[name] is not False]
    return [f"{name} was {before.get(name)!r}, now {now.get(name)!r}" for name in names]


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """A training, read from its directory."""

    folder: Path
    settings: dict[str, Any]
    lines: list[dict[str, Any]]
    """Lines of the log: some with a loss, some with scores."""

    @property
    def name(self) -> str:
        """Name of the directory."""
        return self.folder.name

    @property
    def what(self) -> str:
        """Recipe, position embedding, and RoPE scaling methods if there are any."""
        model = self.settings.get("model") or {}
        words = self.settings.get("recipe") or "?", model.get("position"), model.get("scaling")
        return " ".join(word for word in words if word)

    @property
    def finished(self) -> bool:
        """Whether the training is complete."""
        return (self.folder / "model.safetensors").exists()

    def curve(self, key: str) -> tuple[list[float], list[float]]:
        """Return the epochs and values of a key of the log."""
        points = [(line["epoch"], line[key]) for line in self.lines if key in line]
        return [x for x, _ in points], [y for _, y in points]

    @property
    def metric(self) -> Metric:
        """Score that selects the best weights."""
        return Metric.from_dict(self.settings)

    @property
    def length_in_epochs(self) -> float | None:
        """Length of the training in epochs; None if it is not known yet."""
        optim, last = self.settings.get("optim") or {}, (self.lines or [{}])[-1]
        if optim.get("steps") is None:
            return optim.get("epochs")
        return optim["steps"] * last["epoch"] / last["step"] if last.get("step") else None

    def last(self, key: str) -> float | None:
        """Return the last value of a key of the log, None if there is none."""
        return (self.curve(key)[1] or [None])[-1]

    @property
    def best(self) -> float | None:
        """Best value of the metric, None if there is none."""
        return (max if self.metric.higher_is_better else min)(self.curve(self.metric.name)[1], default=None)

    @property
    def skipped(self) -> int:
        """Number of distinct images that could not be read."""
        return len({name for line in self.lines for name in line.get("skipped", ())})


def find_runs(folders: Sequence[Path]) -> list[RunSummary]:
    """Find all trainings below directories, sorted by path.

    Raises:
        ValueError: If there are none.
    """
    found = sorted({path.parent for folder in folders for path in [folder / FILE, *folder.rglob(FILE)]})
    runs = [
        RunSummary(folder=folder, settings=read_settings(folder), lines=read_metrics(folder))
        for folder in found
        if (folder / "metrics.jsonl").exists()
    ]
    if not runs:
        raise ValueError(
            f"found no training in {', '.join(map(str, folders))}; give the directory of a run, or of several"
        )
    return runs


def by_metric(runs: Sequence[RunSummary]) -> dict[Metric, list[RunSummary]]:
    """Group trainings by metric, as different metrics need axes of their own."""
    groups: dict[Metric, list[RunSummary]] = {}
    for run in runs:
        groups.setdefault(run.metric, []).append(run)
    return groups


def draw_runs(runs: Sequence[RunSummary], path: Path) -> Path:
    """Plot loss and metric of trainings over epochs, one row of axes for each metric.

    Args:
        runs: Trainings.
        path: PNG file to write.

    Raises:
        MissingExtraError: If matplotlib is not installed.
        ValueError: If the file cannot be written, or its name does not end in .png.
    """
    figures = require("matplotlib.figure", "figures")
    groups = by_metric(runs)
    figure = figures.Figure(figsize=(11, 4.2 * len(groups)), layout="constrained")
    for (left, right), (metric, alike) in zip(
        figure.subplots(len(groups), 2, squeeze=False), groups.items(), strict=True
    ):
        for run in alike:
            for axes, key in ((left, "loss"), (right, metric.name)):
                epochs, values = run.curve(key)
                marker = "o" if axes is right or len(values) == 1 else None  # a line through one point is invisible
                axes.plot(epochs, values, label=legend_label(run.name), marker=marker, markersize=3, linewidth=1.2)
        unit = f" ({metric.unit})" if metric.unit else ""
        for axes, title in ((left, "training loss"), (right, f"{metric.name} on the validation images{unit}")):
            axes.set(title=title, xlabel="epoch")
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
        right.legend(frameon=False, fontsize=8)
    return write_figure(figure, path)
