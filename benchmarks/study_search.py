"""Search settings for `ropevit study` on held-out training images, never on the test images.

    python benchmarks/study_search.py             # train what the results lack of the grids below
    python benchmarks/study_search.py --show      # print the tables of results/fashion_study.md

Trains on 9,000 of the embedded training images and evaluates on the other 1,000, with seeds from 100 and one thread.
Each run adds a row to `results/study_search.csv`, with its changes from the initial settings.
"""

import argparse
import csv
import itertools
import json
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ropevit.data.canvas import CanvasSettings
from ropevit.data.crops import CropSettings
from ropevit.data.fashion import load_fashion
from ropevit.data.labeled import LabeledImages
from ropevit.machine import environment
from ropevit.study.events import Run
from ropevit.study.panels import PANEL_CLASSES
from ropevit.study.precision import resolve_precision
from ropevit.study.settings import PanelSettings
from ropevit.study.train import RunJob, train

RESULTS = Path(__file__).parent / "results/study_search.csv"
COLUMNS = ["panel", "embedding", "seed", "changes", "scores", "train_seconds", "eval_seconds", "step_ms", "where"]
EMBEDDINGS = ("ape", "rope_axial", "rope_mixed")

AREAS = {
    "log .08-1": CropSettings(smallest=0.08, largest=1.0, distribution="log"),
    "uniform .08-1": CropSettings(smallest=0.08, largest=1.0, distribution="uniform"),
    "log .08-.7": CropSettings(smallest=0.08, largest=0.7, distribution="log"),
    "log .2-1": CropSettings(smallest=0.2, largest=1.0, distribution="log"),
}
CANVASES = {f"item {size}": CanvasSettings(item_size=size, density=0.8, noise=0.06) for size in (16, 20, 24)}
CANVASES |= {
    f"plain {size}": CanvasSettings(item_size=size, density=0.5, noise=0.05, jitter=1.1, max_rotation=0.0)
    for size in (16, 20, 24)
}

COMMON = {"patch_size": 4, "width": 64, "depth": 4, "heads": 2, "lr": 2e-3, "ape_std": 0.3, "start": "deit"}
#: Initial settings of the search; every row of the results has its changes from these.
BASE = {
    "zoom": PanelSettings(
        train_size=28, test_sizes=(16, 20, 28, 32, 40, 48, 56), steps=500, batch_size=128, crop=AREAS["log .08-1"],
        **COMMON,
    ),
    "field": PanelSettings(
        train_size=32, test_sizes=(16, 32, 48, 64, 96), steps=400, batch_size=64, canvas=CANVASES["item 16"],
        test_canvases=150, **COMMON,
    ),
}  # fmt: skip


def grid(panel: str, embeddings: tuple[str, ...], seeds: tuple[int, ...], **axes: tuple) -> Iterator[dict[str, Any]]:
    """Yield every combination of some settings."""
    for values in itertools.product(*axes.values()):
        for embedding, seed in itertools.product(embeddings, seeds):
            named = dict(zip(axes, values, strict=True))
            changes = {key: value for key, value in named.items() if value != getattr(BASE[panel], key)}
            yield {"panel": panel, "embedding": embedding, "seed": seed, "changes": changes}


APE, MIXED, PAIR = ("ape",), ("rope_mixed",), ("ape", "rope_mixed")
ROTATIONS = ("rope_mixed", "rope_axial")
SEED, TWO, SEEDS = (100,), (100, 101), (100, 101, 102)
FAN = {"start": ("fan_in",)}
LOOK = FAN | {"canvas": ("plain 20",)}
FIELD = LOOK | {"batch_size": (16,), "steps": (1500,)}
SHORT = FIELD | {"steps": (1200,)}

GRIDS = [
    # First runs, to find settings with which models learn within the time budget.
    *grid("zoom", EMBEDDINGS, SEED),
    *grid("zoom", APE, SEED, crop=("uniform .08-1",)),
    *grid("zoom", PAIR, SEED, **FAN),
    *grid("zoom", PAIR, SEED, **FAN, batch_size=(64,), steps=(900,)),
    *grid("field", ("ape", "rope_axial"), SEED),
    *grid("field", PAIR, SEED, **FAN, canvas=("item 20",)),
    *grid("field", APE, SEED, **FAN, canvas=("item 20",), batch_size=(32,), steps=(800,)),
    *grid("field", MIXED, SEED, **LOOK, lr=(2e-3, 4e-3)),
    *grid("field", MIXED, SEED, **LOOK, batch_size=(32,), steps=(800,), lr=(2e-3, 4e-3)),
    *grid("field", MIXED, SEED, **FAN, canvas=("plain 24",), batch_size=(32,), steps=(800,)),
    # Learning rates for all, and the initialization of the absolute embedding.
    *grid("zoom", EMBEDDINGS, SEED, **FAN, lr=(1e-3, 2e-3, 4e-3)),
    *grid("zoom", APE, SEED, **FAN, ape_std=(0.02, 0.1, 0.3, 1.0)),
    *grid("field", EMBEDDINGS, SEED, **FIELD, lr=(1e-3, 2e-3, 4e-3)),
    *grid("field", APE, SEED, **FIELD, ape_std=(0.02, 0.1, 0.3, 1.0)),
    # With three seeds.
    *grid("zoom", ROTATIONS, SEEDS, **FAN),
    *grid("zoom", APE, SEEDS, **FAN, ape_std=(0.3, 1.0)),  # too close to choose by one seed
    *grid("field", ROTATIONS, SEEDS, **FIELD),
    *grid("field", APE, SEEDS, **FIELD, ape_std=(0.02,)),
    # Shorter, to save time: the scores drop too much.
    *grid("zoom", ROTATIONS, TWO, **FAN, batch_size=(64,), steps=(650,)),
    *grid("field", ROTATIONS, TWO, **SHORT),
    *grid("field", APE, TWO, **SHORT, ape_std=(0.02,)),
]


