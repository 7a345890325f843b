"""Tables and tests of `evidence.py`, from the committed results.

    python benchmarks/evidence_report.py                                # print everything
    python benchmarks/evidence_report.py --results runs/other.jsonl     # from another file
    python benchmarks/evidence_report.py --update docs/evidence.md      # also replace the tables of a page

The tests follow the plan in `evidence.py`, which was committed before the first training. They are open until every
training that they need exists for every seed. All other differences are exploratory.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from evidence import (
    BIASES,
    FLOOR,
    GROUPS,
    RANDOM_SIZES,
    RESULTS,
    ROTATIONS,
    SCALED_ARMS,
    SCALING,
    SEEDS,
    SIZES,
    TESTED,
    WITH_SCALING,
    read,
)
from pooled import table
from scipy import stats

#: Modes that are not scaling methods.
MODE_TEXT = {"tiles": "in tiles", "resize": "resized"}
#: The baseline of a panel in which larger images do not need the whole image at full size.
BASELINES = {"field": "tiles", "zoom": "resize"}
#: How RoPE-Mixed is evaluated above the training size, where nothing is trained again: the reference of differences.
REFERENCES = {"field": "tiles", "zoom": "resize", "far": SCALING["far"][-1]}
LEVEL = 0.05
#: Seeds of H5: one was known when it was written down.
SEEDS_OF_5 = SEEDS[1:]
#: Pairs of arms, and what differs between them: exploratory. Chosen for `field`, when H1 and H4 were known; the last
#: three, and `zoom` and `far`, when their scores were.
PAIRS = (
    ("learning and directions, base 10", "rope_mixed", "rope_axial:theta=10"),
    ("learning and directions, base 100", "rope_mixed:theta=100", "rope_axial"),
    ("base, axial", "rope_axial:theta=10", "rope_axial"),
    ("base, mixed", "rope_mixed", "rope_mixed:theta=100"),
    ("directions and number of magnitudes", "rope_star", "rope_axial"),
    ("the same, base and learning", "rope_star", "rope_mixed"),
    ("more directions, coupled with magnitude", "rope_spiral", "rope_star"),
    ("the same, uncoupled", "rope_simplex", "rope_star"),
    ("the same, coupled in another order", "rope_golden", "rope_star"),
    ("jitter", "rope_axial jitter", "rope_axial"),
    ("jitter", "rope_mixed jitter", "rope_mixed"),
    ("jitter or sizes", "rope_axial jitter", "rope_axial sizes"),
    ("jitter or sizes", "rope_mixed jitter", "rope_mixed sizes"),
    ("random sizes", "rope_mixed_decay sizes", "rope_mixed_decay"),
    ("number of directions, coupled with magnitude", "rope_spiral", "rope_axial"),
    ("the same, base and learning", "rope_spiral", "rope_mixed"),
    ("base, over learning and directions", "rope_axial:theta=10", "rope_mixed:theta=100"),
)
#: What the difference of H1 is made of: its two parts, each averaged over the order in which they are changed.
AVERAGED = {
    "base": (PAIRS[2][1:], PAIRS[3][1:]),
    "learning and directions": (PAIRS[0][1:], PAIRS[1][1:]),
}


class Curve(NamedTuple):
    """An arm on a panel, evaluated in one inference mode or with one scaling method."""

    panel: str
    arm: str
    mode: str = "whole"

    def __str__(self) -> str:
        return (
            f"`{self.arm}`" if self.mode == "whole" else f"`{self.arm}`, {MODE_TEXT.get(self.mode, f'`{self.mode}`')}"
        )


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
    def raw_p(self) -> float:
        """Two-sided p of Student's t test."""
        return float(stats.ttest_1samp(self.values, 0.0).pvalue)

    @property
    def p(self) -> float:
        """Two-sided p, corrected for the candidates; 1 where the mean is not above 0."""
        return min(1.0, self.candidates * self.raw_p) if np.mean(self.values) > 0 else 1.0

    @property
    def is_reversed(self) -> bool:
        """Whether the difference is below 0 by more than chance: the opposite of what was to be shown."""
        return bool(np.mean(self.values) < 0 and self.raw_p < LEVEL)

    def cells(self) -> list[str]:
        """Return what is compared, its difference with both intervals, and both p, for a table."""
        low, high = bootstrap(self.values)
        mean, half = interval(self.values)
        compared = f"`{self.above.panel}` at {self.size} px: {self.above} over {self.below}"
        difference = f"{mean:+.1f} ± {half:.1f}"
        return [compared, difference, f"{low:+.1f} to {high:+.1f}", f"{self.raw_p:.2g}", f"{self.p:.2g}"]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and half of its 95 % interval by Student's t."""
    return float(np.mean(values)), float(stats.sem(values) * stats.t.ppf(0.975, len(values) - 1))


