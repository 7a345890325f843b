"""Paired differences with 95 % intervals, from both committed runs of the study.

    python benchmarks/pooled.py           # print tables of results/fashion_study.md, docs/retrofit.md and docs/dense.md
    python benchmarks/pooled.py --draw    # also redraw results/fashion_study.png

`study_seeds3.json` and `beyond_PANEL.json` contain RoPE-Axial and RoPE-Mixed trained twice with the same settings and
seeds 0 to 2, by two states of this package: six trainings, two for each seed. A difference is taken within one file
and one seed. Two trainings of a seed share initial weights and data, so six differences are not six independent ones,
and an interval over them is too narrow if trainings of a seed resemble each other. So two intervals are printed:
over all differences, and over the means of the seeds. Both are 95 % Student's t intervals; neither accounts for
the sampling of the test images.
"""

import argparse
import csv
import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).parent / "results"
FIGURE = RESULTS / "fashion_study.png"
FASHION_PAGE = "benchmarks/results/fashion_study.md"

#: 97.5 % quantiles of Student's t by degrees of freedom.
T_975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 10: 2.228}

#: panel -> result files; only the first has the absolute embedding.
FILES = {"field": ("study_seeds3.json", "beyond_field.json"), "zoom": ("study_seeds3.json", "beyond_zoom.json")}
TRAINED = {"field": 32, "zoom": 28}
NAMES = {"ape": "absolute (APE)", "rope_axial": "RoPE-Axial", "rope_mixed": "RoPE-Mixed"}
FAMILIES = ("rope_golden", "rope_spiral", "rope_simplex", "rope_polar")
SCALING = "parts(slow=0.5,fast=1)+log"


class Training(NamedTuple):
    """Result file and seed of a training."""

    file: str
    seed: int


class Arm(NamedTuple):
    """A position embedding, and the RoPE scaling of its evaluation."""

    embedding: str
    scaling: str = ""

    def __str__(self) -> str:
        return f"{NAMES.get(self.embedding, f'`{self.embedding}`')}{f' with `{self.scaling}`' if self.scaling else ''}"


#: Training -> score in percent.
Scores = Mapping[Training, float]
#: (arm, test size) -> scores.
Panel = dict[tuple[Arm, int], dict[Training, float]]


class Interval(NamedTuple):
    """A mean, and half the width of its 95 % interval."""

    mean: float
    half: float

    def __str__(self) -> str:
        return f"{self.mean:+.1f} ± {self.half:.1f}"


def interval(values: Sequence[float]) -> Interval:
    """Return the mean of values and half of its 95 % t interval: t * standard deviation / sqrt(n).

    Raises:
        ValueError: If there are fewer than two values, or more than the table of quantiles has.
    """
    degrees = len(values) - 1
    if degrees not in T_975:
        raise ValueError(f"got {len(values)} values; expected 2 to {max(T_975) + 1} for an interval")
    return Interval(statistics.mean(values), T_975[degrees] * statistics.stdev(values) / len(values) ** 0.5)


def paired(scores: Scores, others: Scores) -> dict[Training, float]:
    """Return the differences of scores of the same file and seed, where both exist."""
    return {key: scores[key] - others[key] for key in scores if key in others}


def by_seed(values: Scores) -> list[float]:
    """Return the mean over the trainings of each seed."""
    seeds = sorted({key.seed for key in values})
    return [statistics.mean(value for key, value in values.items() if key.seed == seed) for seed in seeds]


def read_panel(panel: str, folder: Path = RESULTS) -> Panel:
    """Read the scores of both files of a panel.

    Raises:
        ValueError: If trainings have different settings: they cannot be pooled.
    """
    found: Panel = {}
    settings = None
    for file in FILES[panel]:
        runs = json.loads((folder / file).read_text(encoding="utf-8"))["runs"]
        for run in (run for run in runs if run["panel"] == panel):
            own = {key: value for key, value in run["settings"].items() if key != "test_sizes"}
            settings = settings or own
            if own != settings:
                raise ValueError(f"{file}: {run['embedding']} seed {run['seed']} was trained with other settings")
            for scaling, scores in {"": run["scores"], **run.get("scaled", {})}.items():
                for size, score in scores.items():
                    at = found.setdefault((Arm(run["embedding"], scaling), int(size)), {})
                    at[Training(file, run["seed"])] = score
    return found