def settings_of(panel: str, changes: dict[str, Any]) -> PanelSettings:
    """Apply the changes of a grid to the base settings."""
    named = {"crop": AREAS, "canvas": CANVASES}
    return replace(BASE[panel], **{key: named[key][value] if key in named else value for key, value in changes.items()})


def run_one(row: dict[str, Any], images: tuple[LabeledImages, LabeledImages]) -> dict[str, str]:
    """Train and evaluate one row of the grids, and return its row of the results."""
    device = torch.device("cpu")
    dtype = resolve_precision("auto", device)
    run = Run(panel=row["panel"], embedding=row["embedding"], seed=row["seed"])
    panel = PANEL_CLASSES[run.panel](settings_of(run.panel, row["changes"]), *images)
    how = {"device": device, "dtype": dtype, "report": lambda _: None, "should_stop": lambda: False}
    with tempfile.TemporaryDirectory() as folder:
        result = train(RunJob(run=run, panel=panel, folder=Path(folder), **how))
    facts = environment(device, dtype, workers=1, threads=1)
    line = row | {name: result[name] for name in ("scores", "train_seconds", "eval_seconds", "step_ms")}
    line["where"] = "; ".join(f"{name} {facts[name]}" for name in ("torch", "device", "precision", "threads"))
    return {name: json.dumps(value) if isinstance(value, dict) else str(value) for name, value in line.items()}


def read(path: Path) -> list[dict[str, str]]:
    """Read the existing rows."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def search(path: Path, panels: list[str]) -> None:
    """Run what the results lack, and append each row when it is finished."""
    torch.set_num_threads(1)
    images = load_fashion("search"), load_fashion("val")
    for row in (row for row in GRIDS if row["panel"] in panels):
        key = {name: json.dumps(value) if isinstance(value, dict) else str(value) for name, value in row.items()}
        lines = read(path)
        if any(key.items() <= line.items() for line in lines):
            continue
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            if not lines:
                writer.writeheader()
            writer.writerow(run_one(row, images))


def criterion(panel: str, scores: dict[str, float]) -> float:
    """Return the criterion of the search: the mean score from the training size to twice that."""
    size = BASE[panel].train_size
    return statistics.mean(score for side, score in scores.items() if size <= int(side) <= 2 * size)


def show(path: Path) -> Iterator[str]:
    """Yield the lines of a table per panel: means, with standard deviations where there are several seeds."""
    lines = read(path)
    for panel in BASE:
        sizes = [str(size) for size in BASE[panel].test_sizes]
        yield f"| {panel}: changes | embedding | seeds | {' | '.join(sizes)} | training size to 2x |"
        yield "|" + "---|" * (len(sizes) + 4)
        groups: dict[tuple[str, str], list[dict[str, float]]] = {}
        for line in lines:
            if line["panel"] == panel:
                groups.setdefault((line["changes"], line["embedding"]), []).append(json.loads(line["scores"]))
        for (changes, embedding), runs in sorted(groups.items()):
            cells = [format_mean([run[size] for run in runs]) for size in sizes]
            cells.append(format_mean([criterion(panel, run) for run in runs]))
            named = ", ".join(f"{name} {value}" for name, value in json.loads(changes).items()) or "none"
            yield f"| {named} | {embedding} | {len(runs)} | {' | '.join(cells)} |"
        yield ""


def format_mean(values: list[float]) -> str:
    """Format a mean, with the standard deviation if there are several values."""
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", action="store_true", help="print the results as tables")
    parser.add_argument("--panels", nargs="+", choices=list(BASE), default=list(BASE))
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.show:
        print("\n".join(show(arguments.results)))
    else:
        search(arguments.results, arguments.panels)


if __name__ == "__main__":
    main()