def bootstrap(values: Sequence[float], rounds: int = 10_000) -> tuple[float, float]:
    """Return the 95 % percentile interval of the mean over resampled seeds."""
    picks = np.random.default_rng(0).integers(len(values), size=(rounds, len(values)))
    low, high = np.percentile(np.asarray(values)[picks].mean(1), [2.5, 97.5])
    return float(low), float(high)


def gather(lines: Sequence[Mapping[str, Any]], rerun: str = "") -> Scores:
    """Arrange the lines of the results by curve, size and seed.

    Raises:
        ValueError: If a training is there twice.
    """
    found: dict[Curve, dict[int, dict[int, float]]] = {}
    for line in lines:
        if line["rerun"] == rerun:
            for mode, scores in line["scores"].items():
                for size, score in scores.items():
                    at = found.setdefault(Curve(line["panel"], line["arm"], mode), {}).setdefault(int(size), {})
                    if line["seed"] in at:
                        raise ValueError(f"got two lines of {line['panel']} {line['arm']} seed {line['seed']}")
                    at[line["seed"]] = score
    return found


def gather_scaled(lines: Sequence[Mapping[str, Any]]) -> Scores:
    """Arrange the lines as `gather`, with the curves that were evaluated with scaling when they were trained again."""
    return {**gather(lines, WITH_SCALING), **gather(lines)}


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
        above = best(scores, [Curve(panel, name) for name in RANDOM_SIZES], size)
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


def holm_thresholds(values: Mapping[str, float]) -> dict[str, float]:
    """Return the threshold of each p: 0.05 / (n - k + 1) for the k-th smallest of n."""
    order = sorted(values, key=lambda name: values[name])
    return {name: LEVEL / (len(values) - rank) for rank, name in enumerate(order)}


def holm(values: Mapping[str, float]) -> dict[str, bool]:
    """Return which hypotheses hold by Holm's procedure: all up to the first p above its threshold."""
    held, going = {}, True
    for name, threshold in holm_thresholds(values).items():
        going = going and values[name] <= threshold
        held[name] = going
    return held


