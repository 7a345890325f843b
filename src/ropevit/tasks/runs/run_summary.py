"""Trainings read from their output directories, and their curves."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ropevit.drawing import legend_label, write_figure
from ropevit.extras import require
from ropevit.tasks.registry import Metric
from ropevit.tasks.runs.run_dir import FILE, read_settings
from ropevit.tasks.training.metrics_log import read_metrics


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
    def title(self) -> str:
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
