"""Time and memory of distance biases, as ratios to RoPE-Mixed in the same model.

    python benchmarks/distance_bias.py --size 224 --rounds 7          # inference and a training step
    python benchmarks/distance_bias.py --size 1024 --memory-only      # estimated from shapes, nothing is computed

All models take one step in turn in each round, and each is compared with RoPE-Mixed of the same round: median and
quartiles of the ratios. Memory is the peak of one forward and backward pass (`ropevit.models.memory.step_memory`).
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ropevit.models import ViT, ViTConfig
from ropevit.models.memory import step_memory

FIRST = "rope_mixed"
POSITIONS = (FIRST, "rope_mixed_gaussian", "rope_mixed_decay", "alibi", "alibi_learned", "lookhere", "log_cpb", "fire")


def make(position: str, size: int, depth: int) -> ViT:
    """Build a ViT-S of a depth, with patches of 16 pixels."""
    return ViT(ViTConfig(position=position, width=384, depth=depth, heads=6, img_size=(size, size), num_classes=100))


def infer(model: nn.Module, images: Tensor) -> None:
    """Run a forward pass without gradients."""
    with torch.no_grad():
        model(images)


def learn(model: nn.Module, images: Tensor) -> None:
    """Run a forward and a backward pass."""
    model.zero_grad()
    model(images).square().sum().backward()


def ratios(
    run: Callable[[nn.Module, Tensor], None], models: dict[str, ViT], images: Tensor, rounds: int
) -> dict[str, list[float]]:
    """Time every model in turn, one round to warm up, and divide by the first model of the same round."""
    found = {name: [] for name in models}
    for index in range(rounds + 1):
        times = {}
        for name, model in models.items():
            start = time.perf_counter()
            run(model, images)
            times[name] = time.perf_counter() - start
        for name, seconds in times.items():
            found[name] += [seconds / times[FIRST]] * (index > 0)
    return found


def show(values: list[float]) -> str:
    """Write median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory-only", action="store_true")
    args = parser.parse_args()
    images = torch.randn(args.batch, 3, args.size, args.size)
    peaks = {
        name: step_memory(
            lambda name=name: make(name, args.size, args.depth),
            lambda model: model(torch.zeros(images.shape)).square().sum(),
        )
        for name in POSITIONS
    }
    timed = {}
    if not args.memory_only:
        models = {name: make(name, args.size, args.depth) for name in POSITIONS}
        timed = {run.__name__: ratios(run, models, images, args.rounds) for run in (infer, learn)}
    print(f"ViT-S, depth {args.depth}, {args.batch} images of {args.size} pixels, torch {torch.__version__}, float32")
    print("| position | " + " | ".join([*timed, "memory"]) + " |")
    print("|---" * (len(timed) + 2) + "|")
    for name in POSITIONS:
        cells = [show(times[name]) for times in timed.values()]
        print(f"| `{name}` | " + " | ".join([*cells, f"{peaks[name] / peaks[FIRST]:.2f}"]) + " |")


if __name__ == "__main__":
    main()
