"""Gain of `ropevit.add_rope` and a short fine-tuning over fine-tuning alone, for a ViT with absolute embedding.

    python benchmarks/retrofit.py                     # three seeds on the test images; about ten minutes of one core
    python benchmarks/retrofit.py --quick             # seconds: a smoke test; its results mean nothing
    python benchmarks/retrofit.py --search            # choose rope type and learning rate, on held-out training images
    python benchmarks/retrofit.py --show              # print the table of existing results

A small `VisionTransformer` of timm is trained on the embedded images at 28 pixels (panel `zoom` of `ropevit study`).
Then each arm is fine-tuned from those weights, with the same images in the same order for equally many steps: without
rotation (`ape`, the control), with `add_rope(rope_type="mixed")`, and with `rope_type="axial"`. All are evaluated at
sizes below and above 28. Finished arms are skipped: each adds rows to results/retrofit.csv (retrofit_search.csv), from
which results/retrofit.png is drawn.
"""

import argparse
import copy
import csv
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import ropevit
from ropevit.data.fashion import load_fashion
from ropevit.integrations.retrofit import rope_parameters
from ropevit.study.panels import ZoomPanel
from ropevit.study.settings import PanelSettings, preset
from ropevit.study.train import learning_rate, rescale_init

RESULTS = Path(__file__).parent / "results"
COLUMNS = ["split", "seed", "arm", "rope_lr", "steps", "size", "accuracy"]

#: Learning rate of frequencies and gates, relative to that of the other weights; --search compares values.
ROPE_LR = 10.0
ARMS = [("before", 1.0), ("ape", 1.0), ("mixed", ROPE_LR), ("axial", ROPE_LR)]
SEARCH = [
    ("before", 1.0),
    ("ape", 1.0),
    *((rope_type, rate) for rope_type in ("mixed", "axial") for rate in (1.0, 10.0, 50.0)),
]

