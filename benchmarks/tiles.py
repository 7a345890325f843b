"""Evaluation of large images as a whole or in windows of the training size, with the models of a study's `field` panel.

    ropevit study --panels field --embeddings rope_axial rope_mixed --test-sizes 32 64 96 128 --seeds 3 --out runs/tiles
    python benchmarks/tiles.py --study runs/tiles    # evaluate what the results lack
    python benchmarks/tiles.py --show                # print the tables of results/fashion_study.md

Every model is evaluated on the study's test canvases: whole, without and with RoPE scaling; in adjacent tiles; and in
windows half the training size apart, whose probabilities are averaged where they overlap. The model sees nothing
outside a window. Each row of `results/tiles.csv` is a model, a way of evaluation and a size.
"""

import argparse
import csv
import json
import statistics
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from pooled import FASHION_PAGE, SCALING, Arm, Scores, Training, fraction_of_gain, interval, paired, read_panel, table
from torch import Tensor

from ropevit.data.fashion import load_fashion
from ropevit.machine import environment
from ropevit.models import set_scaling
from ropevit.models.vit import ViT
from ropevit.study.panels import FieldPanel
from ropevit.study.panels.pixels import pixel_logits
from ropevit.study.settings import FASHION
from ropevit.weights import load_model

RESULTS = Path(__file__).parent / "results/tiles.csv"
COLUMNS = ["embedding", "seed", "way", "size", "mIoU", "where"]
SIZES = (32, 64, 96, 128)
METHODS = ("log", "parts(slow=0.5,fast=1)+log")
#: Way of evaluation -> windows per training size, along each axis.
WINDOWS = {"tiles": 1, "overlapping windows": 2}


