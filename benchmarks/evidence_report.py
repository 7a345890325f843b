"""Tables and tests of `evidence.py`, from the committed results.

    python benchmarks/evidence_report.py                                        # print everything
    python benchmarks/evidence_report.py --results runs/other.jsonl             # from another file

The tests follow the plan in `evidence.py`, which was committed before the first training. A test is printed as open
until every training that it needs exists for every seed.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from evidence import CORE, GROUPS, RESULTS, ROTATIONS, SCALING, SEEDS, SIZES, read
from pooled import table
from scipy import stats

BIASES = ("alibi_learned", "rope_mixed_decay", "rope_mixed_gaussian")
LEVEL = 0.05


class Curve(NamedTuple):
    """An arm on a panel, evaluated in one inference mode or with one scaling method."""

    panel: str
    arm: str
    mode: str = "whole"

    def __str__(self) -> str:
        return self.arm if self.mode == "whole" else f"{self.arm}, {self.mode}"


#: Curve -> test size -> seed -> score in percent.
Scores = Mapping[Curve, Mapping[int, Mapping[int, float]]]


class Difference(NamedTuple):
    """A part of a hypothesis: one curve above another at a test size."""

    above: Curve
    below: Curve
    size: int
    values: tuple[float, ...]
    """Differences in points, by seed."""
    candidates: int = 1
    """From how many curves `above` was chosen."""

    @property
    def p(self) -> float:
        """Two-sided p of Student's t test, corrected for the candidates; 1 where the mean is not above 0."""
        if np.mean(self.values) <= 0:
            return 1.0
        return min(1.0, self.candidates * float(stats.ttest_1samp(self.values, 0.0).pvalue))

    def __str__(self) -> str:
        mean, half = interval(self.values)
        low, high = bootstrap(self.values)
        return (
            f"{self.above.panel} at {self.size} px: {self.above} over {self.below} {mean:+.1f} ± {half:.1f} "
            f"(bootstrap {low:+.1f} to {high:+.1f}), p = {self.p:.2g}"
        )


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and half of its 95 % interval by Student's t."""
    return float(np.mean(values)), float(stats.sem(values) * stats.t.ppf(0.975, len(values) - 1))


def bootstrap(values: Sequence[float], rounds: int = 10_000) -> tuple[float, float]:
    """Return the 95 % percentile interval of the mean over resampled seeds."""
    picks = np.random.default_rng(0).integers(len(values), size=(rounds, len(values)))
    low, high = np.percentile(np.asarray(values)[picks].mean(1), [2.5, 97.5])
    return float(low), float(high)


def gather(lines: Sequence[Mapping[str, Any]], rerun: str = "") -> Scores:
    """Arrange the lines of the results by curve, size and seed."""
    found: dict[Curve, dict[int, dict[int, float]]] = {}
    for line in lines:
        if line["rerun"] == rerun:
            for mode, scores in line["scores"].items():
                for size, score in scores.items():
                    at = found.setdefault(Curve(line["panel"], line["arm"], mode), {}).setdefault(int(size), {})
                    at[line["seed"]] = score
    return found


def difference(scores: Scores, above: Curve, below: Curve, size: int, candidates: int = 1) -> Difference:
    """Compare two curves at a size, seed by seed."""
    first, second = scores[above][size], scores[below][size]
    values = tuple(first[seed] - second[seed] for seed in sorted(first.keys() & second.keys()))
    return Difference(above, below, size, values, candidates)


def best(scores: Scores, curves: Sequence[Curve], size: int) -> Curve:
    """Return the curve with the highest mean at a size."""
    return max(curves, key=lambda curve: float(np.mean(list(scores[curve][size].values()))))


def rotations(panel: str) -> list[Curve]:
    """Return the rotations that were trained at one size, with every scaling method."""
    return [Curve(panel, name, mode) for name in ROTATIONS for mode in ("whole", *SCALING[panel])]


def hypothesis_1(scores: Scores) -> list[Difference]:
    """RoPE-Mixed above RoPE-Axial in `field`, at 2x and 3x."""
    mixed, axial = Curve("field", "rope_mixed"), Curve("field", "rope_axial")
    return [difference(scores, mixed, axial, size) for size in SIZES["field"][1:3]]


def hypothesis_2(scores: Scores) -> list[Difference]:
    """The best distance bias above the best rotation with a scaling method at 4x, in `field` and `far`."""
    found = []
    for panel in ("field", "far"):
        size = SIZES[panel][3]
        above = best(scores, [Curve(panel, name) for name in BIASES], size)
        found.append(difference(scores, above, best(scores, rotations(panel), size), size, candidates=len(BIASES)))
    return found


