"""`ropevit tune-scaling`, and `--scaling auto` of the verbs that read its choice."""

import csv
import importlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ropevit
from ropevit.cli import main
from ropevit.data.sources import open_source
from ropevit.models import ViT, ViTConfig
from ropevit.tasks.evaluation import tune_scaling as module
from ropevit.tasks.evaluation.scaling_search import split_images
from ropevit.tasks.evaluation.tuned_scaling import FILE, TunedScaling, choices_file, save_choice

MODEL = {"position": "rope_mixed", "width": 16, "depth": 2, "heads": 2, "patch_size": 8, "img_size": (16, 16)}
MODEL |= {"class_token": False, "pooling": "avg", "layer_scale": None}


def save(path, seed=0, **changes):
    torch.manual_seed(seed)
    config = ViTConfig(**MODEL | {"num_classes": 3} | changes)
    model = ViT(config)
    with torch.no_grad():
        model.head.weight.normal_(generator=torch.Generator().manual_seed(seed))
        for block in model.blocks:  # sharp attention, which a rotation changes
            block.attn.qkv.weight.mul_(60)
    return str(ropevit.save_model(path, model, classes=["blue", "green", "red"][: config.num_classes]))


@pytest.fixture(scope="module")
def many_images(tmp_path_factory):
    """Three classes of noise, 20 images each, one of them broken."""
    root, noise = tmp_path_factory.mktemp("many") / "images", np.random.default_rng(0)
    for label, name in enumerate(("blue", "green", "red")):
        (root / "val" / name).mkdir(parents=True)
        for index in range(20):
            pixels = noise.integers(0, 200, (30, 30 + index, 3))
            pixels[..., 2 - label] += 5
            Image.fromarray(pixels.astype(np.uint8)).save(root / "val" / name / f"{index}.png")
    (root / "val" / "red" / "0.png").write_text("not an image")
    return root


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return save(tmp_path / "own" / "model.safetensors")


@pytest.fixture
def arguments(checkpoint, many_images):
    return tune_words(checkpoint, many_images)


def tune_words(checkpoint, images, verb="tune-scaling"):
    return [verb, "--checkpoint", checkpoint, "--data", str(images), "--workers", "0", "--device", "cpu"]


def choice_for(checkpoint, scaling="ntk", **changes):
    """Return a choice for the weights of a checkpoint."""
    eval_model = importlib.import_module("ropevit.tasks.classify.eval_model").open_eval_model(None, checkpoint)
    digest = importlib.import_module("ropevit.tasks.evaluation.results").hash_weights(eval_model.parsed.state)
    fields = {"fingerprint": digest, "weights": "model.safetensors", "scaling": scaling, "chosen": scaling}
    fields |= {"baseline": "none", "gain": 3.0, "low": 1.0, "high": 5.0, "metric": "top-1", "sizes": [32]}
    fields |= {"data": "images/val", "images_chosen_on": 30, "images_reported_on": 30, "date": "2026-01-31"}
    return TunedScaling(**fields | changes)


def test_a_method_is_chosen_and_kept_beside_the_weights(arguments, tmp_path, capsys):
    main([*arguments, "--sizes", "32,48"])
    printed = capsys.readouterr().out
    assert "model on images/val at 32, 48 px" in printed
    assert "30 images to choose on, 30 others for the gain" in printed
    assert "left out, unreadable or without labels (1): " in printed  # the broken image
    (kept,) = json.loads((tmp_path / "own" / FILE).read_text())["choices"]
    assert kept["images_chosen_on"] + kept["images_reported_on"] == 59
    assert f"top-1 (%) on the {kept['images_chosen_on']} images of the choice" in printed
    assert f"highest on the images of the choice: {kept['chosen']}" in printed
    assert kept["sizes"] == [32, 48]
    assert kept["data"] == "images/val"
    assert kept["baseline"] == "none"
    assert kept["scaling"] == (kept["chosen"] if kept["low"] > 0 else "none")
    record = json.loads((tmp_path / "runs/tune-scaling/model/tuning.json").read_text())
    assert {each["half"] for each in record["passes"]} == {"choose", "report"}
    assert record["result"]["trials"][0]["scaling"] == "none"
    marks = [row for each in record["passes"] for row in each["images"]]
    assert {row.count("-") for row in marks} == {0, 1}  # the broken image is in one half


