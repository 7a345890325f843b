import copy
import json
from dataclasses import replace

import pytest
import torch
import yaml
from safetensors.torch import save_file

import ropevit
from ropevit.cli import main
from ropevit.tasks.classify.evaluate import ClassifierResult
from ropevit.tasks.classify.recipes import find_recipe
from ropevit.tasks.detect.model import Detector, DetectorConfig, save_detector
from ropevit.tasks.evaluation.results import ResultsDir, hash_weights
from ropevit.tasks.runs.sharing import _base_model, pack
from tasks.detect.small import small_config

INIT = "rope_mixed_deit_tiny_patch16_LS"


@pytest.fixture(scope="module")
def model():
    return ropevit.create_model(INIT, depth=1, width=16, heads=1, num_classes=3, img_size=32)


def write_run(folder, model, init=None):
    """Write what a training leaves: weights, their scores, all options and the log."""
    facts = {"step": 4, "scores": {"top1": 61.25, "ema_top1": 70.5}, "seed": 0, "recipe": "fashion", "train_size": 32}
    for name in ("best", "model_ema"):
        ropevit.save_model(folder / f"{name}.safetensors", model, classes=["a", "b", "c"], metadata=facts)
    config = find_recipe("fashion")
    config = replace(config, data="/home/me/secret/pets", model=replace(config.model, init=init))
    images = {"train": {"images": 30}, "val": {"images": 12}}
    settings = config.to_dict() | {"classes": ["a", "b", "c"], "metric": "top1", "images": images}
    (folder / "config.json").write_text(json.dumps(settings))
    lines = {"step": 4, "epoch": 2.0, "loss": 1.0}, {"step": 4, "epoch": 2.0, "top1": 61.25}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def write_evaluation(folder, model, data="pets/val", task="classify"):
    """Write what an evaluation at two sizes leaves."""
    config = {"metric": "top-1", "data": data, "fingerprint": hash_weights(model.state_dict())}
    config |= {"protocol": "paper", "crop": None, "precision": "float32"}
    about = {"name": "mine", "weights": "/home/me/w", "model": None, "position": "rope_mixed", "trained_at": 32}
    settings = {"task": task, "config": config, "data": "/home/me/secret/pets", "model": about}
    results = ResultsDir(folder, settings, {}, ClassifierResult, resume=False)
    for size, top1, mode in ((32, 61.25, "whole"), (48, 55.5, "resize")):
        row = {"size": size, "top1": top1, "images": 12, "skipped": 0, "images_per_second": 1.0, "mode": mode}
        results.add(ClassifierResult(**row, peak_memory_gib=1.0, window=None, resize=size, crop=1.0), [])
    (folder / "curve.png").write_bytes(b"drawn")
    return folder


