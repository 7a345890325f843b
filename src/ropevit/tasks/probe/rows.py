"""Rows of the results: scores of the probes at one size, with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ropevit.tasks.evaluation.scaling_search import NONE
from ropevit.tasks.probe.bootstrap import FEW_IMAGES, majority_iou
from ropevit.tasks.probe.intervals import Interval
from ropevit.tasks.probe.kinds import ProbeKind
from ropevit.tasks.probe.linear import ITERATIONS, PENALTIES
from ropevit.text import printable

#: Entries of a pass that are copied to its row, with their types.
FACTS: dict[str, type | tuple[type, ...]] = {
    **{"size": int, "scaling": str, "mode": str, "tokens": int, "images_per_second": (int, float), "channels": int},
    **{"penalty": (int, float), "iterations": int, "converged": bool, "train_images": int, "train_skipped": int},
}


@dataclass(frozen=True, kw_only=True)
class ProbeRow:
    """Results of the probes with the features of one size, scaling method and inference mode."""

    kind: ProbeKind
    """What the probes measure."""
    size: int
    """Side of the images in pixels."""
    scaling: str
    """RoPE scaling methods, or none."""
    mode: str
    """Whole, in tiles of the training size, or resized to it."""
    tokens: int
    """Patch tokens of an image, on average if images have different ones."""
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
    scores: Mapping[str, Interval]
    """Score of each probe in percent."""
    change: Mapping[str, Interval]
    """Difference of each probe to the reference, on the same images, in points."""
    is_reference: bool
    """Whether it is the model as it is, at its training size."""
    counts: Tensor
    """Counts (M, n, ...) of the M probes and the test images; see `ProbeKind`."""
    facts: Mapping[str, Any]
    """Further facts of its kind, such as the number of training patches."""

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
        cells |= {name: self.facts[name] for name in self.facts if name not in cells}
        for probe in self.kind.probes:
            for name, interval in ((probe, self.scores[probe]), (f"{probe}_change", self.change[probe])):
                numbers = zip((name, f"{name}_low", f"{name}_high"), interval, strict=True)
                cells |= {key: round(number, 4) for key, number in numbers}
        return cells


def make_rows(
    kind: ProbeKind, passes: Sequence[tuple[Mapping[str, Any], Tensor]], reference: Mapping[str, Any]
) -> list[ProbeRow]:
    """Return the rows of stored passes, by size, baselines last.

    Args:
        kind: What the probes measure.
        passes: Passes of a `PassRecord` with their counts.
        reference: Size, scaling and mode of the pass to which the others are compared.
    """

    def matches(found: Mapping[str, Any]) -> bool:
        return all(found[name] == value for name, value in reference.items())

    before = next(counts for found, counts in passes if matches(found))
    rows = [_make_row(kind, (found, counts), before, matches(found)) for found, counts in passes]
    return sorted(rows, key=lambda row: (row.size, row.mode != "whole"))


def _make_row(
    kind: ProbeKind, stored: tuple[Mapping[str, Any], Tensor], reference: Tensor, is_reference: bool
) -> ProbeRow:
    """Return the row of a pass with its counts."""
    found, counts = stored
    unread = int((counts[0].flatten(1).sum(1) == 0).sum())
    skipped = found.get("skipped", unread)  # an image whose pixels have no label was read
    both = list(zip(kind.probes, reference, counts, strict=True))
    return ProbeRow(
        **{name: found[name] for name in FACTS},
        kind=kind,
        images=counts.shape[1] - skipped,
        skipped=skipped,
        scores={probe: kind.interval(after) for probe, _, after in both},
        change={probe: kind.difference(before, after) for probe, before, after in both},
        is_reference=is_reference,
        counts=counts,
        facts={name: found[name] for name in kind.facts},
    )


def conclude(rows: Sequence[ProbeRow], classes: Sequence[str]) -> list[str]:
    """Return a sentence for each probe: its score at the training size, and the highest at each other size.

    Args:
        rows: Rows of the results.
        classes: Names of the classes; with masks, a further sentence gives the score of the most frequent one.
    """
    sentences = []
    reference = next(row for row in rows if row.is_reference)
    for probe, name in reference.kind.probes.items():
        score = reference.scores[probe]
        interval = f"({score.low:.1f} to {score.high:.1f})"
        parts = [f"{name}: {score.value:.1f} % {interval} at the training size, {reference.size} px"]
        for size in sorted({row.size for row in rows} - {reference.size}):
            parts.append(_compare_at([row for row in rows if row.size == size], probe))
        sentences.append("; ".join(parts) + ".")
    if (found := majority(reference)) is not None:
        label, score = found
        sentences.append(f"A model that learned nothing, every pixel {printable(classes[label])}: {score:.1f} %.")
    return sentences


def majority(reference: ProbeRow) -> tuple[int, float] | None:
    """Return the most frequent class in training, and the mean IoU in percent of every pixel of it; None for images."""
    label = reference.facts.get("majority")
    return None if label is None else (label, majority_iou(reference.counts[0], label))


def _compare_at(rows: Sequence[ProbeRow], probe: str) -> str:
    """Name the best condition at a size, its difference to the training size, and to resizing."""
    best = max(rows, key=lambda row: row.scores[probe].value)
    change = best.change[probe]
    of_many = f" the best of {len(rows)}, chosen on these images, is" if len(rows) > 1 else ""
    sentence = f"at {best.size} px{of_many} {best.scores[probe].value:.1f} %, {describe(best)}: "
    sentence += f"{change.signed} points against the training size{_doubt(change)}"
    resized = next((row for row in rows if row.mode == "resize"), None)
    if resized is None or resized is best:
        return sentence
    place = list(best.kind.probes).index(probe)
    gain = best.kind.difference(resized.counts[place], best.counts[place])
    return f"{sentence}, {gain.signed} against images resized to it{_doubt(gain)}"


def _doubt(change: Interval) -> str:
    """Say so where no difference is shown."""
    return "" if change.is_shown else " (no difference is shown)"


def remark(rows: Sequence[ProbeRow]) -> list[str]:
    """Return remarks on penalties at an end of the grid, fits that did not converge, and few images."""
    remarks = []
    for end, word in ((PENALTIES[0], "strongest"), (PENALTIES[-1], "weakest")):
        if count := sum(row.penalty == end for row in rows):
            remarks.append(
                f"linear probe: the chosen penalty is the {word} of the grid, {end:g}, in {count} of {len(rows)} rows; "
                f"one beyond it may be better"
            )
    if count := sum(not row.converged for row in rows):
        remarks.append(f"linear probe: {count} of {len(rows)} fits had not converged after {ITERATIONS:,} iterations")
    if (images := min(row.images for row in rows)) < FEW_IMAGES and rows[0].kind.name == "patch":
        remarks.append(
            f"intervals: those of the bootstrap over only {images} test images are too narrow; {FEW_IMAGES} or more "
            "are better"
        )
    return remarks


def describe(row: ProbeRow) -> str:
    """Describe how the features of a row were computed."""
    if row.mode == "tiles":
        return "in tiles of the training size"
    if row.mode == "resize":
        return "resized to the training size"
    return "whole without scaling" if row.scaling == NONE else f"whole with scaling {row.scaling}"
