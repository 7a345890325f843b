"""Results of a study: curves per panel, and the sentences that summarize them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ropevit.files import read_json
from ropevit.models.positions import position_label
from ropevit.study.events import describe_training
from ropevit.study.majority import MajorityBaseline, read_majority_baseline
from ropevit.study.panels import BASELINE_LABELS, PANEL_CLASSES
from ropevit.study.stored_runs import stored_baselines
from ropevit.study.tuning import describe_choices
from ropevit.tasks.evaluation.tuned_scaling import AUTO

#: Least number of seeds for the statement "every seed of one above every seed of the other": by chance it happens to
#: two equal embeddings in 1 of 20 cases with 3 seeds each, but in 1 of 6 with 2.
_MIN_SEEDS = 3

#: Most embeddings that a sentence names; the others are counted.
_MAX_LISTED = 5


@dataclass(frozen=True, kw_only=True)
class EmbeddingScores:
    """One position embedding on one panel."""

    embedding: str
    sizes: tuple[int, ...]
    """Test sizes in pixels."""
    scores: tuple[tuple[float, ...], ...]
    """Percent, one row per seed, one column per size."""
    parameters: int
    step_ms: float
    """Median over the seeds of the milliseconds of a training step, while other trainings shared the machine."""
    scaling: str | None = None
    """RoPE scaling in evaluation."""
    chosen: str | None = None
    """Methods that `auto` chose, if that is the scaling."""
    training: str | None = None
    """RoPE scaling or random sizes in training, in words; empty for a plain training."""
    baseline: str | None = None
    """Baseline for larger images, if this is its curve, such as `in tiles of 32 px`."""

    @property
    def label(self) -> str:
        """Name in tables, figures and sentences."""
        if self.baseline is not None:
            return f"{position_label(self.embedding)}, {self.baseline}"
        if self.training is None:
            return position_label(self.embedding) + (f", {self.scaling_label}" if self.scaling else "")
        evaluated = f", evaluated with {self.scaling_label}" if self.scaling else ""
        return f"{position_label(self.embedding)}, trained with {self.training}{evaluated}"

    @property
    def scaling_label(self) -> str | None:
        """RoPE scaling in evaluation; for `auto` with what it chose."""
        return f"{self.scaling} ({self.chosen})" if self.chosen else self.scaling

    @property
    def variant(self) -> tuple[str | None, str | None]:
        """RoPE scaling or random sizes in training, and RoPE scaling in evaluation, in words."""
        return self.training, self.scaling

    @property
    def mean(self) -> np.ndarray:
        """Mean over the seeds at each size, in percent."""
        return np.mean(self.scores, axis=0)

    @property
    def spread(self) -> np.ndarray:
        """Standard deviation over the seeds at each size (n - 1); 0 with one seed."""
        return np.std(self.scores, axis=0, ddof=1) if len(self.scores) > 1 else np.zeros(len(self.sizes))

    def at(self, size: int) -> tuple[float, ...]:
        """Scores of all seeds at a size."""
        column = self.sizes.index(size)
        return tuple(row[column] for row in self.scores)

    def leads(self, other: "EmbeddingScores", size: int) -> bool:
        """Return whether every seed of this curve is above every seed of the other at a size."""
        return min(self.at(size)) > max(other.at(size))


@dataclass(frozen=True, kw_only=True)
class PanelResult:
    """All embeddings on one panel, with the same seeds."""

    panel: str
    metric: str
    train_size: int
    seeds: tuple[int, ...]
    curves: tuple[EmbeddingScores, ...]
    majority: MajorityBaseline | None = None
    """Score of a model that learned nothing; None in older results."""
    baselines: tuple[EmbeddingScores, ...] = ()
    """The best embedding at the training size, evaluated at larger sizes by resizing or tiling."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Test sizes in pixels."""
        return self.curves[0].sizes

    @property
    def statistic(self) -> str:
        """Statistic that is compared, in a word: the mean over several seeds, or the score of one."""
        return "mean" if len(self.seeds) > 1 else "score"

    def ranked(self, size: int) -> list[EmbeddingScores]:
        """Sort the curves by their mean at a size, best first; at the training size those without RoPE scaling."""
        column = self.sizes.index(size)
        curves = [curve for curve in self.curves if curve.scaling is None or size != self.train_size]
        return sorted(curves, key=lambda curve: -curve.mean[column])

    def at_majority(self, curve: EmbeddingScores, size: int) -> bool:
        """Return whether the mean of a curve at a size is at the majority-class baseline (see `majority.py`)."""
        return self.majority is not None and bool(curve.mean[curve.sizes.index(size)] < self.majority.threshold(size))

    def above_majority(self, size: int) -> bool:
        """Return whether the best mean at a size is above the majority-class baseline."""
        return not self.at_majority(self.ranked(size)[0], size)

    def without_unlearned(self) -> "PanelResult | None":
        """Exclude curves of models that did not learn, at the majority class at every size; None if all are."""
        curves = tuple(curve for curve in self.curves if not all(self.at_majority(curve, size) for size in curve.sizes))
        return replace(self, curves=curves) if curves else None


