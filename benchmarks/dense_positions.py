"""Compare position embeddings in a small segmenter and a small detector, on synthetic images larger than in training.

    python benchmarks/dense_positions.py segment --out runs/positions   # writes to benchmarks/results/
    python benchmarks/dense_positions.py detect --out runs/positions

Each embedding is trained from scratch with each seed, by the smoke recipe with the changes below, and evaluated with
`ropevit eval` at sizes around and beyond the training size. An interrupted run continues when called again. Writes
the scores (CSV), a table (Markdown) and a plot (PNG): means over the seeds, with minimum and maximum.
"""

import argparse
import csv
import shutil
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from PIL import Image

from ropevit.cli import main as ropevit
from ropevit.data.tiny import GROUND, SHAPES, make_tiny
from ropevit.drawing import figure_bytes, mark_training, tidy
from ropevit.models.positions import position_label, position_style

POSITIONS = ("ape", "rope_axial", "rope_mixed")


class TaskSetup(NamedTuple):
    """Recipe, metric, sizes and options for a task."""

    recipe: str
    layout: str
    metric: str
    trained_at: int
    sizes: tuple[int, ...]
    options: str


TASKS = {
    "segment": TaskSetup(
        recipe="segment/upernet_smoke",
        layout="ade",
        metric="mIoU",
        trained_at=96,
        sizes=(64, 96, 144, 192, 288),
        options="--crop-size 96 --short 96 --long 192 --test-short 96 --test-long 384 --steps 300 --batch-size 8 "
        "--val-interval 1000",
    ),
    "detect": TaskSetup(
        recipe="detect/dino_smoke",
        layout="coco",
        metric="AP",
        trained_at=64,
        sizes=(48, 64, 96, 128, 192),
        options="--depth 4 --epochs 12 --batch-size 8 --val-interval 1000",
    ),
}


def make_data(setup: TaskSetup, folder: Path, train: int, val: int) -> None:
    """Generate the data; label maps get only the classes that occur, which is faster than 150 classes."""
    part = folder.with_name("part")
    shutil.rmtree(part, ignore_errors=True)  # from an interrupted run
    make_tiny(setup.layout, part, train, val)
    if setup.layout == "ade":
        labels = [GROUND, *(label for _, _, label in SHAPES.values())]
        (part / "objectInfo150.txt").unlink()
        (part / "classes.txt").write_text("\n".join(["ground", *SHAPES]) + "\n")
        table = [labels.index(value) + 1 if value in labels else 0 for value in range(256)]
        for path in part.glob("annotations/*/*.png"):
            with Image.open(path) as image:
                image.point(table).save(path)
    part.rename(folder)


def train_and_evaluate(setup: TaskSetup, out: Path, position: str, seed: int) -> dict[int, float]:
    """Train one embedding with one seed, and return its score in percent by test size."""
    run, data = out / f"{position}-{seed}", str(out / "data")
    common = ["--data", data, "--device", "cpu", "--workers", "0"]
    if not (run / "model.safetensors").exists():
        options = ["--position", position, "--seed", str(seed), "--out", str(run), "--resume"]
        ropevit(["train", setup.recipe, *common, *options, *setup.options.split()])
    sizes = ",".join(map(str, setup.sizes))
    places = ["--checkpoint", str(run), "--weights", "last", "--out", str(run / "eval"), "--resume"]
    ropevit(["eval", *common, *places, "--sizes", sizes])
    with (run / "eval" / "eval.csv").open(newline="") as file:
        return {int(row["size"]): float(row[setup.metric]) for row in csv.DictReader(file)}


def table(scores: Mapping[str, Mapping[int, Sequence[float]]], setup: TaskSetup) -> str:
    """Return a Markdown table of means over the seeds, with minimum and maximum."""
    lines = [f"| {setup.metric} (%) | " + " | ".join(f"{size} px" for size in setup.sizes) + " |"]
    lines.append("|---" * (len(setup.sizes) + 1) + "|")
    for position, by_size in scores.items():
        cells = (f"{statistics.mean(v):.1f} ({min(v):.1f} to {max(v):.1f})" for v in (by_size[s] for s in setup.sizes))
        lines.append(f"| {position_label(position)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(scores: Mapping[str, Mapping[int, Sequence[float]]], setup: TaskSetup) -> Any:
    """Draw means against test size, with bands from the minimum to the maximum of the seeds."""
    figure = Figure(figsize=(6.2, 4.2), layout="constrained")
    axes = figure.subplots()
    mark_training(axes, setup.trained_at)
    for position, by_size in scores.items():
        color, marker = position_style(position)
        values = [by_size[size] for size in setup.sizes]
        axes.fill_between(setup.sizes, [min(v) for v in values], [max(v) for v in values], color=color, alpha=0.15)
        means = [statistics.mean(v) for v in values]
        axes.plot(setup.sizes, means, color=color, marker=marker, label=position_label(position))
    axes.set(xlabel="test size (pixels)", ylabel=f"{setup.metric} (%)")
    tidy(axes, setup.sizes)
    axes.legend(frameon=False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train", type=int, default=200, help="number of training images")
    parser.add_argument("--val", type=int, default=60, help="number of test images")
    parser.add_argument("--options", default="", help="further options of `ropevit train`")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    setup = TASKS[arguments.task]
    setup = setup._replace(options=f"{setup.options} {arguments.options}")
    out = arguments.out / arguments.task
    if not (out / "data").exists():
        make_data(setup, out / "data", arguments.train, arguments.val)
    scores: dict[str, dict[int, list[float]]] = {position: defaultdict(list) for position in POSITIONS}
    rows = []
    for position in POSITIONS:
        for seed in range(arguments.seeds):
            for size, score in train_and_evaluate(setup, out, position, seed).items():
                scores[position][size].append(score)
                rows.append((position, seed, size, score))
    path = arguments.results / f"dense_positions_{arguments.task}"
    with path.with_suffix(".csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("position", "seed", "size", setup.metric), *rows])
    path.with_suffix(".md").write_text(table(scores, setup) + "\n")
    path.with_suffix(".png").write_bytes(figure_bytes(draw(scores, setup), "png"))
    print(table(scores, setup))


if __name__ == "__main__":
    main()
