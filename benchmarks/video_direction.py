"""Direction of motion: tiny video models classify clips of images that move left, right, up or down.

Images move by a patch per frame. A reversed clip shows the opposite direction, so a model that ignores the order of
frames can only recognize the axis of motion: at most 50 % accuracy. Writes results/video_direction.md; takes about
three minutes on one core.

    python benchmarks/video_direction.py
"""

import platform
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ropevit.data.fashion import load_fashion
from ropevit.models import ViT, ViTConfig, parameter_groups

PATCH, SEEDS, STEPS, BATCH, RATE = 4, (0, 1, 2), 400, 32, 3e-3

#: Frames, and patches per side: in training, then larger and longer clips.
TRAINED = (3, 4)
TESTED = (TRAINED, (3, 7), (6, 7), (9, 10))
CLIPS = 500

DIRECTIONS = torch.tensor([[1, 0], [-1, 0], [0, 1], [0, -1]])  # right, left, down, up: x, y

#: name -> config fields that differ
VARIANTS = {
    "none": {"position": "none"},
    "RoPE-Axial, pairs 4, 4, 0": {"position": "rope_axial", "pairs": (4, 4, 0)},
    "RoPE-Axial, pairs 3, 3, 2": {"position": "rope_axial", "pairs": (3, 3, 2)},
    "RoPE-Axial, pairs 2, 2, 4": {"position": "rope_axial", "pairs": (2, 2, 4)},
    "RoPE-Mixed": {"position": "rope_mixed"},
    "absolute": {"position": "ape"},
}


def read(split: str) -> Tensor:
    """Load images, resized to one patch."""
    images = torch.as_tensor(load_fashion(split).images).float().reshape(-1, 1, 28, 28) / 255  # type: ignore[arg-type]
    return F.interpolate(images, size=PATCH, mode="area")[:, 0]


def move(objects: Tensor, frames: int, side: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Move each object (B, 4, 4) in a random direction inside a grid: clips (B, 1, T, H, W), directions."""
    count = len(objects)
    direction = torch.randint(4, (count,), generator=generator)
    travel = (frames - 1) * DIRECTIONS[direction]
    lowest = (torch.rand(count, 2, generator=generator) * (side - travel.abs())).floor().long()
    places = lowest - travel.clamp(max=0) + torch.arange(frames).reshape(-1, 1, 1) * DIRECTIONS[direction]
    x, y = places.unbind(-1)  # (T, B) each
    clips = torch.zeros(count, frames, side, side, PATCH, PATCH)
    clips[torch.arange(count), torch.arange(frames).unsqueeze(1), y, x] = 4 * objects.expand(frames, -1, -1, -1)
    return clips.transpose(3, 4).reshape(count, 1, frames, side * PATCH, side * PATCH), direction


def train(seed: int, changes: dict) -> ViT:
    """Train one model, with AdamW and a cosine."""
    torch.manual_seed(seed)
    frames, side = TRAINED
    model = ViT(
        ViTConfig(
            **{"width": 32, "depth": 2, "heads": 2, "patch_size": PATCH, "in_channels": 1, "num_classes": 4},
            **{"class_token": False, "pooling": "avg", "layer_scale": None},
            **{"img_size": (side * PATCH, side * PATCH), "frames": frames, **changes},
        )
    )
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.weight.mul_(6)  # the default initialization is for models ten times as wide
    optimizer = torch.optim.AdamW(parameter_groups(model, lr=RATE, weight_decay=0.05))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, STEPS, pct_start=0.1)
    objects, generator = read("train"), torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        chosen = torch.randint(len(objects), (BATCH,), generator=generator)
        clips, direction = move(objects[chosen], frames, side, generator)
        F.cross_entropy(model(clips), direction).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return model.eval()


@torch.no_grad()
def evaluate(model: ViT, frames: int, side: int) -> float:
    """Return the accuracy on test clips in percent."""
    clips, direction = move(read("test")[:CLIPS], frames, side, torch.Generator().manual_seed(99))
    predicted = torch.cat([model(part).argmax(1) for part in clips.split(50)])
    return 100 * (predicted == direction).float().mean().item()


def main() -> None:
    torch.set_num_threads(1)
    start, lines = time.process_time(), []
    for name, changes in VARIANTS.items():
        models = [train(seed, changes) for seed in SEEDS]
        found = [[evaluate(model, *test) for model in models] for test in TESTED]
        cells = [f"{statistics.mean(each):.1f} ({min(each):.1f} to {max(each):.1f})" for each in found]
        lines.append(f"| {name} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    names = [f"{frames} frames of {PATCH * side} px" for frames, side in TESTED]
    text = f"""# Which way does it move?

`python benchmarks/video_direction.py`: accuracy in percent on {CLIPS} test clips of four directions; mean of \
{len(SEEDS)} seeds
(smallest to largest). Trained on clips of {names[0]}, {STEPS} steps of {BATCH}.

torch {torch.__version__}, {platform.machine()} CPU, 1 thread, float32, \
{time.process_time() - start:.0f} s of processor time

| position | {" | ".join(names)} |
|---|{"---|" * len(TESTED)}
"""
    (Path(__file__).parent / "results/video_direction.md").write_text(text + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