def read_results(path: Path) -> dict[str, Any]:
    """Read `results.json` of a study's directory.

    Raises:
        ValueError: If the file is missing, or not of a study.
    """
    file = path / "results.json"
    if not file.is_file():
        raise ValueError(f"no results.json in {path}; expected the directory of a study, such as runs/study")
    try:
        results = read_json(file)
    except (OSError, ValueError) as error:
        raise ValueError(f"{error}; delete it, and --resume writes it again") from None
    missing = {"config", "environment", "runs", "complete"} - set(results if isinstance(results, dict) else ())
    if missing:
        raise ValueError(f"{file} lacks {', '.join(sorted(missing))}; expected the results of `ropevit study`")
    return results


def panel_results(
    runs: Sequence[Mapping[str, Any]], majority_baselines: Mapping[str, Mapping[str, Any]] | None = None
) -> list[PanelResult]:
    """Group finished runs by panel; of an unfinished study, only the seeds that every embedding has are compared.

    Args:
        runs: Results of single trainings, as `results.json` lists them.
        majority_baselines: Entry `floors` of `results.json`.

    Returns:
        One result per panel, in order; panels without a common seed are omitted.

    Raises:
        ValueError: If the runs were trained on different images.
    """
    _check_same_images(runs)
    found = []
    for panel in dict.fromkeys(run["panel"] for run in runs):
        own = [run for run in runs if run["panel"] == panel]
        groups: dict[Any, dict[int, Any]] = {}
        for run in own:
            groups.setdefault((run["embedding"], describe_training(run)), {})[run["seed"]] = run
        seeds = sorted({run["seed"] for run in own if all(run["seed"] in rows for rows in groups.values())})
        if seeds:
            chosen = [[rows[seed] for seed in seeds] for rows in groups.values()]
            first = own[0]
            result = PanelResult(
                panel=panel,
                metric=first["metric"],
                train_size=first["train_size"],
                seeds=tuple(seeds),
                curves=tuple(curve for rows in chosen for curve in _make_curves(rows)),
                majority=read_majority_baseline((majority_baselines or {}).get(panel)),
            )
            found.append(replace(result, baselines=_make_baselines(result, chosen)))
    return found


def _check_same_images(runs: Sequence[Mapping[str, Any]]) -> None:
    """Raise ValueError for runs on different images; older runs without a fingerprint are not checked.

    Raises:
        ValueError: Naming one of each.
    """
    names = {run["images"]: f"{run['panel']}-{run['embedding']}-seed{run['seed']}" for run in runs if run.get("images")}
    if len(names) > 1:
        first, second, *_ = names.values()
        raise ValueError(
            f"{first} and {second} were trained on different images, so their scores cannot be averaged; "
            "run the study again in another --out"
        )


def _make_baselines(result: PanelResult, runs: Sequence[Sequence[Mapping[str, Any]]]) -> tuple[EmbeddingScores, ...]:
    """Return the curves of the baselines with the best embedding at the training size, as far as evaluated."""
    best = next((curve for curve in result.ranked(nearest_size(result)) if curve.variant == (None, None)), None)
    if best is None or result.panel not in PANEL_CLASSES:
        return ()
    chosen = next(rows for rows in runs if (rows[0]["embedding"], describe_training(rows[0])) == (best.embedding, None))
    stored = [stored_baselines(run, PANEL_CLASSES[result.panel].baselines[0]) for run in chosen]
    curves = []
    for mode in PANEL_CLASSES[result.panel].baselines:
        known = [scores.get(mode, {}) for scores in stored]
        sizes = tuple(size for size in result.sizes if all(str(size) in scores for scores in known))
        rows = tuple(tuple(scores[str(size)] for size in sizes) for scores in known)
        label = BASELINE_LABELS[mode].format(size=result.train_size)
        curves += [replace(best, sizes=sizes, scores=rows, baseline=label)] if sizes else []
    return tuple(curves)


