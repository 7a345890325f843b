"""A training of a few seconds on a subset of the embedded images, and helpers to run it in forked processes.

What forks must not have computed anything with PyTorch before: its threads would be missing in the fork.
"""

import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from ropevit.data.fashion import load_fashion
from ropevit.data.labeled import LabeledImages
from ropevit.data.sources import MemorySource
from ropevit.tasks.classify import train as classify
from ropevit.tasks.classify.config import TrainConfig
from ropevit.tasks.classify.recipes import find_recipe
from ropevit.tasks.training.events import Report, silent

for module in ("accelerate", "timm.data", "timm.loss", "timm.optim", "timm.scheduler", "torchvision.transforms"):
    import_module(module)  # once, before the forks


def small(out: Path, epochs: int = 4, **run: Any) -> TrainConfig:
    """Return the config of a training of 20 steps per epoch with LAMB, mixup and repeated augmentation, as DeiT III."""
    config = find_recipe("fashion")
    changes = {"workers": 0, "log_interval": 1, "save_interval": 2, "resume": True, "device": "cpu", "out": out, **run}
    return replace(
        config,
        batch_size=32,
        loss="binary",
        model=replace(config.model, width=32, depth=2, heads=2),
        augment=replace(config.augment, auto_augment="three_augment", mixup=0.8, cutmix=1.0, aug_repeats=3),
        optim=replace(config.optim, optimizer="lamb", lr=4e-3, epochs=epochs, ema_decay=0.99),
        run=replace(config.run, **changes),
    )


def part(images: LabeledImages, count: int) -> MemorySource:
    """Return the first images of a set."""
    return MemorySource(replace(images, images=images.images[:count], labels=images.labels[:count]))


def train(config: TrainConfig, report: Report = silent) -> dict[str, float]:
    """Train on 660 of the embedded images, and evaluate on 100."""
    import torch

    torch.set_num_threads(1)
    sources = {"train": part(load_fashion("train"), 660), "val": part(load_fashion("test"), 100)}
    classify.open_source = lambda _data, split: sources[split]  # type: ignore[assignment]
    return classify.train(config, report)


def fork(work: Callable[[], object], **environment: str) -> int:
    """Run a function in a forked process, and return its process id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    os.environ.update(environment)
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def finished(child: int) -> bool:
    """Wait for a process, and return whether it exited with code 0."""
    return os.waitpid(child, 0)[1] == 0