def windowed(model: ViT, images: Float[Tensor, "B c H W"], parts: int) -> Float[Tensor, "B L H W"]:
    """Add up the probabilities that windows of the training size give each pixel, a training size / parts apart."""
    side = model.config.img_size[0]
    total: Any = 0
    for top in starts(images.shape[2], side, side // parts):
        for left in starts(images.shape[3], side, side // parts):
            rows, columns = slice(top, top + side), slice(left, left + side)
            found = pixel_logits(model, images[..., rows, columns]).softmax(1)
            total = images.new_zeros(*found.shape[:2], *images.shape[2:]) if isinstance(total, int) else total
            total[..., rows, columns] += found
    return total


def starts(length: int, side: int, step: int) -> list[int]:
    """Return the starts of windows, `step` apart from 0; the last one ends with the image.

    Raises:
        ValueError: If there is no room for one.
    """
    if length < side:
        raise ValueError(f"got an image of {length} pixels; expected at least the window, {side} pixels")
    return sorted({*range(0, length - side, step), length - side})


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


def models(study: Path) -> Iterator[tuple[str, int, ViT]]:
    """Load the `field` models of a study of the embedded images.

    Raises:
        ValueError: If it has none, or trained them with other settings.
    """
    folders = sorted(path.parent for path in (study / "runs").glob("field-*/model.safetensors"))
    if not folders:
        raise ValueError(f"no model of field in {study}; expected the directory of `ropevit study --panels field`")
    for folder in folders:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        expected = {**FASHION["field"].to_dict(), "test_sizes": result["settings"]["test_sizes"]}
        if result["settings"] != expected:
            raise ValueError(f"{folder} was trained with other settings; expected the defaults of `ropevit study`")
        model, _ = load_model(str(folder / "model.safetensors"))
        yield result["embedding"], result["seed"], model.eval()


def evaluate(study: Path, path: Path) -> None:
    """Evaluate what the results lack."""
    facts = environment(torch.device("cpu"), torch.float32, workers=1, threads=torch.get_num_threads())
    where = "; ".join(f"{name} {facts[name]}" for name in ("torch", "device", "threads"))
    inputs = replace(FASHION["field"], test_sizes=SIZES), load_fashion("train"), load_fashion("test")
    panel = FieldPanel(*inputs)
    for embedding, seed, model in models(study):
        ways: dict[str, tuple[Any, str | None]] = {"whole": (pixel_logits, None)}
        if model.config.rope:
            ways |= {f"whole, {method}": (pixel_logits, method) for method in METHODS}
        ways |= {way: (partial(windowed, parts=parts), None) for way, parts in WINDOWS.items()}
        for way, (logits, scaling) in ways.items():
            if model.config.rope:
                set_scaling(model, scaling)
            for size in SIZES:
                key = {"embedding": embedding, "seed": str(seed), "way": way, "size": str(size)}
                if any(key.items() <= line.items() for line in read(path)):
                    continue
                with torch.no_grad():
                    score = panel.iou(size, lambda: None, lambda images, f=logits, m=model: f(m, images).argmax(1))
                add(path, key | {"mIoU": f"{score:.4f}", "where": where})
                print(*key.values(), f"{score:.1f}", flush=True)


def read_scores(path: Path) -> dict[tuple[str, str, int], dict[Training, float]]:
    """Read scores by embedding, way and size, one per seed."""
    found: dict[tuple[str, str, int], dict[Training, float]] = {}
    for line in read(path):
        at = found.setdefault((line["embedding"], line["way"], int(line["size"])), {})
        at[Training(path.name, int(line["seed"]))] = float(line["mIoU"])
    return found


def score_table(path: Path) -> list[str]:
    """Return the table of every embedding and way: mean, minimum and maximum of the seeds."""
    found = read_scores(path)
    rows = []
    for embedding, way in dict.fromkeys((embedding, way) for embedding, way, _ in found):
        cells = [spread(list(found.get((embedding, way, size), {}).values())) for size in SIZES]
        rows.append([f"`{embedding}`", format_way(way), *cells])
    return table(["field: trained", "measured", *map(str, SIZES)], rows)


def spread(values: list[float]) -> str:
    if not values:
        return ""
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else mean


def format_way(way: str) -> str:
    """Format a way of evaluation, with its scaling as code."""
    base, _, scaling = way.partition(", ")
    return f"{base}, `{scaling}`" if scaling else base


def difference_table(path: Path) -> list[str]:
    """Return the table of overlapping windows compared with whole images, of the same models: mean and interval."""
    found = read_scores(path)
    rows = []
    for embedding, way in dict.fromkeys((embedding, way) for embedding, way, _ in found):
        if way not in WINDOWS:
            cells = [difference(found, embedding, way, size) for size in SIZES[1:]]
            rows.append([f"`{embedding}`: overlapping windows over {format_way(way)}", *cells])
    return table(["field: difference", *map(str, SIZES[1:])], rows)


def difference(found: dict[tuple[str, str, int], dict[Training, float]], embedding: str, way: str, size: int) -> str:
    cells = [found.get((embedding, each, size), {}) for each in ("overlapping windows", way)]
    values = list(paired(*cells).values())
    return str(interval(values)) if len(values) > 1 else "".join(f"{value:+.1f}" for value in values)


def window_table(path: Path) -> list[str]:
    """Return the table of overlapping windows compared with the training size and with other rope types, by seed."""
    found, panel = read_scores(path), read_panel("field")
    windows = {(embedding, size): scores for (embedding, way, size), scores in found.items() if way == list(WINDOWS)[1]}
    spiral, polar = Arm("rope_spiral"), Arm("rope_polar", SCALING)
    rows = []
    for embedding in dict.fromkeys(embedding for embedding, _ in windows):
        here = [windows[embedding, size] for size in SIZES[1:]]
        rows.append(
            [f"`{embedding}` in windows over itself at {SIZES[0]}", *over(here, [found[embedding, "whole", 32]])]
        )
        for arm in (spiral, polar):
            rows.append([f"`{embedding}` in windows over {arm}", *over(here, [panel[arm, size] for size in SIZES[1:]])])
    both = [[windows[embedding, size] for size in SIZES[1:]] for embedding in ("rope_mixed", "rope_axial")]
    rows.append(["`rope_mixed` over `rope_axial`, both in windows", *over(*both)])
    return table(["field: difference", *map(str, SIZES[1:])], rows)


def over(scores: list[Scores], others: list[Scores]) -> list[str]:
    """Format the intervals of paired differences of cells, by seed; a single other cell is used for all."""
    cells = []
    for these, those in zip(scores, others * (len(scores) // len(others)), strict=True):
        known = {key.seed: score for key, score in those.items()}
        cells.append(str(interval([score - known[key.seed] for key, score in these.items()])))
    return cells


def fraction_table(path: Path) -> list[str]:
    """Return the table of the fraction of a method's gain that `log` alone gives: of the means, and range of seeds."""
    found = read_scores(path)
    ways = "whole", f"whole, {METHODS[0]}", f"whole, {METHODS[1]}"
    rows = []
    for embedding in dict.fromkeys(embedding for embedding, _, _ in found):
        fractions = []
        for size in SIZES[1:]:
            each = [[found[embedding, way, size][key] for way in ways] for key in found[embedding, ways[0], size]]
            seeds = [fraction_of_gain(*seed) for seed in each]
            whole = fraction_of_gain(*(statistics.mean(scores) for scores in zip(*each, strict=True)))
            fractions.append(f"{whole:.0f} % ({min(seeds):.0f} to {max(seeds):.0f})")
        rows.append([f"`{embedding}`: fraction of `{METHODS[0]}` in the gain of `{METHODS[1]}`", *fractions])
    return table(["field", *map(str, SIZES[1:])], rows)


def tables(path: Path = RESULTS) -> Iterator[tuple[str, list[str]]]:
    """Yield the page of each table, and its lines."""
    yield FASHION_PAGE, score_table(path)
    yield FASHION_PAGE, difference_table(path)
    yield FASHION_PAGE, window_table(path)
    yield FASHION_PAGE, fraction_table(path)


def main() -> None:
    """Evaluate unless --show is given, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, default=Path("runs/tiles"), help="directory of the study")
    parser.add_argument("--show", action="store_true", help="print the results as tables")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.show:
        evaluate(arguments.study, RESULTS)
    for page, lines in tables():
        print(f"{page}:\n", *lines, "", sep="\n")


if __name__ == "__main__":
    main()