def sizes_of(panel: Panel, arm: Arm) -> list[int]:
    """Return the test sizes of an arm."""
    return sorted(size for other, size in panel if other == arm)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def mark_training_size(sizes: Sequence[int], panel: str) -> list[str]:
    """Format sizes in pixels; the training size is marked."""
    return [f"{size} (training)" if size == TRAINED[panel] else str(size) for size in sizes]


def score_table(name: str) -> list[str]:
    """Return the table of scores over both files: mean (minimum to maximum; number of trainings)."""
    panel = read_panel(name)
    sizes = sizes_of(panel, Arm("rope_mixed"))
    rows = [
        [label, *(scores_cell(panel.get((Arm(embedding), size), {})) for size in sizes)]
        for embedding, label in NAMES.items()
    ]
    return table([f"{name}: score (%)", *mark_training_size(sizes, name)], rows)


def scores_cell(scores: Scores) -> str:
    if not scores:
        return ""
    values = list(scores.values())
    return f"{statistics.mean(values):.1f} ({min(values):.1f} to {max(values):.1f}; {len(values)})"


def pair_table(name: str, arm: Arm, other: Arm) -> list[str]:
    """Return the table of differences of two arms at each size, by file, with both intervals."""
    panel = read_panel(name)
    rows = []
    for size in sizes_of(panel, arm):
        found = paired(panel[arm, size], panel.get((other, size), {}))
        if found:
            rows.append([mark_training_size([size], name)[0], *pair_row(found, FILES[name])])
    head = [f"{name}: {arm} over {other}", "first run", "second run", "above", "all differences", "means of seeds"]
    return table(head, rows)


def pair_row(found: Scores, files: Sequence[str]) -> list[str]:
    """Return the cells of differences, the number above 0, and the intervals over all and over the means of seeds."""
    each = [" ".join(f"{value:+.1f}" for key, value in found.items() if key.file == file) for file in files]
    above = f"{sum(value > 0 for value in found.values())} of {len(found)}"
    repeated = len(found) > len(by_seed(found))
    return [*each, above, str(interval(list(found.values()))) if repeated else "", str(interval(by_seed(found)))]


def single_table(name: str, pairs: Sequence[tuple[Arm, Arm]]) -> list[str]:
    """Return the table of differences of arms of one file with three seeds: mean and interval at each size."""
    panel = read_panel(name)
    sizes = sorted({size for arm, other in pairs for size in sizes_of(panel, arm) if (other, size) in panel})
    rows = []
    for arm, other in pairs:
        cells = [difference_cell(panel, arm, other, size) for size in sizes]
        rows.append([f"{arm} over {other}", *cells])
    return table([f"{name}: difference", *mark_training_size(sizes, name)], rows)


def difference_cell(panel: Panel, arm: Arm, other: Arm, size: int) -> str:
    found = paired(panel.get((arm, size), {}), panel.get((other, size), {}))
    return str(interval(by_seed(found))) if found else ""


def beyond_table(name: str) -> list[str]:
    """Return the table of each rope type and scaling in `beyond_PANEL.json`: mean, and difference of the same seed.

    Without scaling, the difference is to RoPE-Mixed without scaling; with a method, to the same models without it.
    """
    panel = {cell: scores_of_file(scores, FILES[name][1]) for cell, scores in read_panel(name).items()}
    panel = {cell: scores for cell, scores in panel.items() if scores}
    sizes = sorted({size for _, size in panel})
    rows = []
    arms = list(dict.fromkeys(arm for arm, _ in panel))
    embeddings = list(dict.fromkeys(arm.embedding for arm in arms))
    for arm in sorted(arms, key=lambda arm: embeddings.index(arm.embedding)):
        other = Arm(arm.embedding) if arm.scaling else Arm("rope_mixed")
        cells = [beyond_cell(panel[arm, size], panel[other, size]) for size in sizes]
        rows.append([f"`{arm.embedding}`", f"`{arm.scaling}`" if arm.scaling else "-", *cells])
    return table([f"{name}: trained", "measured with", *mark_training_size(sizes, name)], rows)


def scores_of_file(scores: Scores, file: str) -> dict[Training, float]:
    return {key: score for key, score in scores.items() if key.file == file}