def _make_curves(runs: Sequence[Mapping[str, Any]]) -> list[EmbeddingScores]:
    """Return the curves of trainings that differ only in the seed: plain, then one for each RoPE scaling."""
    methods = runs[0].get("scaled", {})  # older results have none
    return [make_curve(runs, method) for method in (None, *methods)]


def make_curve(runs: Sequence[Mapping[str, Any]], scaling: str | None = None) -> EmbeddingScores:
    """Return the curve of trainings that differ only in the seed, with or without RoPE scaling, one row per seed."""
    scores = [run["scores"] if scaling is None else run["scaled"][scaling] for run in runs]
    sizes = tuple(int(size) for size in runs[0]["scores"])
    return EmbeddingScores(
        embedding=runs[0]["embedding"],
        scaling=scaling,
        chosen=describe_choices(runs) if scaling == AUTO else None,
        training=describe_training(runs[0]),
        sizes=sizes,
        scores=tuple(tuple(row[str(size)] for size in sizes) for row in scores),
        parameters=runs[0]["parameters"],
        step_ms=float(np.median([run["step_ms"] for run in runs])),
    )


def format_score(curve: EmbeddingScores, size: int) -> str:
    """Write a score as `71.0 ± 0.7`, or `71.0` with one seed."""
    column = curve.sizes.index(size)
    spread = f" ± {curve.spread[column]:.1f}" if len(curve.scores) > 1 else ""
    return f"{curve.mean[column]:.1f}{spread}"


def overall_summary(results: Sequence[PanelResult]) -> str:
    """Sum a study up in one sentence: how often which embedding has the highest mean, and how often clearly.

    "Sure" means at least three seeds, and every seed of the best above every seed of all others.
    """
    measurements = [(result, size) for result in results for size in result.sizes if result.above_majority(size)]
    at_and_above = [(result, size) for result, size in measurements if size >= result.train_size]
    below = [(result, size) for result, size in measurements if size < result.train_size]
    parts = [f"at the training size and above, {_most_often_best(at_and_above)}"] if at_and_above else []
    if below:
        parts.append(f"below {'it' if parts else 'the training size'}, {_most_often_best(below)}")
    sentence = f"In short: {'; '.join(parts)}"
    seeds = min(len(result.seeds) for result in results)
    hint = "." if seeds >= _MIN_SEEDS else f"; with {seeds} seed{'s' * (seeds > 1)} that is a hint and no proof."
    return sentence + hint


def _most_often_best(measurements: Sequence[tuple[PanelResult, int]]) -> str:
    """Name the embedding that has the highest mean most often among some sizes of some panels."""
    best = Counter(curve.label for result, size in measurements for curve in _tied_best(result, size))
    most = max(best.values())
    first, *others = [name for name, count in best.items() if count == most]
    statistic = max(measurements, key=lambda measurement: len(measurement[0].seeds))[0].statistic
    if others:
        each = f"{', '.join((first, *others[:-1]))} and {others[-1]}"
        return f"{each} have the highest {statistic} in {most} of {len(measurements)} measurements each"
    sentence = f"{first} has the highest {statistic} in {most} of {len(measurements)} measurements"
    if min(len(result.seeds) for result, _ in measurements) < _MIN_SEEDS:
        return sentence
    sure = sum(_clearly_best(result, size) == first for result, size in measurements)
    return f"{sentence}, in {sure or 'none'} of them with every seed above every seed of all others"


def _tied_best(result: PanelResult, size: int) -> list[EmbeddingScores]:
    """List the curves whose mean at a size, as it is shown, is the highest."""
    ranked = result.ranked(size)
    return [
        curve for curve in ranked if format_score(curve, size).split()[0] == format_score(ranked[0], size).split()[0]
    ]


