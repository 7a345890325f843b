"""Trainings side by side: what was asked of each, how far it is, what it reached, and its curves."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ropevit.drawing import legend_label, write_figure
from ropevit.extras import require
from ropevit.tasks.common.directory import FILE, read_settings
from ropevit.tasks.common.metrics import read_metrics


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """What is known of a training from its directory."""

    folder: Path
    settings: dict[str, Any]
    lines: list[dict[str, Any]]
    """The log: lines with a loss, and lines with scores."""

    @property
    def name(self) -> str:
        """Name of the directory."""
        return self.folder.name

    @property
    def what(self) -> str:
        """Recipe, position embedding, and the rules for positions if there are any."""
        model = self.settings.get("model") or {}
        words = self.settings.get("recipe") or "?", model.get("position"), model.get("scaling")
        return " ".join(word for word in words if word)

    @property
    def finished(self) -> bool:
        """Whether the training reached its end."""
        return (self.folder / "model.safetensors").exists()

    def curve(self, key: str) -> tuple[list[float], list[float]]:
        """Give epochs and values of what the log has under a key."""
        points = [(line["epoch"], line[key]) for line in self.lines if key in line]
        return [x for x, _ in points], [y for _, y in points]

    @property
    def metric(self) -> str:
        """Name of the score by which its best weights are chosen."""
        return self.settings.get("metric") or "top1"

    @property
    def passes(self) -> float | None:
        """Epochs of the whole training, where that is known yet."""
        optim, last = self.settings.get("optim") or {}, (self.lines or [{}])[-1]
        if optim.get("steps") is None:
            return optim.get("epochs")
        return optim["steps"] * last["epoch"] / last["step"] if last.get("step") else None

    def last(self, key: str) -> float | None:
        """Give the last value of a key, if there is one."""
        return (self.curve(key)[1] or [None])[-1]

    def best(self, key: str) -> float | None:
        """Give the largest value of a key, if there is one."""
        return max(self.curve(key)[1], default=None)

    @property
    def skipped(self) -> int:
        """Number of times that an image could not be read."""
        return sum(len(line.get("skipped", ())) for line in self.lines)


def find_runs(folders: Sequence[Path]) -> list[RunSummary]:
    """Find the trainings in directories, at any depth, by name.

    Raises:
        ValueError: If there is none.
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


def by_metric(runs: Sequence[RunSummary]) -> dict[str, list[RunSummary]]:
    """Group trainings by their score: an accuracy and an average precision cannot stand side by side."""
    groups: dict[str, list[RunSummary]] = {}
    for run in runs:
        groups.setdefault(run.metric, []).append(run)
    return groups


def draw_runs(runs: Sequence[RunSummary], path: Path) -> Path:
    """Draw loss and score of trainings over their epochs, one row of axes for each kind of score.

    Args:
        runs: The trainings.
        path: PNG to write.

    Raises:
        MissingExtraError: If matplotlib is not installed.
        ValueError: If the disk refuses, or the path is none of a PNG.
    """
    figures = require("matplotlib.figure", "figures")
    groups = by_metric(runs)
    figure = figures.Figure(figsize=(11, 4.2 * len(groups)), layout="constrained")
    for (left, right), (metric, alike) in zip(
        figure.subplots(len(groups), 2, squeeze=False), groups.items(), strict=True
    ):
        for run in alike:
            for axes, key in ((left, "loss"), (right, metric)):
                epochs, values = run.curve(key)
                marker = "o" if axes is right or len(values) == 1 else None  # a line of one point is invisible
                axes.plot(epochs, values, label=legend_label(run.name), marker=marker, markersize=3, linewidth=1.2)
        for axes, title in ((left, "training loss"), (right, f"{metric} on the test images (%)")):
            axes.set(title=title, xlabel="epoch")
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
        right.legend(frameon=False, fontsize=8)
    return write_figure(figure, path)
