"""Every recipe takes a step with its own precision, augmentation, losses and optimizer; only sizes are cut."""

from dataclasses import replace

import pytest
import torch

from embedded import read_once
from marks import by_default
from ropevit.data.sources import MemorySource
from ropevit.data.tiny import make_tiny
from ropevit.tasks.classify import train as classify
from ropevit.tasks.classify.recipes import RECIPES as CLASSIFIERS
from ropevit.tasks.detect.recipes import RECIPES as DETECTORS
from ropevit.tasks.detect.train import train as train_detector
from ropevit.tasks.segment.recipes import RECIPES as SEGMENTERS
from ropevit.tasks.segment.train import train as train_segmenter
from ropevit.tasks.training.metrics_log import read_metrics

#: The body of a ViT or Swin, by the first letters of its name, and the model that it is cut from.
VIT = {"width": 32, "depth": 4, "heads": 2}
BODIES = {"deit": VIT, "swin": {"width": 24}, "dino": VIT, "eva0": VIT}
SMALLEST = {"deit": "deit_tiny", "swin": "swin_tiny", "dino": "dinov3_vits16", "eva0": "eva02_tiny_224"}

#: Recipes whose parts are all among those of others.
MIXED = ("segment/linear_eva02_base", "segment/upernet_dinov3_base", "segment/mask2former_dinov3_base")

#: Those that take a step by default: each task, backbone and head.
BY_DEFAULT = ("deit3_small", "swin_tiny", "detect/dino_vitdet_base", "segment/mask2former_swin_tiny",
              "segment/upernet_vit_base_mmseg")  # fmt: skip


@pytest.mark.parametrize("recipes", [CLASSIFIERS, DETECTORS, SEGMENTERS])
def test_a_recipe_is_found_by_the_name_that_its_config_stores(recipes):
    for name, recipe in recipes.items():
        assert recipe().recipe == name
        assert not name.startswith("_")


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Tiny sets of boxes and of labeled pixels."""
    root = tmp_path_factory.mktemp("sets")
    for layout in ("coco", "ade"):
        make_tiny(layout, root / layout, 3, 2)
    return root


@pytest.fixture
def few_images(monkeypatch):
    """Leave a few of the embedded images."""
    parts = {"train": read_once("train"), "val": read_once("test")}

    def open_part(_data, split):
        images = parts[split]
        return MemorySource(replace(images, images=images.images[:12], labels=images.labels[:12]))

    monkeypatch.setattr(classify, "open_source", open_part)


def cut_run(config, out):
    """Two steps, read in this process, on a CPU: this is no test of the two (`test_workers`, `test_journeys`)."""
    optim = replace(config.optim, warmup_epochs=0, warmup_steps=None)
    run = replace(config.run, out=out, workers=0, device="cpu", max_steps=2, log_interval=1)
    return replace(config, batch_size=2, optim=optim, run=run)


def cut_head(config, **wanted):
    """Replace the sizes of a head."""
    return replace(config, **{name: value for name, value in wanted.items() if getattr(config, name) != value})


def kind_of(config):
    """Return what distinguishes recipes once numbers are cut."""
    body, optim = config.model.model[:4], config.optim
    return (
        body,
        getattr(config.model, "head", ""),
        getattr(config.model, "neck", ""),
        getattr(config.model, "out_indices", ""),
        getattr(config, "freeze_backbone", ""),
        config.augment.auto_augment if hasattr(config.model, "size") else "",
        getattr(config, "inference", ""),
        (optim.optimizer, optim.schedule, optim.layer_decay < 1, optim.warmup_prefix, optim.ema_decay is None),
        (config.run.precision, config.run.grad_checkpointing),
    )


def cut_classifier(config, out):
    size = BODIES[config.model.model[:4]]
    swin = config.model.model.startswith("swin")
    model = replace(config.model, model="swin_tiny" if swin else "deit_tiny", size=32, init=None, **size)
    model = replace(model, patch_size=None if swin else 8)
    return cut_run(replace(config, model=model), out)


def cut_detector(config, out, data):
    name = SMALLEST[config.model.model[:4]]
    dino = cut_head(
        config.model.dino, width=64, queries=20, mlp_width=32, encoder_layers=1, decoder_layers=2, denoising=4
    )
    model = replace(config.model, model=name, init=None, dino=dino, **BODIES[name[:4]])
    scale = replace(config.scale, short_edge_lengths=(64, 96), max_size=128, pre_crop_edge_lengths=(64,), test_size=64)
    return cut_run(replace(config, data=str(data), model=model, scale=scale), out)


def cut_segmenter(config, out, data):
    model = config.model
    name = SMALLEST[model.model[:4]]
    heads = {
        "linear": model.linear,
        "upernet": cut_head(model.upernet, channels=16, auxiliary_channels=16),
        "mask2former": cut_head(
            model.mask2former,
            width=64, queries=20, encoder_layers=1, encoder_mlp_width=32, decoder_layers=2, decoder_mlp_width=32,
            points=64,
        ),
    }  # fmt: skip
    out_indices = None if name == "swin_tiny" or model.head == "linear" else (0, 1, 2, 3)
    model = replace(
        model, model=name, init=None, out_indices=out_indices, **{model.head: heads[model.head]}, **BODIES[name[:4]]
    )
    sizes = {"crop_size": 64, "long": 128, "test_short": 64, "test_long": 128}
    sides = {"short_edge_lengths": (48, 64)} if config.augment.short_edge_lengths else {"short": 64}
    augment = replace(config.augment, **sizes, **sides)
    return cut_run(replace(config, data=str(data), model=model, augment=augment), out)


def once(recipes):
    """Name a recipe of each kind, the first of those that are alike once they are cut."""
    kinds = {}
    for name, recipe in recipes.items():
        kinds.setdefault(kind_of(recipe()), name)
    return list(kinds.values())


def mostly_full(recipes):
    """Leave recipes that another one mostly holds to `make test-all`."""
    names = once(recipes)
    return by_default([name for name in names if name in BY_DEFAULT], names)


def check(out):
    """See that steps were taken and written down."""
    lines = [line for line in read_metrics(out) if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2]
    assert (out / "best.safetensors").exists()


@pytest.mark.usefixtures("few_images")
@pytest.mark.parametrize("name", mostly_full(CLASSIFIERS))
def test_classifiers(name, tmp_path):
    classify.train(cut_classifier(CLASSIFIERS[name](), tmp_path))
    check(tmp_path)


@pytest.mark.parametrize("name", mostly_full(DETECTORS))
def test_detectors(name, tmp_path, sets):
    train_detector(cut_detector(DETECTORS[name](), tmp_path, sets / "coco"))
    check(tmp_path)


@pytest.mark.parametrize("name", mostly_full(SEGMENTERS))
def test_segmenters(name, tmp_path, sets):
    train_segmenter(cut_segmenter(SEGMENTERS[name](), tmp_path, sets / "ade"))
    check(tmp_path)


def test_all_kinds_are_among_them():
    assert {"deit3_small", "swin_tiny", "fashion"} <= set(once(CLASSIFIERS))
    assert {"detect/dino_vitdet_base", "detect/dino_swin_tiny_5scale"} <= set(once(DETECTORS))
    assert {"segment/upernet_vit_base_mmseg", "segment/mask2former_swin_tiny", *MIXED} <= set(once(SEGMENTERS))
