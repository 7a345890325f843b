"""Rows of the results: accuracies of both probes at one size, with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Int
from torch import Tensor

from ropevit.tasks.common.scaling_search import NONE
from ropevit.tasks.probe.intervals import Interval, accuracy_interval, paired_difference

#: The probes, in the order of their results, and what they are called.
PROBES = {"knn": "k-NN", "linear": "linear probe"}
#: Entries of a pass that are copied to its row.
_FACTS = ("size", "scaling", "mode", "tokens", "images_per_second", "penalty", "channels")


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
    images_per_second: float
    """Images per second of the model alone, without reading."""
    channels: int
    """Length of a feature vector."""
    penalty: float
    """Weight of the L2 penalty that was chosen for the linear probe."""
    accuracy: Mapping[str, Interval]
    """Accuracy of each probe in percent."""
    change: Mapping[str, Interval]
    """Difference of each probe to the training size without scaling, on the same images, in points."""
    counts: Int[Tensor, "2 n 2"]
    """Correct and all predictions of each probe and test image."""

    @property
    def label(self) -> str:
        """How the features were computed."""
        return self.mode if self.mode != "whole" else self.scaling

    def cells(self) -> dict[str, Any]:
        """Return the cells of probe.csv."""
        names = ("size", "scaling", "mode", "tokens", "images", "skipped", "images_per_second", "channels", "penalty")
        cells: dict[str, Any] = {name: getattr(self, name) for name in names}
        for probe in PROBES:
            for name, interval in ((probe, self.accuracy[probe]), (f"{probe}_change", self.change[probe])):
                numbers = zip((name, f"{name}_low", f"{name}_high"), interval, strict=True)
                cells |= {key: round(number, 4) for key, number in numbers}
        return cells


def make_rows(passes: Sequence[tuple[Mapping[str, Any], Tensor]], trained_at: int, seed: int) -> list[ProbeRow]:
    """Return the rows of stored passes, by size, baselines last.

    Args:
        passes: Passes of a `PassRecord` with their counts; the one at the training size without scaling is
            the reference.
        trained_at: The training size in pixels.
        seed: Seed of the resamples.
    """
    wanted = (trained_at, NONE, "whole")
    reference = next(
        counts for condition, counts in passes if (condition["size"], condition["scaling"], condition["mode"]) == wanted
    )
    rows = [_make_row(condition, counts, reference, seed) for condition, counts in passes]
    return sorted(rows, key=lambda row: (row.size, row.mode != "whole"))


def _make_row(
    found: Mapping[str, Any], counts: Int[Tensor, "2 n 2"], reference: Int[Tensor, "2 n 2"], seed: int
) -> ProbeRow:
    """Return the row of a pass."""
    read = int(counts[0, :, 1].sum())
    both = list(zip(PROBES, reference, counts, strict=True))
    return ProbeRow(
        **{name: found[name] for name in _FACTS},
        images=read,
        skipped=counts.shape[1] - read,
        accuracy={probe: accuracy_interval(after) for probe, _, after in both},
        change={probe: paired_difference(before, after, seed) for probe, before, after in both},
        counts=counts,
    )


def conclude(rows: Sequence[ProbeRow], trained_at: int, seed: int) -> list[str]:
    """Return a sentence for each probe: its accuracy at the training size, and the highest at each other size."""
    sentences = []
    reference = next(row for row in rows if row.size == trained_at and row.mode == "whole")
    for probe, name in PROBES.items():
        score = reference.accuracy[probe]
        parts = [
            f"{name}: {score.value:.1f} % ({score.low:.1f} to {score.high:.1f}) at the training size, {trained_at} px"
        ]
        for size in sorted({row.size for row in rows} - {trained_at}):
            parts.append(_compare_at(size, [row for row in rows if row.size == size], probe, seed))
        sentences.append("; ".join(parts) + ".")
    return sentences


def _compare_at(size: int, rows: Sequence[ProbeRow], probe: str, seed: int) -> str:
    """Name the best condition at a size, its difference to the training size, and to resizing."""
    best = max(rows, key=lambda row: row.accuracy[probe].value)
    change = best.change[probe]
    told = f"at {size} px the highest is {best.accuracy[probe].value:.1f} %, {describe(best)}: "
    told += f"{change.signed} points against the training size{'' if change.is_shown else ' (no difference is shown)'}"
    resized = next((row for row in rows if row.mode == "resize"), None)
    if resized is None or resized is best:
        return told
    place = list(PROBES).index(probe)
    gain = paired_difference(resized.counts[place], best.counts[place], seed)
    return f"{told}, {gain.signed} against images resized to it"


def describe(row: ProbeRow) -> str:
    """Describe how the features of a row were computed."""
    if row.mode == "tiles":
        return "in tiles of the training size"
    if row.mode == "resize":
        return "resized to the training size"
    return "whole without scaling" if row.scaling == NONE else f"whole with scaling {row.scaling}"
