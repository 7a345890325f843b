"""Models of other families are evaluated, predicted with, trained and exported with their authors' pixels and crop."""

import copy
import importlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from timm.models import get_pretrained_cfg

from ropevit.cli import main
from ropevit.data.augment import eval_transform
from ropevit.data.imagenet import MEAN, STD
from ropevit.data.images import resize_to, to_tensor
from ropevit.models.registry import MODELS
from ropevit.tasks.classify.config import ClassifierConfig
from ropevit.tasks.classify.eval_model import open_eval_model, read_eval_model
from ropevit.tasks.classify.evaluate import protocol_of, views_of
from ropevit.tasks.classify.mean_std import initial_mean_std, training_mean_std
from ropevit.tasks.classify.recipes import find_recipe
from ropevit.tasks.classify.train import train
from ropevit.weights import convert, create_model, load_model, load_weights, save_model, save_pretrained

BETWIXT, SQUASHED = "vit_betwixt_patch16_rope_reg4_gap_256", "eva02_base_patch14_448"
CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SMALL = {"width": 32, "depth": 1, "heads": 2, "num_classes": 3}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Make the registered models small."""
    for name in (BETWIXT, SQUASHED):
        monkeypatch.setitem(MODELS, name, replace(MODELS[name], **SMALL))


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.effect_noise((300, 200), 90).convert("RGB").save(path)
    return path


def timm_file(name, folder):
    """Write a small model with the names of timm's file."""
    path = folder / f"{name}.safetensors"
    save_model(folder / "ours.safetensors", create_model(name))
    convert(folder / "ours.safetensors", path, "timm")
    return str(path)


@pytest.mark.parametrize("name", [BETWIXT, SQUASHED])
def test_images_are_evaluated_as_timm_transforms_them(name, photo, tmp_path):
    cfg = get_pretrained_cfg(name)
    eval_model, image = open_eval_model(None, timm_file(name, tmp_path)), Image.open(photo)
    (view,) = views_of(eval_model, cfg.input_size[1:2], None, None)
    own = eval_transform(view.size, view.crop, view.squash)(image).float() / 255
    found = (own - torch.tensor(eval_model.mean).view(-1, 1, 1)) / torch.tensor(eval_model.std).view(-1, 1, 1)
    fields = {key: getattr(cfg, key) for key in ("input_size", "mean", "std", "crop_pct", "crop_mode", "interpolation")}
    torch.testing.assert_close(found, create_transform(**fields)(image))
    assert views_of(eval_model, (), "timm", None)[0].crop == 0.9
    assert (views_of(eval_model, (), "paper", None)[0].crop, views_of(eval_model, (), "paper", None)[0].squash) == (
        1,
        False,
    )
    assert [protocol_of(eval_model, *given) for given in ((None, None), (None, 0.5), ("paper", None))] == [
        "family", "paper", "paper",
    ]  # fmt: skip
    assert (views_of(eval_model, (), None, 0.5)[0].crop, views_of(eval_model, (), None, 0.5)[0].squash) == (0.5, False)


@pytest.mark.parametrize("name", [BETWIXT, SQUASHED])
@torch.no_grad()
def test_images_are_predicted_with_the_crop_and_pixels_of_the_family(name, photo, tmp_path):
    model, image = create_model(name).eval(), Image.open(photo)
    torch.nn.init.normal_(model.head.weight)
    save_model(tmp_path / "m.safetensors", model, classes=["a", "b", "c"])
    main(["predict", str(photo), "--checkpoint", str(tmp_path / "m.safetensors"), "--out", str(tmp_path / "out")])
    (found,) = json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]
    side = model.config.img_size[0]
    seen = (
        image.resize((side, side), Image.Resampling.BICUBIC) if name == SQUASHED else resize_to(image, side, side, 0.95)
    )
    wanted = model(to_tensor(seen, *CLIP)[None]).softmax(-1)[0].sort(descending=True).values
    assert found["probabilities"] == pytest.approx(wanted.tolist(), abs=1e-5)
    other = model(to_tensor(seen, MEAN, STD)[None]).softmax(-1)[0].sort(descending=True).values
    assert found["probabilities"] != pytest.approx(other.tolist(), abs=1e-5)


def test_a_crop_ratio_takes_the_middle_of_the_image():
    image = Image.new("L", (200, 100))
    image.paste(255, (60, 10, 140, 90))  # eight tenths of the shorter side
    assert np.array(resize_to(image, 40, 40, 0.8)).min() > 200
    assert np.array(resize_to(image, 40, 40)).min() == 0


