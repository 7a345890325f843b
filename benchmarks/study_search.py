"""Search settings for `ropevit study` on held-out training images, never on the test images.

    python benchmarks/study_search.py GRID [GRID ...]     # names of grids below; all of them without a name

Trains on 9,000 of the embedded training images and measures on the other 1,000, with seeds from 100 on, one thread.
Each run adds a line to `results/study_search.csv`; runs that are there already are skipped.
"""

import argparse
import csv
import itertools
import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ropevit.data.canvas import CanvasLaw
from ropevit.data.crops import CropLaw
from ropevit.data.fashion import load_fashion
from ropevit.study.device import environment, resolve_precision
from ropevit.study.events import Run
from ropevit.study.panels import PANEL_CLASSES
from ropevit.study.settings import PanelSettings
from ropevit.study.train import Job, train

RESULTS = Path(__file__).parent / "results/study_search.csv"
COLUMNS = [
    "grid",
    "panel",
    "embedding",
    "seed",
    "changes",
    "scores",
    "train_seconds",
    "eval_seconds",
    "step_ms",
    "where",
]
EMBEDDINGS = ("ape", "rope_axial", "rope_mixed")

AREAS = {
    "log .08-1": CropLaw(smallest=0.08, largest=1.0, law="log"),
    "uniform .08-1": CropLaw(smallest=0.08, largest=1.0, law="uniform"),
    "log .08-.7": CropLaw(smallest=0.08, largest=0.7, law="log"),
    "log .2-1": CropLaw(smallest=0.2, largest=1.0, law="log"),
}
CANVASES = {f"item {size}": CanvasLaw(item_size=size, density=0.8, noise=0.06) for size in (16, 20, 24)}
CANVASES |= {
    f"plain {size}": CanvasLaw(item_size=size, density=0.5, noise=0.05, jitter=1.1, turn=0.0) for size in (16, 20, 24)
}

COMMON = {"patch_size": 4, "width": 64, "depth": 4, "heads": 2, "lr": 2e-3, "ape_std": 0.3, "start": "deit"}
#: Where the search began; every line of the results names what it changes.
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
    """Name every combination of some settings."""
    for values in itertools.product(*axes.values()):
        for embedding, seed in itertools.product(embeddings, seeds):
            named = dict(zip(axes, values, strict=True))
            changes = {key: value for key, value in named.items() if value != getattr(BASE[panel], key)}
            yield {"panel": panel, "embedding": embedding, "seed": seed, "changes": changes}


PAIR = ("ape", "rope_mixed")
FAN = ("fan_in",)

GRIDS = {
    "zoom-crop-deit": [*grid("zoom", EMBEDDINGS, (100,), crop=("log .08-1",))],
    "field-item-deit": [*grid("field", PAIR, (100,), canvas=("item 16",))],
    "zoom-batch": [
        *grid("zoom", PAIR, (100,), start=FAN),
        *grid("zoom", PAIR, (100,), start=FAN, batch_size=(64,), steps=(900,)),
    ],
    "field-batch": [
        *grid("field", PAIR, (100,), start=FAN, canvas=("item 20",)),
        *grid("field", PAIR[:1], (100,), start=FAN, canvas=("item 20",), batch_size=(32,), steps=(800,)),
        *grid("field", PAIR[1:], (100,), start=FAN, canvas=("plain 20",)),
        *grid("field", PAIR[1:], (100,), start=FAN, canvas=("plain 20",), lr=(4e-3,)),
        *grid("field", PAIR[1:], (100,), start=FAN, canvas=("plain 20",), batch_size=(32,), steps=(800,)),
        *grid("field", PAIR[1:], (100,), start=FAN, canvas=("plain 20",), batch_size=(32,), steps=(800,), lr=(4e-3,)),
        *grid("field", PAIR[1:], (100,), start=FAN, canvas=("plain 20",), batch_size=(16,), steps=(1500,)),
        *grid("field", PAIR[1:], (100,), start=FAN, canvas=("plain 24",), batch_size=(32,), steps=(800,)),
    ],
    "zoom-lr": [*grid("zoom", EMBEDDINGS, (100,), start=FAN, lr=(1e-3, 2e-3, 4e-3))],
    "zoom-ape": [*grid("zoom", ("ape",), (100,), start=FAN, ape_std=(0.02, 0.1, 0.3, 1.0))],
}


def settings_of(panel: str, changes: dict[str, Any]) -> PanelSettings:
    """Apply the changes of a grid to the base settings."""
    named = {"crop": AREAS, "canvas": CANVASES}
    return replace(BASE[panel], **{key: named[key][value] if key in named else value for key, value in changes.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grids", nargs="*", help=f"of {', '.join(GRIDS)}")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device("cpu")
    dtype = resolve_precision("auto", device)
    facts = environment(device, dtype, 1, 1)
    where = "; ".join(f"{key} {facts[key]}" for key in ("torch", "device", "precision", "threads"))
    images = load_fashion("search"), load_fashion("val")
    done = set()
    if arguments.results.exists():
        with arguments.results.open(newline="") as file:
            done = {(row["panel"], row["embedding"], row["seed"], row["changes"]) for row in csv.DictReader(file)}
    for name in arguments.grids or GRIDS:
        for row in GRIDS[name]:
            key = row["panel"], row["embedding"], str(row["seed"]), json.dumps(row["changes"])
            if key in done:
                continue
            run = Run(panel=row["panel"], embedding=row["embedding"], seed=row["seed"])
            panel = PANEL_CLASSES[run.panel](settings_of(run.panel, row["changes"]), *images)
            with tempfile.TemporaryDirectory() as folder:
                result = train(
                    Job(
                        run=run,
                        panel=panel,
                        folder=Path(folder),
                        device=device,
                        dtype=dtype,
                        report=lambda _: None,
                        should_stop=lambda: False,
                    )
                )
            done.add(key)
            times = {key: result[key] for key in ("train_seconds", "eval_seconds", "step_ms")}
            line = row | times | {"grid": name, "where": where}
            line |= {"changes": json.dumps(row["changes"]), "scores": json.dumps(result["scores"])}
            fresh = not arguments.results.exists()
            with arguments.results.open("a", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                if fresh:
                    writer.writeheader()
                writer.writerow(line)


if __name__ == "__main__":
    main()
