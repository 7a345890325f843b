"""Which way does it move? Tiny video models on embedded images that move left, right, up or down, a patch a frame.

A clip run backwards is a clip of the opposite way, so a model that does not see the order of frames can tell along
which axis a thing moves, and is right half of the time at most. Writes results/video_direction.md; about three minutes
of one core.

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

#: Frames, and patches along a side: those of training, then larger and longer ones.
TRAINED = (3, 4)
TESTED = (TRAINED, (3, 7), (6, 7), (9, 10))
CLIPS = 500

WAYS = torch.tensor([[1, 0], [-1, 0], [0, 1], [0, -1]])  # right, left, down, up: x, y

#: name -> what differs
VARIANTS = {
    "none": {"position": "none"},
    "RoPE-Axial, pairs 4, 4, 0": {"position": "rope_axial", "pairs": (4, 4, 0)},
    "RoPE-Axial, pairs 3, 3, 2": {"position": "rope_axial", "pairs": (3, 3, 2)},
    "RoPE-Axial, pairs 2, 2, 4": {"position": "rope_axial", "pairs": (2, 2, 4)},
    "RoPE-Mixed": {"position": "rope_mixed"},
    "absolute": {"position": "ape"},
}


def read(split: str) -> Tensor:
    """Read images as large as a patch."""
    images = torch.as_tensor(load_fashion(split).images).float().reshape(-1, 1, 28, 28) / 255  # type: ignore[arg-type]
    return F.interpolate(images, size=PATCH, mode="area")[:, 0]


def move(things: Tensor, frames: int, side: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Let each thing (B, 4, 4) go its way over side x side patches, not over the edge: clips (B, 1, T, H, W), ways."""
    count = len(things)
    way = torch.randint(4, (count,), generator=generator)
    travel = (frames - 1) * WAYS[way]
    lowest = (torch.rand(count, 2, generator=generator) * (side - travel.abs())).floor().long()
    places = lowest - travel.clamp(max=0) + torch.arange(frames).reshape(-1, 1, 1) * WAYS[way]
    x, y = places.unbind(-1)  # (T, B) each
    clips = torch.zeros(count, frames, side, side, PATCH, PATCH)
    clips[torch.arange(count), torch.arange(frames).unsqueeze(1), y, x] = 4 * things.expand(frames, -1, -1, -1)
    return clips.transpose(3, 4).reshape(count, 1, frames, side * PATCH, side * PATCH), way


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
                module.weight.mul_(6)  # the start is made for models ten times as wide
    optimizer = torch.optim.AdamW(parameter_groups(model, lr=RATE, weight_decay=0.05))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, STEPS, pct_start=0.1)
    things, generator = read("train"), torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        chosen = torch.randint(len(things), (BATCH,), generator=generator)
        clips, way = move(things[chosen], frames, side, generator)
        F.cross_entropy(model(clips), way).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return model.eval()


@torch.no_grad()
def measure(model: ViT, frames: int, side: int) -> float:
    """Measure the percentage of test clips whose way is told."""
    clips, way = move(read("test")[:CLIPS], frames, side, torch.Generator().manual_seed(99))
    told = torch.cat([model(part).argmax(1) for part in clips.split(50)])
    return 100 * (told == way).float().mean().item()


def main() -> None:
    torch.set_num_threads(1)
    begun, lines = time.process_time(), []
    for name, changes in VARIANTS.items():
        models = [train(seed, changes) for seed in SEEDS]
        found = [[measure(model, *test) for model in models] for test in TESTED]
        cells = [f"{statistics.mean(each):.1f} ({min(each):.1f} to {max(each):.1f})" for each in found]
        lines.append(f"| {name} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    names = [f"{frames} frames of {PATCH * side} px" for frames, side in TESTED]
    text = f"""# Which way does it move?

`python benchmarks/video_direction.py`: percentage of {CLIPS} test clips whose way, of four, is told; mean of \
{len(SEEDS)} seeds
(smallest to largest). Trained on clips of {names[0]}, {STEPS} steps of {BATCH}.

torch {torch.__version__}, {platform.machine()} CPU, 1 thread, float32, \
{time.process_time() - begun:.0f} s of processor time

| position | {" | ".join(names)} |
|---|{"---|" * len(TESTED)}
"""
    (Path(__file__).parent / "results/video_direction.md").write_text(text + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