def beyond_cell(scores: Scores, others: Scores) -> str:
    mean = f"{statistics.mean(scores.values()):.1f}"
    differences = list(paired(scores, others).values())
    return f"{mean} ({interval(differences)})" if any(differences) else mean


def resize_table() -> list[str]:
    """Return the table of `pi` at larger sizes, compared with the same images resized to the training size."""
    panel = read_panel("zoom")
    larger = [size for size in sizes_of(panel, Arm("rope_mixed", "pi")) if size > TRAINED["zoom"]]
    rows = []
    for embedding in ("rope_axial", "rope_mixed", *FAMILIES):
        own = scores_of_file(panel[Arm(embedding), TRAINED["zoom"]], FILES["zoom"][1])
        each = [paired(panel[Arm(embedding, "pi"), size], own) for size in larger]
        below = sum(value < 0 for found in each for value in found.values())
        cells = [str(interval(list(found.values()))) for found in each]
        rows.append([f"`{embedding}`", f"{statistics.mean(own.values()):.1f}", *cells, f"{below} of {3 * len(larger)}"])
    return table(["zoom: trained", "resized to 28", *(f"`pi` at {size}, over that" for size in larger), "below"], rows)


#: Rows of the table of the search: embedding, scaling in training, scaling methods in evaluation.
SEARCHED = (
    ("rope_mixed", "", ("", "log", "pi", "ntk", "ntk+log", "parts", "parts+log", SCALING, "yarn")),
    ("rope_mixed", "jitter(rescale=2)", ("", "ntk+log", "parts+log")),
    ("rope_spiral", "", ("", "log")),
)