def hypothesis_3(scores: Scores) -> list[Difference]:
    """Random training sizes above one size with the best scaling method at 3x, in all panels."""
    found = []
    for panel in ("field", "far", "zoom"):
        size = SIZES[panel][2]
        above = best(scores, [Curve(panel, f"{name} sizes") for name in ROTATIONS], size)
        found.append(difference(scores, above, best(scores, rotations(panel), size), size, candidates=len(ROTATIONS)))
    return found


def hypothesis_4(scores: Scores) -> list[Difference]:
    """`rope_spiral` above RoPE-Mixed at 3x in `field`, upright and on transposed canvases."""
    size = SIZES["field"][2]
    pairs = [(Curve("field", f"rope_spiral{how}"), Curve("field", f"rope_mixed{how}")) for how in ("", " transposed")]
    return [difference(scores, above, below, size) for above, below in pairs]


HYPOTHESES: dict[str, Callable[[Scores], list[Difference]]] = {
    "H1": hypothesis_1,
    "H2": hypothesis_2,
    "H3": hypothesis_3,
    "H4": hypothesis_4,
}


def holm(values: Mapping[str, float]) -> dict[str, bool]:
    """Return which hypotheses hold by Holm's procedure: the k-th smallest p is compared with 0.05 / (n - k + 1)."""
    held, going = {}, True
    for rank, name in enumerate(sorted(values, key=lambda name: values[name])):
        going = going and values[name] <= LEVEL / (len(values) - rank)
        held[name] = going
    return held


def complete(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the arms of the hypotheses that lack a seed."""
    done = {(line["panel"], line["arm"], line["seed"]) for line in lines if not line["rerun"]}
    wanted = {(name, arm) for arm in CORE for name in SIZES if name == "field" or arm.training != "transposed"}
    return sorted(
        {f"{name} {arm}" for name, arm in wanted if any((name, str(arm), seed) not in done for seed in SEEDS)}
    )


def tests(lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Print each hypothesis, its parts, and whether it holds."""
    missing = complete(lines)
    if missing:
        yield f"The tests are open: {len(missing)} of the arms that they need lack seeds, such as {missing[0]}."
        return
    scores = gather(lines)
    parts = {name: test(scores) for name, test in HYPOTHESES.items()}
    held = holm({name: max(part.p for part in found) for name, found in parts.items()})
    for name, found in parts.items():
        yield f"{name} {'holds' if held[name] else 'is not shown'} (p = {max(part.p for part in found):.2g}):"
        yield from (f"- {part}" for part in found)


def score_table(scores: Scores, panel: str) -> list[str]:
    """Return a table of means ± standard deviations, the best whole-image score of a size in bold."""
    order = [str(arm) for arm in GROUPS["all"]]
    curves = sorted((curve for curve in scores if curve.panel == panel), key=lambda curve: order.index(curve.arm))
    rows = []
    for curve in curves:
        cells = [cell(list(scores[curve].get(size, {}).values())) for size in SIZES[panel]]
        rows.append([str(curve), str(max(len(seeds) for seeds in scores[curve].values())), *cells])
    return table([f"{panel}: arm", "seeds", *map(str, SIZES[panel])], rows)


def cell(values: Sequence[float]) -> str:
    """Write the mean ± standard deviation of scores; empty without any."""
    if not values:
        return ""
    return f"{np.mean(values):.1f}" + (f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else "")


def noise(lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Print how far a rerun of the same seed ends from the first training."""
    first = gather(lines)
    for how in sorted({line["rerun"] for line in lines} - {""}):
        again = gather(lines, how)
        for panel in SIZES:
            for column, size in enumerate(SIZES[panel]):
                pairs = [(again[c][size], first[c][size]) for c in again if c in first and c[::2] == (panel, "whole")]
                moved = [abs(new[seed] - old[seed]) for new, old in pairs for seed in new.keys() & old.keys()]
                if moved:
                    spread = f"{np.mean(moved):.2f} points on average, at most {max(moved):.2f}"
                    yield f"{panel} at {column + 1}x, {how}: {spread}"


def main() -> None:
    """Print tables, tests and the noise of a rerun."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    lines = read(parser.parse_args().results)
    if not lines:
        parser.error(f"got no results in {parser.parse_args().results}; make some with benchmarks/evidence.py")
    scores = gather(lines)
    for panel in SIZES:
        print("\n".join(score_table(scores, panel)), end="\n\n")
    print("\n".join([*tests(lines), "", *noise(lines)]))


if __name__ == "__main__":
    main()
