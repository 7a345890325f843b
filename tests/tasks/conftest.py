"""A training of a second: a tiny ViT on some of the embedded images."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from embedded import read_once
from ropevit.data.sources import MemorySource
from ropevit.tasks.classify import train as classify
from ropevit.tasks.classify.recipes import find_recipe


@contextmanager
def few_images():
    """Let trainings of classifiers read a few of the embedded images, in one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    parts = {"train": read_once("train"), "val": read_once("test")}
    counts = {"train": 67, "val": 21}

    def open_part(_data, split):
        images, count = parts[split], counts[split]
        return MemorySource(replace(images, images=images.images[:count], labels=images.labels[:count]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classify, "open_source", open_part)
        yield
    torch.set_num_threads(threads)


def small_config(out, epochs=1, optim=None, **changes):
    """Make a config: 8 steps an epoch, all that DeiT III does; `changes` are for the run."""
    config = find_recipe("fashion")
    published = {"optimizer": "lamb", "warmup_epochs": 0.5, "ema_decay": 0.9}
    run = {"out": out, "device": "cpu", "workers": 0, "log_interval": 1, **changes}
    return replace(
        config,
        batch_size=8,
        loss="binary",
        model=replace(config.model, width=16, depth=1, heads=1, drop_path=0.2),
        augment=replace(config.augment, mixup=0.8, cutmix=1.0, aug_repeats=3, random_erasing=0.25),
        optim=replace(config.optim, epochs=epochs, **(published | (optim or {}))),
        run=replace(config.run, **run),
    )


@pytest.fixture
def small(tmp_path):
    """Return a function that makes configs of trainings that take a second."""
    with few_images():
        yield lambda *args, out=tmp_path / "run", **changes: small_config(out, *args, **changes)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Return the directory of a training run of two epochs that nobody disturbed; tests only read it."""
    out = tmp_path_factory.mktemp("unbroken") / "run"
    with few_images():
        classify.train(small_config(out, 2))
    return out