def test_scores_of_the_choice_are_those_of_eval_on_the_same_images(arguments, checkpoint, many_images, tmp_path):
    main([*arguments, "--sizes", "32"])
    source = open_source(str(many_images), "val")
    for index in split_images(len(source), "images")["choose"].tolist():
        image = Path(source.describe(index))
        (tmp_path / "half" / "val" / image.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(
            many_images.parent / image if not image.is_absolute() else image,
            tmp_path / "half" / "val" / image.parent.name,
        )
    record = json.loads((tmp_path / "runs/tune-scaling/model/tuning.json").read_text())
    first = record["passes"][0]
    trials = {trial["scaling"]: trial["score"] for trial in record["result"]["trials"]}
    assert len(set(first["images"])) > 3  # methods change predictions
    for scaling in ("none", "pi", "parts(slow=0.5,fast=2)+log"):
        words = tune_words(checkpoint, tmp_path / "half", "eval")
        main([*words, "--sizes", "32", "--scaling", scaling, "--out", scaling])
        with Path(scaling, "eval.csv").open() as file:
            (row,) = csv.DictReader(file)
        assert trials[scaling] == pytest.approx(float(row["top1"]), abs=1e-3)


def test_the_choice_is_read_by_eval_predict_and_export(checkpoint, many_images, monkeypatch, capsys):
    save_choice(choices_file(None, checkpoint), choice_for(checkpoint))
    line = "scaling auto: ntk, chosen at 32 px on images of images/val, 2026-01-31"
    words = tune_words(checkpoint, many_images, "eval")
    main([*words, "--sizes", "32", "--scaling", "auto", "--out", "auto"])
    printed = capsys.readouterr().out
    assert f"{line}; it has seen images of this evaluation" in " ".join(printed.split())
    assert "scaling ntk" in printed
    main([*words, "--sizes", "32", "--scaling", "ntk", "--out", "named"])
    main([*words, "--sizes", "32", "--out", "without"])
    scores = [Path(name, "per_class.csv").read_text() for name in ("auto", "named")]
    assert scores[0] == scores[1]
    assert json.loads(Path("auto/eval.json").read_text())["config"]["scaling"] == "ntk"
    assert "scaling" not in json.loads(Path("without/eval.json").read_text())["config"]

    image = str(many_images / "val" / "blue" / "1.png")
    capsys.readouterr()
    found = {}
    for scaling in ("auto", "ntk", "none", None):
        option = [] if scaling is None else ["--scaling", scaling]
        main(["predict", image, "--checkpoint", checkpoint, "--size", "48", *option, "--out", f"of-{scaling}"])
        assert (line in capsys.readouterr().out) == (scaling == "auto")
        found[scaling] = Path(f"of-{scaling}/predictions.json").read_text()
    assert found["auto"] == found["ntk"] != found["none"] == found[None]

    verb, written = importlib.import_module("ropevit.cli.export"), {}
    monkeypatch.setattr(verb, "export_torch", lambda model, _, **facts: written.update(model=model, **facts))
    monkeypatch.setattr(verb, "print_report", lambda *_: None)
    for option, expected in ((["--scaling", "auto"], "ntk"), ([], None)):
        main(["export", "m.pt2", "--format", "torch", "--checkpoint", checkpoint, *option])
        assert written["model"].config.scaling == expected
    assert line in capsys.readouterr().out


def test_a_choice_against_scaling_is_kept_too(checkpoint, many_images, capsys):
    save_choice(choices_file(None, checkpoint), choice_for(checkpoint, "none", chosen="pi", low=-1.0))
    words = tune_words(checkpoint, many_images, "eval")
    main([*words, "--sizes", "32", "--scaling", "auto"])
    assert "scaling auto: none (no gain of pi was shown), chosen at 32 px" in " ".join(capsys.readouterr().out.split())


def test_choices_of_several_weights_share_a_file(checkpoint, tmp_path):
    path, other = choices_file(None, checkpoint), save(tmp_path / "own" / "best.safetensors", seed=1)
    assert path == choices_file(None, other) == choices_file(None, str(tmp_path / "own"))
    save_choice(path, choice_for(checkpoint, "ntk"))
    save_choice(path, choice_for(other, "pi"))
    save_choice(path, choice_for(checkpoint, "log"))
    kept = [each["scaling"] for each in json.loads(path.read_text())["choices"]]
    assert kept == ["pi", "log"]
    published = choices_file("deit_small", None), choices_file(None, "some/model")
    assert published == (Path("runs/scaling/deit_small") / FILE, Path("runs/scaling/some--model") / FILE)


def test_a_stopped_search_goes_on(arguments, monkeypatch, capsys):
    original, calls = module.Measurer._evaluate, []

    def interrupted(self, size, scalings, half):
        calls.append(half)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, size, scalings, half)

    monkeypatch.setattr(module.Measurer, "_evaluate", interrupted)
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--sizes", "32", "--out", "half"])
    assert stop.value.code == 130
    assert "the same command with --resume continues" in capsys.readouterr().out
    first = json.loads(Path("half/tuning.json").read_text())["passes"]
    assert len(first) == 1
    main([*arguments, "--sizes", "32", "--out", "half", "--resume"])
    assert calls.count("choose") == 3  # none is repeated but the one that was stopped
    main([*arguments, "--sizes", "32", "--out", "whole"])
    whole, half = (json.loads(Path(name, "tuning.json").read_text()) for name in ("whole", "half"))
    assert whole == half
    for damage in ({"half": "other"}, {"images": [row[1:] for row in whole["passes"][0]["images"]]}):
        damaged = whole | {"passes": [whole["passes"][0] | damage]}
        Path("whole/tuning.json").write_text(json.dumps(damaged))
        error = error_of([*arguments, "--sizes", "32", "--out", "whole", "--resume"], capsys)
        assert "cannot read whole/tuning.json (a pass is incomplete)" in error


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--sizes", "16"], "got size 16 for a model trained at 16 px; RoPE scaling is for larger sizes, such as 32"),
        (["--sizes", "30"], "patches of 8 pixels do not tile"),
        (["--sizes"], "got no size; give the sizes in pixels at which the model is to be used: --sizes 384,512"),
        (
            ["--sizes", "32", "--max-images", "39"],
            "got 39 images to choose a scaling method with; expected at least 40",
        ),
        (["--sizes", "32", "--whole"], "got --whole with a classifier; it is for segmenters"),
        (["--sizes", "32", "--out", "own"], "own is not empty; choose another --out, or continue in it with --resume"),
        (["--sizes", "32", "--out", "own", "--resume"], "cannot read own/tuning.json"),
    ],
)
def test_wrong_input_is_one_line(arguments, capsys, extra, message):
    assert message in error_of([*arguments, *extra], capsys)