def test_a_training_has_the_pixels_of_its_initial_weights(tmp_path):
    named = ClassifierConfig(model="vit_betwixt_rope_reg4", position="rope_axial", size=32, width=32, depth=1, heads=2)
    assert training_mean_std(named) == {"mean": CLIP[0], "std": CLIP[1]}
    own = save_model(tmp_path / "own.safetensors", create_model(BETWIXT), metadata={"mean": 0.3, "std": 0.4})
    assert training_mean_std(replace(named, init=str(own))) == {"mean": (0.3,) * 3, "std": (0.4,) * 3}
    assert training_mean_std(ClassifierConfig(model="deit_small")) == {"mean": MEAN, "std": STD}


def test_a_trained_model_of_a_family_holds_its_pixels(tmp_path):
    for split, count in (("train", 4), ("val", 2)):
        for number in range(count):
            file = tmp_path / "images" / split / "ab"[number % 2] / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.effect_noise((40, 30), 50 + number).convert("RGB").save(file)
    recipe, start = find_recipe("fashion"), timm_file(BETWIXT, tmp_path)
    fields = {"model": "vit_betwixt_rope_reg4", "position": "rope_axial", "size": 32, "patch_size": None}
    model = replace(recipe.model, **fields, width=None, depth=None, heads=None, init=start)
    run = replace(recipe.run, out=tmp_path / "run", device="cpu")
    train(
        replace(
            recipe,
            data=str(tmp_path / "images"),
            batch_size=2,
            model=model,
            run=run,
            optim=replace(recipe.optim, epochs=1),
        )
    )
    _, info = load_model(tmp_path / "run" / "model.safetensors")
    assert (info.metadata["mean"], info.metadata["std"]) == (list(CLIP[0]), list(CLIP[1]))


def test_an_exported_file_tells_the_pixels(tmp_path, monkeypatch):
    verb, written = importlib.import_module("ropevit.cli.export"), {}
    monkeypatch.setattr(verb, "export_torch", lambda *_, **facts: written.update(facts))
    monkeypatch.setattr(verb, "print_report", lambda *_: None)
    main(["export", str(tmp_path / "m.pt2"), "--format", "torch", "--checkpoint", timm_file(BETWIXT, tmp_path)])
    assert (written["mean"], written["std"]) == CLIP


def test_a_converted_file_of_satellite_weights_keeps_their_pixels(tmp_path):
    model = create_model("dinov3_vitl16", width=32, depth=1, heads=2)
    save_model(tmp_path / "ours.safetensors", model)
    for tag, wanted in (("sat493m", (0.43, 0.411, 0.296)), ("lvd1689m", MEAN)):
        path = tmp_path / f"dinov3_vitl16_pretrain_{tag}.pth"
        convert(tmp_path / "ours.safetensors", path, "dinov3")
        convert(path, tmp_path / f"{tag}.safetensors", model=model.config)
        found = read_eval_model(None, str(tmp_path / f"{tag}.safetensors"))
        assert found.mean == wanted


def test_a_model_keeps_the_pixels_of_its_weights_until_it_is_saved(tmp_path):
    small = {"width": 32, "depth": 1, "heads": 2}
    save_model(tmp_path / "ours.safetensors", create_model("dinov3_vitl16", **small))
    source = tmp_path / "dinov3_vitl16_pretrain_sat493m.pth"
    convert(tmp_path / "ours.safetensors", source, "dinov3")
    model = create_model("dinov3_vitl16", str(source), num_classes=3, **small)
    first = save_model(tmp_path / "first.safetensors", copy.deepcopy(model))
    named = ClassifierConfig(model="dinov3_vitl16", position="rope_axial", init=str(first), **small)
    assert training_mean_std(named)["mean"] == (0.43, 0.411, 0.296)
    again, info = load_model(first)  # through a file of ours, too
    assert info.metadata == {"mean": [0.43, 0.411, 0.296], "std": [0.213, 0.156, 0.143], "crop": 1.0}
    second = save_model(tmp_path / "second.safetensors", again, metadata={"crop": 0.9})
    assert load_model(second)[1].metadata == info.metadata | {"crop": 0.9}
    load_weights(model, create_model("dinov3_vitl16", num_classes=3, **small).state_dict())  # which have the family's
    assert load_model(save_model(tmp_path / "third.safetensors", model))[1].metadata == {}


def test_training_from_a_folder_of_weights_keeps_their_pixels(tmp_path):
    model, own = create_model(SQUASHED), {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    folder = save_pretrained(model, tmp_path / "shared", metadata=own)
    assert initial_mean_std(model.config, str(folder)) == own
    assert initial_mean_std(model.config, "") != own
