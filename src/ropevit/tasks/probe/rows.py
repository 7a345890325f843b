"""Rows of the results: accuracies of both probes at one size, with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Int
from torch import Tensor

from ropevit.tasks.evaluation.scaling_search import NONE
from ropevit.tasks.probe.intervals import Interval, accuracy_difference, accuracy_interval
from ropevit.tasks.probe.linear import ITERATIONS, PENALTIES

#: The probes, in the order of their results, and what they are called.
PROBES = {"knn": "k-NN", "linear": "linear probe"}
#: Entries of a pass that are copied to its row, with their types.
FACTS: dict[str, type | tuple[type, ...]] = {
    **{"size": int, "scaling": str, "mode": str, "tokens": int, "images_per_second": (int, float), "channels": int},
    **{"penalty": (int, float), "iterations": int, "converged": bool, "train_images": int, "train_skipped": int},
}


@dataclass(frozen=True, kw_only=True)
class ProbeRow:
    """Results of both probes with the features of one size, scaling method and inference mode."""

    size: int
    """Side of the images in pixels."""
    scaling: str
    """RoPE scaling methods, or none."""
    mode: str
    """Whole, in tiles of the training size, or resized to it."""
    tokens: int
    """Patch tokens of an image."""
    images: int
    """Test images that could be read."""
    skipped: int
    """Test images that could not be read."""
    train_images: int
    """Training images that could be read."""
    train_skipped: int
    """Training images that could not be read."""
    images_per_second: float
    """Images per second from bytes to features, without reading files."""
    channels: int
    """Length of a feature vector."""
    penalty: float
    """Weight of the L2 penalty that was chosen for the linear probe."""
    iterations: int
    """Iterations of its last fit."""
    converged: bool
    """Whether that converged."""
    accuracy: Mapping[str, Interval]
    """Accuracy of each probe in percent."""
    change: Mapping[str, Interval]
    """Difference of each probe to the reference, on the same images, in points."""
    is_reference: bool
    """Whether it is the model as it is, at its training size."""
    counts: Int[Tensor, "2 n 2"]
    """Correct and all predictions of each probe and test image."""

    @property
    def label(self) -> str:
        """Scaling method and inference mode of the features."""
        whole = "whole, no scaling" if self.scaling == NONE else self.scaling
        return whole if self.mode == "whole" else self.mode

    def cells(self) -> dict[str, Any]:
        """Return the cells of probe.csv."""
        names = ("size", "scaling", "mode", "tokens", "images", "skipped", "train_images", "train_skipped")
        names += ("images_per_second", "channels", "penalty", "iterations", "converged")
        cells: dict[str, Any] = {name: getattr(self, name) for name in names}
        for probe in PROBES:
            for name, interval in ((probe, self.accuracy[probe]), (f"{probe}_change", self.change[probe])):
                numbers = zip((name, f"{name}_low", f"{name}_high"), interval, strict=True)
                cells |= {key: round(number, 4) for key, number in numbers}
        return cells


def make_rows(passes: Sequence[tuple[Mapping[str, Any], Tensor]], reference: Mapping[str, Any]) -> list[ProbeRow]:
    """Return the rows of stored passes, by size, baselines last.

    Args:
        passes: Passes of a `PassRecord` with their counts.
        reference: Size, scaling and mode of the pass to which the others are compared.
    """

    def matches(found: Mapping[str, Any]) -> bool:
        return all(found[name] == value for name, value in reference.items())

    before = next(counts for found, counts in passes if matches(found))
    rows = [_make_row(found, counts, before, matches(found)) for found, counts in passes]
    return sorted(rows, key=lambda row: (row.size, row.mode != "whole"))


def _make_row(
    found: Mapping[str, Any], counts: Int[Tensor, "2 n 2"], reference: Int[Tensor, "2 n 2"], is_reference: bool
) -> ProbeRow:
    """Return the row of a pass."""
    read = int(counts[0, :, 1].sum())
    both = list(zip(PROBES, reference, counts, strict=True))
    return ProbeRow(
        **{name: found[name] for name in FACTS},
        images=read,
        skipped=counts.shape[1] - read,
        accuracy={probe: accuracy_interval(after) for probe, _, after in both},
        change={probe: accuracy_difference(before, after) for probe, before, after in both},
        is_reference=is_reference,
        counts=counts,
    )


def conclude(rows: Sequence[ProbeRow]) -> list[str]:
    """Return a sentence for each probe: its accuracy at the training size, and the highest at each other size."""
    sentences = []
    reference = next(row for row in rows if row.is_reference)
    for probe, name in PROBES.items():
        score = reference.accuracy[probe]
        interval = f"({score.low:.1f} to {score.high:.1f})"
        parts = [f"{name}: {score.value:.1f} % {interval} at the training size, {reference.size} px"]
        for size in sorted({row.size for row in rows} - {reference.size}):
            parts.append(_compare_at([row for row in rows if row.size == size], probe))
        sentences.append("; ".join(parts) + ".")
    return sentences


def _compare_at(rows: Sequence[ProbeRow], probe: str) -> str:
    """Name the best condition at a size, its difference to the training size, and to resizing."""
    best = max(rows, key=lambda row: row.accuracy[probe].value)
    change = best.change[probe]
    of_many = f" the best of {len(rows)}, chosen on these images, is" if len(rows) > 1 else ""
    told = f"at {best.size} px{of_many} {best.accuracy[probe].value:.1f} %, {describe(best)}: "
    told += f"{change.signed} points against the training size{_doubt(change)}"
    resized = next((row for row in rows if row.mode == "resize"), None)
    if resized is None or resized is best:
        return told
    place = list(PROBES).index(probe)
    gain = accuracy_difference(resized.counts[place], best.counts[place])
    return f"{told}, {gain.signed} against images resized to it{_doubt(gain)}"


def _doubt(change: Interval) -> str:
    """Say so where no difference is shown."""
    return "" if change.is_shown else " (no difference is shown)"


def remark_on_fits(rows: Sequence[ProbeRow]) -> list[str]:
    """Return remarks on linear probes whose penalty is at an end of the grid, or that did not converge."""
    remarks = []
    for end, word in ((PENALTIES[0], "strongest"), (PENALTIES[-1], "weakest")):
        if count := sum(row.penalty == end for row in rows):
            remarks.append(
                f"linear probe: the chosen penalty is the {word} of the grid, {end:g}, in {count} of {len(rows)} rows; "
                f"one beyond it may be better"
            )
    if count := sum(not row.converged for row in rows):
        remarks.append(f"linear probe: {count} of {len(rows)} fits had not converged after {ITERATIONS:,} iterations")
    return remarks


def describe(row: ProbeRow) -> str:
    """Describe how the features of a row were computed."""
    if row.mode == "tiles":
        return "in tiles of the training size"
    if row.mode == "resize":
        return "resized to the training size"
    return "whole without scaling" if row.scaling == NONE else f"whole with scaling {row.scaling}"