@pytest.fixture
def run(tmp_path, model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_run(tmp_path / "runs" / "mine", model)


def card_of(folder):
    text = (folder / "README.md").read_text()
    return yaml.safe_load(text.split("---\n")[1]), text


def error_of(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_a_run_is_pushed_with_its_training_and_evaluation(run, model, local_hub, capsys):
    write_evaluation(run.parent / "eval" / "mine", model)
    main(["push", "runs/mine", "me/vit", "--license", "mit", "--private"])
    said = capsys.readouterr().out
    assert (
        said.split()
        == f"pushed model.safetensors, eval.csv, curve.png, README.md to {local_hub.address}/me/vit".split()
    )
    assert local_hub.private["me/vit"]
    files = local_hub.files["me/vit"]
    assert files["model.safetensors"] == (run / "best.safetensors").read_bytes()
    assert files["curve.png"] == b"drawn"
    again, info = ropevit.load_model("me/vit")
    assert hash_weights(again.state_dict()) == hash_weights(model.state_dict())
    assert info.metadata["scores"]["top1"] == 61.25
    text = files["README.md"].decode()
    assert yaml.safe_load(text.split("---\n")[1])["license"] == "mit"
    assert "secret" not in text


def test_the_card_of_a_run_has_config_training_curve_and_model_index(run, model, tmp_path):
    write_run(run, model, init=INIT.replace("tiny", "small"))
    write_evaluation(run / "first", model)
    write_evaluation(run / "second", model, data="other/val")
    main(["push", "runs/mine", "me/vit", "--out", "shared"])
    names = ["README.md", "curve-2.png", "curve.png", "eval-2.csv", "eval.csv", "model.safetensors"]
    assert sorted(file.name for file in (tmp_path / "shared").iterdir()) == names
    front, text = card_of(tmp_path / "shared")
    assert front["base_model"] == "naver-ai/rope_mixed_deit_small_patch16_LS"
    (index,) = front["model-index"]
    assert (index["name"], len(index["results"])) == ("vit", 2)
    assert index["results"][0] == {
        "task": {"type": "image-classification"},
        "dataset": {"name": "pets/val", "type": "pets-val"},
        "metrics": [
            {"type": "accuracy", "value": 61.25, "name": "top-1, 32 px"},
            {"type": "accuracy", "value": 55.5, "name": "top-1, 48 px, resize"},
        ],
    }
    assert "| 48 px, resize | 55.50 | 12 |" in text
    assert "![top-1 over image size](curve.png)" in text
    assert "![top-1 over image size](curve-2.png)" in text
    assert "`ropevit eval` on pets/val (protocol paper, precision float32); trained at 32 px." in text
    assert "Recipe `fashion` of `ropevit train` on pets (images: 30 train, 12 val), trained for 2 epochs." in text
    assert "top-1 on the validation images, on which they were selected: 61.25." in text
    assert "| optimizer | adamw |" in text
    assert "ropevit predict photo.jpg --checkpoint me/vit" in text


@pytest.mark.usefixtures("run")
def test_without_an_evaluation_the_index_has_the_score_of_the_training(tmp_path, capsys):
    main(["push", "runs/mine", "me/vit", "--out", "shared", "--weights", "ema"])
    said = capsys.readouterr().out
    assert "no evaluation was found: `ropevit eval` makes one" in said
    assert "no license is stated, so nobody may use the weights: add --license" in said
    front, text = card_of(tmp_path / "shared")
    (result,) = front["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "accuracy", "value": 70.5, "name": "top-1, in training"}]
    assert "License of the weights: not stated by their owner." in text
    assert ropevit.load_model("shared")[1].classes == ["a", "b", "c"]


def test_evaluations_of_other_weights_are_left_out_or_refused(run, tmp_path, capsys):
    torch.manual_seed(1)  # not that of the run's weights
    other = ropevit.create_model(INIT, depth=1, width=16, heads=1, num_classes=3, img_size=32)
    found = write_evaluation(run / "other", other)
    main(["push", "runs/mine", "me/vit", "--out", "shared"])
    assert "left out runs/mine/other, an evaluation of other weights" in capsys.readouterr().out
    words = ["push", "runs/mine", "me/vit", "--out", "again"]
    assert f"{found} is an evaluation of other weights; leave it out" in error_of(
        [*words, "--evals", str(found)], capsys
    )
    assert "shared already holds model.safetensors, README.md; choose" in error_of([*words[:-1], "shared"], capsys)
    main([*words[:-1], "shared", "--overwrite"])
    assert not (tmp_path / "again").exists()


def test_the_directory_of_a_run_is_not_written_to(run, capsys):
    held = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    words = ["push", "runs/mine", "me/vit", "--out", "runs/mine", "--overwrite"]
    assert "got --out runs/mine, the directory that is pushed; give another" in error_of(words, capsys)
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == held


def test_a_damaged_evaluation_that_was_only_found_is_left_out(run, capsys):
    (run / "odd").mkdir()
    (run / "odd/eval.json").write_text("{")
    main(["push", "runs/mine", "me/vit", "--out", "shared"])
    assert "left out runs/mine/odd: " in capsys.readouterr().out


@pytest.mark.usefixtures("run")
def test_what_cannot_be_pushed_is_refused_in_one_line(model, tmp_path, capsys):
    save_file({"w": torch.zeros(1)}, tmp_path / "foreign.safetensors", {"format": "pt"})
    ropevit.save_model("field.safetensors", model, metadata={"panel": "field"})
    save_file({"w": torch.zeros(1)}, "odd.safetensors", {"format": "odd", "config": "{}"})
    for source, message in (
        (
            "foreign.safetensors",
            "foreign.safetensors has no config in its header; make a file that has: ropevit convert",
        ),
        ("field.safetensors", "field.safetensors labels pixels, which its study does outside the model"),
        ("odd.safetensors", "odd.safetensors has the format 'odd', which no installed task can load"),
        ("runs/none", "found no file or directory runs/none; give a training's directory"),
    ):
        assert message in error_of(["push", source, "me/vit", "--out", "shared"], capsys)
    assert "HF_HUB_OFFLINE is set" in error_of(["push", "runs/none", "me/vit"], capsys)
    assert not (tmp_path / "shared").exists()


def test_a_detector_is_packed_with_how_to_load_it(tmp_path):
    dino = small_config(encoder_layers=1, decoder_layers=1)
    config = DetectorConfig(model="deit_tiny", position="rope_axial", width=32, depth=1, heads=2, init=None, dino=dino)
    save_detector(tmp_path / "best.safetensors", Detector(config, 2), config, ["cat", "dog"], {"category_ids": [3, 7]})
    package = pack(tmp_path / "best.safetensors", "me/detector")
    assert package.files["model.safetensors"] == tmp_path / "best.safetensors"
    text = bytes(package.files["README.md"]).decode()
    front = yaml.safe_load(text.split("---\n")[1])
    assert (front["pipeline_tag"], front["tags"]) == ("object-detection", ["ropevit", "rope_axial"])
    assert "A detector of the Python package `ropevit`" in text
    assert 'from ropevit.tasks.detect.model import load_detector\n\nmodel, info = load_detector("me/detector")' in text
    assert "hf download me/detector --local-dir model\nropevit predict photo.jpg --checkpoint model" in text
    assert "2, in the order of the logits: `cat`, `dog`." in text


def test_the_base_model_of_a_dense_training_is_that_of_its_backbone():
    dense = {"model": "deit_base", "position": "rope_mixed", "init": "published"}
    assert _base_model({"model": dense}) == "naver-ai/rope_mixed_deit_base_patch16_LS"
    assert _base_model({"model": {**dense, "init": "me/my-vit"}}) == "me/my-vit"
    assert _base_model({"model": {**dense, "init": "None"}}) is None
    assert _base_model({"model": {**dense, "init": "runs/mine/best.safetensors"}}) is None


def test_an_evaluation_of_weights_in_half_precision_is_theirs(tmp_path, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    half = copy.deepcopy(model).to(torch.bfloat16)
    ropevit.save_model("half.safetensors", half)
    found = write_evaluation(tmp_path / "half", half)
    assert "eval.csv" in pack(tmp_path / "half.safetensors", "me/half", evals=[found]).files