def _clearly_best(result: PanelResult, size: int) -> str | None:
    """Return the embedding that is best at a size for every seed, None if there is none."""
    best, *others = result.ranked(size)
    return best.label if others and all(best.leads(other, size) for other in others) else None


def panel_summary(result: PanelResult) -> str:
    """Return a sentence: the best embedding at the training size and at the largest, and whether the seeds agree.

    They agree if there are at least three, and every seed of the best embedding is above every seed of the next.
    """
    sizes = [size for size in result.sizes if result.above_majority(size)]
    if len(result.ranked(result.sizes[-1])) == 1:
        return f"{result.panel}: only {result.curves[0].label} has scores that count, so there is nothing to compare."
    nearest = min(sizes, key=lambda size: abs(size - result.train_size))
    parts = [_compare_at_size(result, size) for size in dict.fromkeys((nearest, sizes[-1]))]
    return f"{result.panel}: {'; '.join(parts)}{_seed_warning(result)}."


def nearest_size(result: PanelResult) -> int:
    """Find the test size nearest to the training size."""
    return min(result.sizes, key=lambda size: abs(size - result.train_size))


def _compare_at_size(result: PanelResult, size: int) -> str:
    """Name the best embedding at a size, and those that it leads in every seed."""
    best, *others = result.ranked(size)
    where = (
        "at the training size" if size == result.train_size else f"at {size / result.train_size:.3g}x the training size"
    )
    where, best_score = f"{where} ({size} px)", format_score(best, size)
    if not others:
        return f"{where} {join_labels([best], size)} is alone"
    level = _tied_best(result, size)
    if len(level) > 1:
        return f"{where} {join_labels(level, size)} are level at the top"
    sentence = f"{where} {best.label} has the highest {result.statistic}, {best_score}"
    if len(result.seeds) < _MIN_SEEDS:
        return f"{sentence} (next: {others[0].label}, {format_score(others[0], size)})"
    behind = [other for other in others if best.leads(other, size)]
    level = [other for other in others if other not in behind]
    if behind:
        sentence += f", every seed above every seed of {join_labels(behind, size)}"
    if level:
        sentence += f", but not apart from {join_labels(level, size)}"
    return sentence


def join_labels(curves: Sequence[EmbeddingScores], size: int) -> str:
    """List embeddings with their scores: of many, the first few and how many more there are."""
    shown = [
        f"{curve.label} ({format_score(curve, size)})"
        for curve in curves[: len(curves) if len(curves) <= _MAX_LISTED else _MAX_LISTED - 1]
    ]
    if len(curves) > _MAX_LISTED:
        shown.append(f"{len(curves) - len(shown)} others")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def _seed_warning(result: PanelResult) -> str:
    """Return a warning where there are too few seeds for a conclusion."""
    count = len(result.seeds)
    if count >= _MIN_SEEDS:
        return ""
    return f" — with {count} seed{'s' * (count > 1)} small differences may be chance: --seeds 3 measures the spread"


def paper_order_summary(result: PanelResult) -> str:
    """Return whether the paper's order beyond the training size (Mixed >= Axial >= APE) shows at these settings.

    Empty with fewer than three seeds, where the order may be chance.
    """
    order = [name for name in ("rope_mixed", "rope_axial", "ape") if any(c.embedding == name for c in result.curves)]
    larger = [size for size in result.sizes if size > result.train_size and result.above_majority(size)]
    if len(order) < 2 or not larger or len(result.seeds) < _MIN_SEEDS:
        return ""
    by_name = {curve.embedding: curve for curve in result.curves if curve.variant == (None, None)}
    column = {size: result.sizes.index(size) for size in larger}
    means = {size: [by_name[name].mean[column[size]] for name in order] for size in larger}
    held = [size for size in larger if means[size] == sorted(means[size], reverse=True) and len(set(means[size])) > 1]
    wanted = " ≥ ".join(position_label(name) for name in order)
    if len(held) == len(larger):
        return (
            f"{result.panel}: the paper's order beyond the training size ({wanted}) shows in the means at every size."
        )
    if not held:
        return f"{result.panel}: the paper's order beyond the training size ({wanted}) does not show at any size here."
    sizes = ", ".join(str(size) for size in held)
    return (
        f"{result.panel}: the paper's order beyond the training size ({wanted}) shows in the means at {sizes} px only."
    )
