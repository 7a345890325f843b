"""Search for RoPE scaling methods beyond the training size, on held-out training images, never on the test images.

    python benchmarks/rules_search.py                 # train and evaluate what the results lack
    python benchmarks/rules_search.py --panels field  # one panel only: two calls may run in parallel
    python benchmarks/rules_search.py --show          # print the results as tables

Trains the study's small ViT on 9,000 of the embedded training images and evaluates on 500 of the other 1,000, with
seeds from 100 and one thread. Every model is evaluated with many scaling methods at 1 to 4 times the training size.
Each row of `results/rules_search_PANEL.csv` has the embedding, and the scaling (`rule`) in training and in evaluation.
"""

import argparse
import csv
import json
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ropevit.data.fashion import load_fashion
from ropevit.machine import environment
from ropevit.models import set_scaling
from ropevit.models.vit import ViT
from ropevit.study.events import Run
from ropevit.study.panels import PANEL_CLASSES, FieldPanel, ZoomPanel
from ropevit.study.precision import resolve_precision
from ropevit.study.settings import FASHION, PanelSettings
from ropevit.study.train import RunJob, train
from ropevit.weights import load_model

RESULTS = Path(__file__).parent / "results"
MODELS = Path("runs/rules_search")
COLUMNS = ["panel", "embedding", "seed", "training", "rule", "scores", "where"]
#: Training size, and 2, 3 and 4 times that.
SIZES = {"field": (32, 64, 96, 128), "zoom": (28, 56, 84, 112)}

METHODS = (
    "", "pi", "ntk", "log", "ntk+log", "ntk+log(power=1.5)", "parts", "parts+log", "yarn", "ntk+entropy",
    "parts(slow=0.25,fast=1)", "parts(slow=0.25,fast=1)+log", "parts(slow=0.5,fast=1)+log",
)  # fmt: skip
#: Methods for the evaluation of the other models.
FEW = ("", "pi", "ntk+log", "parts+log", "parts(slow=0.25,fast=1)+log")

#: Embeddings, seeds, scaling in training, scaling methods in evaluation.
GRIDS = [
    (("rope_mixed",), (100,), ("",), METHODS),
    (("rope_mixed",), (100,), ("jitter(rescale=2)",), FEW),
    (("rope_spiral",), (100,), ("",), ("", "log", "ntk+log", "parts+log")),
]


def settings_of(panel: str) -> PanelSettings:
    """Return the study's settings, with sizes up to four times the training size, and fewer test images."""
    return replace(FASHION[panel], test_sizes=SIZES[panel], test_images=500, test_canvases=150)


class WithoutEvaluation:
    """A panel that skips the evaluation after training: `evaluate` follows, for each scaling method."""

    def __init__(self, panel: ZoomPanel | FieldPanel):
        self.panel = panel

    def __getattr__(self, name: str) -> Any:
        return getattr(self.panel, name)

    def score(self, *_: Any) -> float:
        """Return 0 instead of a score."""
        return 0.0


def load_or_train(run: Run, panel: ZoomPanel | FieldPanel) -> ViT:
    """Train a model, or load it if it was trained before."""
    folder = MODELS / run.name
    if not (folder / "model.safetensors").exists():
        how = {"device": torch.device("cpu"), "dtype": resolve_precision("auto", torch.device("cpu"))}
        how |= {"report": lambda _: None, "should_stop": lambda: False}
        train(RunJob(run=run, panel=WithoutEvaluation(panel), folder=folder, **how))
    model, _ = load_model(str(folder / "model.safetensors"))
    return model.eval()


def read(path: Path) -> list[dict[str, str]]:
    """Read the existing rows."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def add(path: Path, line: dict[str, Any]) -> None:
    """Append a row to the results."""
    first = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if first:
            writer.writeheader()
        writer.writerow(line)


def search(name: str) -> None:
    """Train and evaluate what the results of a panel lack."""
    path = RESULTS / f"rules_search_{name}.csv"
    panel = PANEL_CLASSES[name](settings_of(name), load_fashion("search"), load_fashion("val"))
    facts = environment(torch.device("cpu"), torch.float32, workers=1, threads=1)
    where = "; ".join(f"{key} {facts[key]}" for key in ("torch", "device", "threads"))
    for embeddings, seeds, trainings, methods in GRIDS:
        for embedding in embeddings:
            for seed in seeds:
                for training in trainings:
                    run = Run(panel=name, embedding=embedding, seed=seed, train_scaling=training or None)
                    evaluate(path, run, panel, methods, where)


def evaluate(path: Path, run: Run, panel: ZoomPanel | FieldPanel, methods: tuple[str, ...], where: str) -> None:
    """Evaluate a model with the scaling methods that the results lack."""
    key = {"panel": run.panel, "embedding": run.embedding, "seed": str(run.seed), "training": run.train_scaling or ""}
    done = [line for line in read(path) if key.items() <= line.items()]
    missing = [scaling for scaling in methods if scaling not in [line["rule"] for line in done]]
    if not missing:
        return
    model = load_or_train(run, panel)
    for scaling in missing:
        set_scaling(model, scaling or None)
        with torch.no_grad():
            scores = {size: round(panel.score(model, size, lambda: None), 3) for size in panel.settings.test_sizes}
        add(path, key | {"rule": scaling, "scores": json.dumps(scores), "where": where})
        print(*key.values(), scaling or "none", scores, flush=True)


def show(name: str) -> Iterator[str]:
    """Yield the lines of a table: means over the seeds, with standard deviations."""
    lines = read(RESULTS / f"rules_search_{name}.csv")
    sizes = [str(size) for size in SIZES[name]]
    yield f"| {name}: embedding | trained with | measured with | seeds | {' | '.join(sizes)} |"
    yield "|" + "---|" * (len(sizes) + 4)
    groups: dict[tuple[str, ...], list[dict[str, float]]] = {}
    for line in lines:
        key = line["embedding"], line["training"] or "-", line["rule"] or "-"
        groups.setdefault(key, []).append(json.loads(line["scores"]))
    for key, found in groups.items():
        cells = [format_mean([scores[size] for scores in found]) for size in sizes]
        yield f"| {' | '.join(key)} | {len(found)} | {' | '.join(cells)} |"


def format_mean(values: list[float]) -> str:
    """Format a mean, with the standard deviation if there are several values."""
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", action="store_true", help="print the results as tables")
    parser.add_argument("--panels", nargs="+", choices=list(SIZES), default=list(SIZES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.panels:
        if arguments.show:
            print("\n".join(show(name)), end="\n\n")
        else:
            search(name)


if __name__ == "__main__":
    main()
