"""Compare position embeddings in a small segmenter and a small detector, on generated pictures larger than in training.

    python benchmarks/dense_positions.py segment --out runs/positions   # benchmarks/results/ has what it writes
    python benchmarks/dense_positions.py detect --out runs/positions

Each embedding is trained from scratch with each seed, by the smoke recipe with the changes below, and measured with
`ropevit eval` at sizes around and beyond that of the training. What is interrupted goes on when called again. It writes
the scores (CSV), a table (Markdown) and a plot (PNG): means over the seeds, with the lowest and the highest.
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


class Bench(NamedTuple):
    """How a task is compared."""

    recipe: str
    layout: str
    metric: str
    trained_at: int
    sizes: tuple[int, ...]
    options: str


TASKS = {
    "segment": Bench(
        recipe="segment/upernet_smoke",
        layout="ade",
        metric="mIoU",
        trained_at=96,
        sizes=(64, 96, 144, 192, 288),
        options="--crop-size 96 --short 96 --long 192 --test-short 96 --test-long 384 --steps 300 --batch-size 8 "
        "--val-interval 1000",
    ),
    "detect": Bench(
        recipe="detect/dino_smoke",
        layout="coco",
        metric="AP",
        trained_at=64,
        sizes=(48, 64, 96, 128, 192),
        options="--depth 4 --epochs 12 --batch-size 8 --val-interval 1000",
    ),
}


def make_data(bench: Bench, folder: Path, train: int, val: int) -> None:
    """Generate the pictures; those with labels get the classes that there are alone, which is faster than with 150."""
    part = folder.with_name("part")
    shutil.rmtree(part, ignore_errors=True)  # which was interrupted
    make_tiny(bench.layout, part, train, val)
    if bench.layout == "ade":
        labels = [GROUND, *(label for _, _, label in SHAPES.values())]
        (part / "objectInfo150.txt").unlink()
        (part / "classes.txt").write_text("\n".join(["ground", *SHAPES]) + "\n")
        table = [labels.index(value) + 1 if value in labels else 0 for value in range(256)]
        for path in part.glob("annotations/*/*.png"):
            with Image.open(path) as image:
                image.point(table).save(path)
    part.rename(folder)


def measure(bench: Bench, out: Path, position: str, seed: int) -> dict[int, float]:
    """Train one embedding with one seed, and give its score in percent by test size."""
    run, data = out / f"{position}-{seed}", str(out / "data")
    common = ["--data", data, "--device", "cpu", "--workers", "0"]
    if not (run / "model.safetensors").exists():
        options = ["--position", position, "--seed", str(seed), "--out", str(run), "--resume"]
        ropevit(["train", bench.recipe, *common, *options, *bench.options.split()])
    sizes = ",".join(map(str, bench.sizes))
    places = ["--checkpoint", str(run), "--weights", "last", "--out", str(run / "eval"), "--resume"]
    ropevit(["eval", *common, *places, "--sizes", sizes])
    with (run / "eval" / "eval.csv").open(newline="") as file:
        return {int(row["size"]): float(row[bench.metric]) for row in csv.DictReader(file)}


def table(scores: Mapping[str, Mapping[int, Sequence[float]]], bench: Bench) -> str:
    """Lay out means, with the lowest and the highest of the seeds."""
    lines = [f"| {bench.metric} (%) | " + " | ".join(f"{size} px" for size in bench.sizes) + " |"]
    lines.append("|---" * (len(bench.sizes) + 1) + "|")
    for position, found in scores.items():
        cells = (f"{statistics.mean(v):.1f} ({min(v):.1f} to {max(v):.1f})" for v in (found[s] for s in bench.sizes))
        lines.append(f"| {position_label(position)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(scores: Mapping[str, Mapping[int, Sequence[float]]], bench: Bench) -> Any:
    """Draw means over test size, with bands from the lowest to the highest of the seeds."""
    figure = Figure(figsize=(6.2, 4.2), layout="constrained")
    axes = figure.subplots()
    mark_training(axes, bench.trained_at)
    for position, found in scores.items():
        colour, marker = position_style(position)
        values = [found[size] for size in bench.sizes]
        axes.fill_between(bench.sizes, [min(v) for v in values], [max(v) for v in values], color=colour, alpha=0.15)
        means = [statistics.mean(v) for v in values]
        axes.plot(bench.sizes, means, color=colour, marker=marker, label=position_label(position))
    axes.set(xlabel="test size (pixels)", ylabel=f"{bench.metric} (%)")
    tidy(axes, bench.sizes)
    axes.legend(frameon=False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train", type=int, default=200, help="pictures to train on")
    parser.add_argument("--val", type=int, default=60, help="pictures to measure on")
    parser.add_argument("--options", default="", help="more options of the training")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    given = parser.parse_args()
    bench = TASKS[given.task]
    bench = bench._replace(options=f"{bench.options} {given.options}")
    out = given.out / given.task
    if not (out / "data").exists():
        make_data(bench, out / "data", given.train, given.val)
    scores: dict[str, dict[int, list[float]]] = {position: defaultdict(list) for position in POSITIONS}
    rows = []
    for position in POSITIONS:
        for seed in range(given.seeds):
            for size, score in measure(bench, out, position, seed).items():
                scores[position][size].append(score)
                rows.append((position, seed, size, score))
    path = given.results / f"dense_positions_{given.task}"
    with path.with_suffix(".csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("position", "seed", "size", bench.metric), *rows])
    path.with_suffix(".md").write_text(table(scores, bench) + "\n")
    path.with_suffix(".png").write_bytes(figure_bytes(draw(scores, bench), "png"))
    print(table(scores, bench))


if __name__ == "__main__":
    main()