def read_search(name: str) -> dict[tuple[str, str, str], dict[str, float]]:
    """Read the search: (embedding, scaling in training, scaling in evaluation) -> scores by size, of one seed."""
    with (RESULTS / f"rules_search_{name}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {(row["embedding"], row["training"], row["rule"]): json.loads(row["scores"]) for row in rows}


def search_table() -> list[str]:
    """Return the table of the search: scaling methods, and training with jitter; one seed, held-out images."""
    field, zoom = read_search("field"), read_search("zoom")
    rows = []
    for embedding, training, methods in SEARCHED:
        for scaling in methods:
            cells = [
                f"{score:.1f}" for found in (field, zoom) for score in found[embedding, training, scaling].values()
            ]
            named = [f"`{embedding}`", *(f"`{name}`" if name else "-" for name in (training, scaling))]
            rows.append([*named, *cells])
    sizes = [
        f"{name} {size}" for name, found in (("field", field), ("zoom", zoom)) for size in next(iter(found.values()))
    ]
    return table(["trained", "with", "measured with", *sizes], rows)


def fraction_table() -> list[str]:
    """Return the table of the fraction of a method's gain that `log` alone gives: RoPE-Mixed, `field`, one seed."""
    found = read_search("field")
    none, log, chosen = (found["rope_mixed", "", name] for name in ("", "log", SCALING))
    sizes = [size for size in none if int(size) > TRAINED["field"]]
    gains = [[f"{curve[size] - none[size]:+.1f}" for size in sizes] for curve in (log, chosen)]
    fractions = [f"{fraction_of_gain(none[size], log[size], chosen[size]):.0f} %" for size in sizes]
    rows = [["`log`", *gains[0]], [f"`{SCALING}`", *gains[1]], ["fraction of `log`", *fractions]]
    return table(["field: over no scaling", *sizes], rows)


def fraction_of_gain(none: float, part: float, whole: float) -> float:
    """Return the gain of `part` over `none` in percent of that of `whole`."""
    return 100 * (part - none) / (whole - none)


def retrofit_table() -> list[str]:
    """Return the table of `add_rope` compared with the control of the same seed: mean and interval, three seeds."""
    found = rows_by(RESULTS / "retrofit.csv", "arm", "accuracy")
    sizes = sorted({size for _, size in found})
    rows = []
    for arm in ("mixed", "axial"):
        cells = [str(interval(list(paired(found[arm, size], found["ape", size]).values()))) for size in sizes]
        rows.append([f'`add_rope(rope_type="{arm}")` over the control', *cells])
    return table(["top-1 (%)", *map(str, sizes)], rows)


def dense_table(task: str, metric: str) -> list[str]:
    """Return the table of paired differences of small detectors or segmenters: mean and interval, three seeds."""
    found = rows_by(RESULTS / f"dense_positions_{task}.csv", "position", metric)
    sizes = sorted({size for _, size in found})
    rows = []
    for arm, other in (("rope_axial", "ape"), ("rope_mixed", "ape"), ("rope_mixed", "rope_axial")):
        cells = [str(interval(list(paired(found[arm, size], found[other, size]).values()))) for size in sizes]
        rows.append([f"{NAMES[arm]} over {NAMES[other]}", *cells])
    return table([f"{metric}: difference", *(f"{size} px" for size in sizes)], rows)


def rows_by(path: Path, arm: str, metric: str) -> dict[tuple[str, int], dict[Training, float]]:
    """Read a CSV file with one row for each arm, seed and size."""
    found: dict[tuple[str, int], dict[Training, float]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            at = found.setdefault((row[arm], int(row["size"])), {})
            at[Training(path.name, int(row["seed"]))] = float(row[metric])
    return found


def tables() -> Iterator[tuple[str, list[str]]]:
    """Yield the page of each table, and its lines."""
    axial, mixed, ape = Arm("rope_axial"), Arm("rope_mixed"), Arm("ape")
    for name in FILES:
        yield FASHION_PAGE, score_table(name)
        yield FASHION_PAGE, pair_table(name, mixed, axial)
        yield FASHION_PAGE, single_table(name, [(axial, ape), (mixed, ape)])
    for name in FILES:
        yield FASHION_PAGE, beyond_table(name)
    yield FASHION_PAGE, resize_table()
    best = Arm("rope_mixed", SCALING)
    spiral, polar = Arm("rope_spiral"), Arm("rope_polar", SCALING)
    yield FASHION_PAGE, single_table("field", [(spiral, best), (polar, best), (polar, spiral)])
    yield FASHION_PAGE, search_table()
    yield FASHION_PAGE, fraction_table()
    yield "docs/retrofit.md", retrofit_table()
    yield "docs/dense.md", dense_table("segment", "mIoU")
    yield "docs/dense.md", dense_table("detect", "AP")


def draw(path: Path) -> None:
    """Draw both runs: the first solid, the second dashed, with bands from the minimum to the maximum of the seeds."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from ropevit.drawing import RC, figure_bytes

    with rc_context(RC):
        figure = Figure(figsize=(12.4, 4.8), layout="constrained")
        for axes, name in zip(figure.subplots(1, 2), FILES, strict=True):
            draw_panel(axes, name)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=5, frameon=False)
        path.write_bytes(figure_bytes(figure, "png"))


def draw_panel(axes: Any, name: str) -> None:
    """Draw one panel of both runs."""
    from ropevit.drawing import mark_training, tidy
    from ropevit.models.positions import position_style

    panel = read_panel(name)
    mark_training(axes, TRAINED[name])
    for embedding, label in NAMES.items():
        color, marker = position_style(embedding)
        for file, line, run in zip(FILES[name], ("-", "--"), ("first run", "second run"), strict=True):
            found = {
                size: scores_of_file(panel[Arm(embedding), size], file) for size in sizes_of(panel, Arm(embedding))
            }
            curve = {size: list(scores.values()) for size, scores in found.items() if scores}
            if not curve:
                continue
            sizes, low, high = (
                list(curve),
                [min(each) for each in curve.values()],
                [max(each) for each in curve.values()],
            )
            mean = [statistics.mean(each) for each in curve.values()]
            axes.plot(sizes, mean, line, color=color, marker=marker, markersize=5, label=f"{label}, {run}")
            axes.fill_between(sizes, low, high, color=color, alpha=0.12, linewidth=0)
    tidy(axes, sizes_of(panel, Arm("rope_mixed")))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("test size (pixels)")
    axes.set_ylabel({"field": "mean IoU (%)", "zoom": "top-1 accuracy (%)"}[name])
    more = {"field": "a larger image shows more of the scene", "zoom": "a larger image is the same image, upsampled"}
    axes.set_title(f"{name}: {more[name]}\n(mean of 3 seeds, band from the lowest to the highest)", fontsize=10)


def main() -> None:
    """Print the tables, and draw the figure if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draw", action="store_true", help=f"redraw {FIGURE.name}")
    arguments = parser.parse_args()
    for page, lines in tables():
        print(f"{page}:\n", *lines, "", sep="\n")
    if arguments.draw:
        draw(FIGURE)


if __name__ == "__main__":
    main()