def complete(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the arms that the tests need and that lack a seed."""
    done = {(line["panel"], line["arm"], line["seed"]) for line in lines if not line["rerun"]}
    return [
        f"{panel} {arm}"
        for panel, arms in TESTED.items()
        for arm in arms
        if any((panel, arm, seed) not in done for seed in SEEDS)
    ]


def test_table(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the table of the hypotheses: each part, and whether all of them hold."""
    head = ["hypothesis", "verdict", "part", "difference", "bootstrap", "p", "corrected p", "threshold"]
    missing = complete(lines)
    if missing:
        said = f"{len(missing)} of the arms that the tests need lack seeds, such as {missing[0]}"
        return table(head, [["all", "open", said, *[""] * 5]])
    scores = gather(lines)
    parts = {name: test(scores) for name, test in HYPOTHESES.items()}
    largest = {name: max(part.p for part in found) for name, found in parts.items()}
    thresholds = holm_thresholds(largest)
    held = holm(largest)
    rows = []
    for name, found in parts.items():
        void = name == "H4" and np.mean(found[0].values) <= 0  # nothing leads on upright canvases
        verdict = "holds" if held[name] else "void" if void else "not shown"
        for part in found:
            first = [name, verdict] if part is found[0] else ["", ""]
            last = f"{thresholds[name]:.2g}" if part is found[0] else ""
            rows.append([first[0], first[1] or ("reversed" if part.is_reversed else ""), *part.cells(), last])
            if part is found[0] and part.is_reversed:
                rows[-1][1] += ", reversed"
    return table(head, rows)


def is_whole(scores: Scores, curve: Curve) -> bool:
    """Return whether a curve has every seed of the plan."""
    return curve in scores and all(set(seeds) == set(SEEDS) for seeds in scores[curve].values())


def curves_of(scores: Scores, panel: str, *, whole: bool = True) -> list[Curve]:
    """Return the curves of a panel that have every seed (or, with whole=False, do not), in the order of the plan."""
    order = [FLOOR, *(str(arm) for arm in GROUPS["all"])]
    found = [curve for curve in scores if curve.panel == panel and is_whole(scores, curve) is whole]
    return sorted(found, key=lambda curve: order.index(curve.arm))


def score_table(scores: Scores, panel: str) -> list[str]:
    """Return the table of scores: mean (standard deviation over the seeds)."""
    rows = [
        [str(curve), *(score_cell(list(scores[curve].get(size, {}).values())) for size in SIZES[panel])]
        for curve in curves_of(scores, panel)
    ]
    return table([f"{panel}: arm", *map(str, SIZES[panel])], rows)


def difference_table(scores: Scores, panel: str, *, whole: bool = True) -> list[str]:
    """Return the table of differences from `REFERENCES` at the same test size: mean and 95 % interval.

    Args:
        scores: All scores.
        panel: A panel.
        whole: Whether of the arms that have every seed, or of those that do not.
    """
    mode = REFERENCES[panel]
    rows = []
    for curve in curves_of(scores, panel, whole=whole):
        if curve.arm == FLOOR or "transposed" in curve.arm or (curve.mode in MODE_TEXT and curve.arm != "rope_mixed"):
            continue
        below = [Curve(panel, "rope_mixed", "whole" if size == SIZES[panel][0] else mode) for size in SIZES[panel]]
        if curve not in below[1:]:
            cells = [compare(scores, curve, other, size) for other, size in zip(below, SIZES[panel], strict=True)]
            rows.append([str(curve), *([] if whole else [count_seeds(scores, curve)]), *cells])
    more = [] if whole else ["seeds"]
    title = f"{panel}{'' if whole else ', fewer seeds'}: over {Curve(panel, 'rope_mixed', mode)}"
    return table([title, *more, *map(str, SIZES[panel])], rows)


def count_seeds(scores: Scores, curve: Curve) -> str:
    """Return how many seeds a curve has."""
    return str(min(len(seeds) for seeds in scores[curve].values()))


def baseline_table(scores: Scores, panel: str) -> list[str]:
    """Return the table of differences from the same weights in tiles, or resized, of the training size."""
    mode = BASELINES[panel]
    rows = []
    for curve in curves_of(scores, panel):
        baseline = Curve(panel, curve.arm, mode)
        if baseline in scores and curve.mode not in MODE_TEXT:
            rows.append([str(curve), *(compare(scores, curve, baseline, size) for size in SIZES[panel][1:])])
    return table([f"{panel}: over itself {MODE_TEXT[mode]}", *map(str, SIZES[panel][1:])], rows)


def kept_table(scores: Scores, panel: str) -> list[str]:
    """Return the table of what is left of the score at the training size: differences of the same weights."""
    first = SIZES[panel][0]
    rows = []
    for curve in (curve for curve in curves_of(scores, panel) if curve.mode not in MODE_TEXT and curve.arm != FLOOR):
        own = {size: scores[Curve(panel, curve.arm)][first] for size in SIZES[panel][1:]}
        at_first = {**scores, curve._replace(mode="first"): own}
        cells = [compare(at_first, curve, curve._replace(mode="first"), size) for size in own]
        rows.append([str(curve), *cells])
    return table([f"{panel}: over its own score at {first}", *map(str, SIZES[panel][1:])], rows)


def pair_table(scores: Scores, panel: str) -> list[str]:
    """Return the table of arms that differ in one thing: mean and 95 % interval, without scaling; [] without any."""
    rows = []
    for what, above, below in PAIRS:
        curves = Curve(panel, above), Curve(panel, below)
        if all(is_whole(scores, curve) for curve in curves):
            cells = [compare(scores, *curves, size) for size in SIZES[panel]]
            rows.append([what, f"{curves[0]} over {curves[1]}", *cells])
    for what, pairs in AVERAGED.items():
        curves = [Curve(panel, arm) for pair in pairs for arm in pair]
        if all(is_whole(scores, curve) for curve in curves):
            cells = [average_cell(scores, panel, pairs, size) for size in SIZES[panel]]
            rows.append([f"{what}, averaged over both orders", "the two pairs above", *cells])
    return table([f"{panel}: what differs", "arms", *map(str, SIZES[panel])], rows) if rows else []


def average_cell(scores: Scores, panel: str, pairs: Sequence[tuple[str, str]], size: int) -> str:
    """Return the cell of the mean of several differences, seed by seed."""
    parts = [difference(scores, *(Curve(panel, arm) for arm in pair), size).values for pair in pairs]
    return difference_cell([float(np.mean(values)) for values in zip(*parts, strict=True)])


def scaled_table(lines: Sequence[Mapping[str, Any]], panel: str) -> list[str]:
    """Return the table of arms trained again and evaluated with scaling methods: score, and paired differences.

    Each is compared with its own weights without scaling, and with RoPE-Mixed without another training (`REFERENCES`).
    """
    again = gather(lines, WITH_SCALING)
    scores = gather_scaled(lines)
    mixed, sizes = Curve(panel, "rope_mixed", REFERENCES[panel]), SIZES[panel][1:]
    rows = []
    for curve in (Curve(panel, str(arm), method) for arm in SCALED_ARMS for method in SCALING[panel]):
        if curve in again and is_whole(again, curve):
            rows.append([str(curve), *(score_cell(list(scores[curve][size].values())) for size in sizes)])
            own = [compare(again, curve, curve._replace(mode="whole"), size) for size in sizes]
            rows.append(["over itself without scaling", *own])
            rows.append([f"over {mixed}", *(compare(scores, curve, mixed, size) for size in sizes)])
    return table([f"{panel}: with scaling", *map(str, sizes)], rows) if rows else []


def hypothesis_5(lines: Sequence[Mapping[str, Any]]) -> list[Difference]:
    """Random sizes with scaling above one size with the same, at 3x and 4x in `field` and `far`; [] if seeds lack."""
    scores, again = (gather(lines, how) for how in ("", WITH_SCALING))
    found = []
    for panel in ("field", "far"):
        method = SCALING[panel][-1]
        below, above = Curve(panel, "rope_mixed", method), Curve(panel, "rope_mixed sizes", method)
        for size in SIZES[panel][2:]:
            first, second = (at.get(curve, {}).get(size, {}) for at, curve in ((again, above), (scores, below)))
            values = [first[seed] - second[seed] for seed in SEEDS_OF_5 if seed in first and seed in second]
            if len(values) < len(SEEDS_OF_5):
                return []
            found.append(Difference(above, below, size, tuple(values)))
    return found


def fifth_table(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the table of H5, a test of its own; nothing while a training is missing."""
    parts = hypothesis_5(lines)
    if not parts:
        return []
    held = max(part.p for part in parts) <= LEVEL
    rows = [["", *part.cells()[:-1]] for part in parts]
    rows[0][0] = "holds" if held else "not shown"
    return table(["H5", "part", "difference", "bootstrap", "p"], rows)


def compare(scores: Scores, above: Curve, below: Curve, size: int) -> str:
    """Return the cell of a difference at a size; empty where one of both has no scores or nothing differs."""
    if size not in scores[above] or size not in scores[below]:
        return ""
    return difference_cell(difference(scores, above, below, size).values)


def difference_cell(values: Sequence[float]) -> str:
    """Write the mean of differences and half of its 95 % interval, bold where that excludes 0."""
    if len(values) < 2 or not any(values):
        return ""
    mean, half = interval(values)
    text = f"{mean:+.1f} ± {half:.1f}"
    return f"**{text}**" if abs(mean) > half else text


def score_cell(values: Sequence[float]) -> str:
    """Write the mean and, in brackets, the standard deviation of scores; empty without any."""
    return f"{np.mean(values):.1f} ({np.std(values, ddof=1):.1f})" if len(values) > 1 else ""


def noise_table(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the table of how far a rerun of the same seed ends from the first training: mean, and maximum."""
    first, rows = gather(lines), []
    for how in sorted({line["rerun"] for line in lines} - {""}):
        again = gather(lines, how)
        for panel in SIZES:
            cells = [noise_cell(again, first, panel, size) for size in SIZES[panel]]
            rows.append([f"`{panel}`, {how}", *cells])
    return table(["trained again: moved by", *(f"{column}x" for column in range(1, 5))], rows)


def noise_cell(again: Scores, first: Scores, panel: str, size: int) -> str:
    """Write the mean and the maximum of the absolute differences of scores of the same arm and seed."""
    pairs = [(again[c][size], first[c][size]) for c in again if c in first and c[::2] == (panel, "whole")]
    moved = [abs(new[seed] - old[seed]) for new, old in pairs for seed in new.keys() & old.keys()]
    return f"{np.mean(moved):.1f}, {max(moved):.1f}" if moved else ""


def processor_table(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the table of how far reruns in float32 moved any score of whole images, by processor."""
    first = {(line["panel"], line["arm"], line["seed"]): line for line in lines if not line["rerun"]}
    moved: dict[str, list[float]] = {"on the same kind of processor": [], "on a processor of another maker": []}
    for line in lines:
        old = first.get((line["panel"], line["arm"], line["seed"]))
        if line["rerun"] in ("", "bfloat16") or old is None:
            continue
        same = line["environment"]["device"] == old["environment"]["device"]
        scores, before = line["scores"]["whole"], old["scores"]["whole"]
        moved[list(moved)[not same]].append(max(abs(scores[size] - before[size]) for size in scores))
    rows = [[where, str(len(values)), f"{max(values):.3f}"] for where, values in moved.items() if values]
    return table(["trained again in float32", "trainings", "moved at most"], rows)


def tables(lines: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the lines of every table of `docs/evidence.md`."""
    scores = gather(lines)
    panels = [panel for panel in SIZES if any(curve.panel == panel for curve in scores)]
    found = [test_table(lines)]
    found += [score_table(scores, panel) for panel in panels]
    found += [difference_table(scores, panel) for panel in panels]
    partial = [panel for panel in panels if curves_of(scores, panel, whole=False)]
    found += [difference_table(scores, panel, whole=False) for panel in partial]
    found += [baseline_table(scores, panel) for panel in BASELINES if panel in panels]
    found += [kept_table(scores, panel) for panel in panels]
    found += [rows for panel in panels if (rows := pair_table(scores, panel))]
    found += [rows for rows in (fifth_table(lines), *(scaled_table(lines, panel) for panel in panels)) if rows]
    return [*found, noise_table(lines), processor_table(lines)] if any(line["rerun"] for line in lines) else found


def update(page: Path, found: Sequence[Sequence[str]]) -> None:
    """Replace the tables of a page that have the same first cell as those found.

    Raises:
        ValueError: If the page lacks one of them.
    """
    lines = page.read_text(encoding="utf-8").splitlines()
    for new in found:
        head = new[0].split("|")[1]
        begin = next((at for at, line in enumerate(lines) if line.startswith(f"|{head}|")), None)
        if begin is None:
            raise ValueError(f"{page}: got no table that begins with |{head}|; add its first line where it belongs")
        end = next((at for at in range(begin, len(lines)) if not lines[at].startswith("|")), len(lines))
        lines[begin:end] = new
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Print every table, and update a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--update", type=Path, help="a page whose tables to replace")
    arguments = parser.parse_args()
    lines = read(arguments.results)
    if not lines:
        parser.error(f"got no results in {arguments.results}; make some with benchmarks/evidence.py")
    found = tables(lines)
    print("\n\n".join("\n".join(each) for each in found))
    if arguments.update:
        update(arguments.update, found)


if __name__ == "__main__":
    main()