STYLES = {"before": ("#999999", "x"), "ape": ("#D55E00", "s"), "mixed": ("#009E73", "o"), "axial": ("#0072B2", "^")}
LABELS = {
    "before": "pretrained, absolute embedding",
    "ape": "fine-tuned without rotation",
    "mixed": 'add_rope(rope_type="mixed"), fine-tuned',
    "axial": 'add_rope(rope_type="axial"), fine-tuned',
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    for name in ("quick", "search", "show"):
        parser.add_argument(f"--{name}", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) if options.quick else RESULTS
        path = folder / ("retrofit_search.csv" if options.search else "retrofit.csv")
        if not options.show:
            first = 100 if options.search else 0
            for seed in range(first, first + (1 if options.quick else options.seeds)):
                run_seed(path, seed, SEARCH if options.search else ARMS, options.quick, options.search)
        show(path)
        if not options.search:
            draw(path, path.with_suffix(".png"))


def settings_of(quick: bool) -> tuple[PanelSettings, PanelSettings]:
    """Return the settings of pretraining and fine-tuning."""
    pretraining = replace(preset("fashion", "zoom", quick), test_sizes=(16, 20, 28, 40, 56), test_images=1000)
    if quick:
        pretraining = replace(pretraining, steps=4, test_images=50)
    return pretraining, replace(pretraining, steps=2 if quick else 150, lr=5e-4)


def run_seed(path: Path, seed: int, arms: list[tuple[str, float]], quick: bool, search: bool) -> None:
    """Train and evaluate the arms of a seed that the file lacks."""
    train, test = ("search", "val") if search else ("train", "test")
    missing = [(arm, rate) for arm, rate in arms if (str(seed), arm, str(rate)) not in finished_arms(path)]
    if not missing:
        return
    first, second = (ZoomPanel(part, load_fashion(train), load_fashion(test)) for part in settings_of(quick))
    cache = Path(tempfile.gettempdir()) / f"ropevit_retrofit_{train}_{seed}_{first.settings.steps}.pt"
    pretrained = pretrain(first, seed, cache)
    for arm, rate in missing:
        model = copy.deepcopy(pretrained)
        if arm in ("mixed", "axial"):
            ropevit.add_rope(model, rope_type=arm)
        if arm != "before":
            train_model(model, second, seed + 1000, rate)
        scores = evaluate(model, second)
        rows = [[test, seed, arm, rate, second.settings.steps, size, f"{score:.2f}"] for size, score in scores.items()]
        append(path, rows)
        print(seed, arm, rate, scores, flush=True)


def pretrain(panel: ZoomPanel, seed: int, cache: Path) -> nn.Module:
    """Train a small ViT of timm with absolute embedding, or load it from an interrupted run."""
    torch.manual_seed(seed)
    settings = panel.settings
    model = VisionTransformer(
        img_size=settings.train_size, patch_size=settings.patch_size, in_chans=1, num_classes=len(panel.labels),
        embed_dim=settings.width, depth=settings.depth, num_heads=settings.heads, class_token=False, fc_norm=False,
        global_pool="avg", dynamic_img_size=True,
    )  # fmt: skip
    if cache.exists():
        model.load_state_dict(torch.load(cache, weights_only=True))
    else:
        rescale_init(model.blocks)
        nn.init.normal_(model.pos_embed, std=settings.ape_std)
        train_model(model, panel, seed)
        torch.save(model.state_dict(), cache)
    return model


def parameter_groups(model: nn.Module, settings: PanelSettings, rope_lr: float) -> list[dict]:
    """Return the parameter groups: only matrices are decayed; rotations have their own learning rate."""
    rope = rope_parameters(model)
    others = {name: parameter for name, parameter in model.named_parameters() if name not in rope}
    matrices = [parameter for parameter in others.values() if parameter.ndim > 1]
    vectors = [parameter for parameter in others.values() if parameter.ndim <= 1]
    return [
        {"params": matrices, "weight_decay": settings.weight_decay, "scale": 1.0},
        {"params": vectors, "weight_decay": 0.0, "scale": 1.0},
        {"params": list(rope.values()), "weight_decay": 0.0, "scale": rope_lr},
    ]


def train_model(model: nn.Module, panel: ZoomPanel, seed: int, rope_lr: float = 1.0) -> None:
    """Train all parameters of a model."""
    settings = panel.settings
    optimizer = torch.optim.AdamW(parameter_groups(model, settings, rope_lr), lr=settings.lr)
    model.train()
    for step in range(settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = group["scale"] * learning_rate(settings, step)
        panel.loss(model, *panel.batch(seed, step)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()
        optimizer.zero_grad()


@torch.no_grad()
def evaluate(model: nn.Module, panel: ZoomPanel) -> dict[int, float]:
    """Return top-1 accuracy in percent at each size."""
    model.eval()
    return {size: panel.score(model, size, lambda: None) for size in panel.settings.test_sizes}


def finished_arms(path: Path) -> set[tuple[str, str, str]]:
    """Return the seeds, arms and rates in a file."""
    return {(row["seed"], row["arm"], row["rope_lr"]) for row in read(path)}


def read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def append(path: Path, rows: list[list]) -> None:
    fresh = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([COLUMNS, *rows] if fresh else rows)


def curves(path: Path) -> dict[tuple[str, str], dict[int, list[float]]]:
    """Collect the accuracies of the seeds by arm, rate and size."""
    found: dict[tuple[str, str], dict[int, list[float]]] = {}
    for row in read(path):
        curve = found.setdefault((row["arm"], row["rope_lr"]), {})
        curve.setdefault(int(row["size"]), []).append(float(row["accuracy"]))
    return found


def show(path: Path) -> None:
    """Print means and standard deviations, and the differences of each arm to the control of the same seed."""
    found = curves(path)
    if not found:
        return
    control = found.get(("ape", "1.0"), {})
    sizes = sorted(next(iter(found.values())))
    print(f"| model | learning rate of the RoPE parameters / base rate | {' | '.join(map(str, sizes))} |")
    print("|" + "---|" * (len(sizes) + 2))
    for (arm, rate), curve in found.items():
        cells = [f"{statistics.mean(curve[size]):.1f} ± {spread(curve[size]):.1f}" for size in sizes]
        print(f"| {LABELS[arm]} | {rate} | {' | '.join(cells)} |")
        if arm in ("mixed", "axial") and control:
            cells = [added(curve[size], control[size]) for size in sizes]
            print(f"| ... over the control, seed by seed | | {' | '.join(cells)} |")


def added(scores: list[float], control: list[float]) -> str:
    """Format the mean, minimum and maximum of the differences."""
    each = [score - other for score, other in zip(scores, control, strict=False)]
    return f"{statistics.mean(each):+.1f} ({min(each):+.1f} to {max(each):+.1f})"


def spread(scores: list[float]) -> float:
    return statistics.stdev(scores) if len(scores) > 1 else 0.0


def draw(path: Path, target: Path) -> None:
    """Draw accuracy against test size, before and after."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.2, 4.8), layout="constrained")
    axes = figure.subplots()
    for (arm, _), curve in curves(path).items():
        color, marker = STYLES[arm]
        sizes = sorted(curve)
        mean = [statistics.mean(curve[size]) for size in sizes]
        axes.plot(sizes, mean, color=color, marker=marker, markersize=5, label=LABELS[arm])
        low, high = ([m + s * spread(curve[size]) for m, size in zip(mean, sizes, strict=True)] for s in (-1, 1))
        axes.fill_between(sizes, low, high, color=color, alpha=0.18, linewidth=0)
    axes.axvline(28, color="#555555", linewidth=0.8, linestyle=":")
    axes.set(xlabel="test size (pixels); trained and fine-tuned at 28", ylabel="top-1 accuracy (%)")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(target, dpi=120)


if __name__ == "__main__":
    main()