def error_of(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_models_without_rope_are_refused(many_images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ape = save(tmp_path / "ape.safetensors", position="ape")
    words = [*tune_words(ape, many_images), "--sizes", "32"]
    assert "with the position embedding ape; RoPE scaling needs a model with RoPE" in error_of(words, capsys)


def test_auto_without_a_choice_says_what_to_do(checkpoint, many_images, tmp_path, capsys):
    advice = "choose one with `ropevit tune-scaling`, or name a method, such as --scaling pi"
    image, path = str(many_images / "val" / "blue" / "1.png"), tmp_path / "own" / FILE
    commands = (
        [*tune_words(checkpoint, many_images, "eval"), "--sizes", "32"],
        ["predict", image, "--checkpoint", checkpoint],
        ["export", "m.pt2", "--format", "torch", "--checkpoint", checkpoint],
    )
    for words in commands:
        error = error_of([*words, "--scaling", "auto"], capsys)
        assert f"got --scaling auto, but there is no {path}; {advice}" in error
    save_choice(path, replace(choice_for(checkpoint), fingerprint="another", weights="last.safetensors"))
    error = error_of([*commands[0], "--scaling", "auto"], capsys)
    assert f"{path} is for other weights (last.safetensors); {advice}" in error


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"choices": [{"scaling": "pi"}]}',
        pytest.param({"scaling": "larger"}, id="unknown method"),
        pytest.param({"gain": "much"}, id="wrong type"),
    ],
)
def test_a_damaged_file_is_refused(checkpoint, many_images, tmp_path, capsys, content):
    path = tmp_path / "own" / FILE
    if isinstance(content, dict):
        save_choice(path, choice_for(checkpoint))
        found = json.loads(path.read_text())
        found["choices"][0] |= content
        content = json.dumps(found)
    path.write_text(content)
    words = [*tune_words(checkpoint, many_images, "eval"), "--sizes", "32", "--scaling", "auto"]
    assert f"cannot read {path}" in error_of(words, capsys)


def test_a_model_with_scaling_of_its_own_is_compared_with_that(many_images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = save(tmp_path / "own" / "model.safetensors", scaling="normalize+jitter(rescale=2)")
    main([*tune_words(own, many_images), "--sizes", "32"])
    (kept,) = json.loads((tmp_path / "own" / FILE).read_text())["choices"]
    assert kept["baseline"] == "normalize+jitter(rescale=2)"
    record = json.loads((tmp_path / "runs/tune-scaling/model/tuning.json").read_text())
    names = record["passes"][0]["scalings"]
    assert names[:3] == ["normalize+jitter(rescale=2)", "none", "pi"]
