"""`ropevit predict` with detectors and segmenters, and with folders."""

import importlib
import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image

from ropevit.cli import main
from ropevit.data.ade import read_labels
from ropevit.data.imagenet import MEAN, STD
from ropevit.tasks.detect.model import Detector, save_detector
from ropevit.tasks.detect.recipes import find_recipe
from ropevit.tasks.segment.inference import InferenceConfig
from ropevit.tasks.segment.model import build_segmenter, save_segmenter
from tasks.segment.small import small_segmenter


def save_small_detector(path):
    """Write the file of a small untrained detector of three classes."""
    config = find_recipe("detect/dino_smoke").model
    facts = {"category_ids": [1, 3, 90], "mean": MEAN, "std": STD, "test_side": 64, "longest": 96}
    save_detector(path, Detector(config, 3), config, ["disc", "[b]square", "triangle"], facts)


def save_small_segmenter(path):
    """Write the file of a small segmenter of three classes."""
    config, inference = small_segmenter(), asdict(InferenceConfig())
    facts = {"mean": MEAN, "std": STD, "test_short": 64, "test_long": 256, "inference": inference}
    save_segmenter(path, build_segmenter(config, 3), config, ["[b]wall", "sky", "tree"], facts)


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    """Training directories of a detector and a segmenter."""
    root = tmp_path_factory.mktemp("runs")
    torch.manual_seed(0)
    save_small_detector(root / "detector" / "best.safetensors")
    save_small_segmenter(root / "segmenter" / "model.safetensors")
    return root


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder of two images, one in a subfolder and with an EXIF rotation; its parent is the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "in").mkdir(parents=True)
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was held upright
    Image.effect_noise((90, 60), 90).convert("RGBA").save(tmp_path / "photos" / "a.png")
    Image.effect_noise((80, 50), 90).save(tmp_path / "photos" / "in" / "b.jpg", exif=turned)
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    return tmp_path / "photos"


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_detector_writes_boxes_and_annotated_images(trainings, photos, tmp_path, capsys):
    options = ["--checkpoint", str(trainings / "detector"), "--threshold", "0", "--topk", "7", "--device", "cpu"]
    main(["predict", str(photos), *options, "--out", str(tmp_path / "found")])
    assert files_in(tmp_path / "found") == ["a.png", "detections.json", "in/b.png"]
    found = json.loads((tmp_path / "found" / "detections.json").read_text())
    assert [(one["image_id"], one["file_name"]) for one in found] == [(1, "a.png")] * 7 + [(2, "in/b.jpg")] * 7
    for one in found:
        left, top, width, height = one["bbox"]
        sides = (90, 60) if one["image_id"] == 1 else (50, 80)  # upright
        assert left + width <= sides[0] + 0.01
        assert top + height <= sides[1] + 0.01
        assert one["category_id"] in (1, 3, 90)
    printed = capsys.readouterr().out
    assert f"{photos / 'in/b.jpg'}: " in printed
    assert f"wrote 2 images and detections.json to {tmp_path / 'found'}" in printed


def test_detections_of_one_image_are_printed_as_a_table(trainings, photos, tmp_path, capsys):
    main(["predict", str(photos / "a.png"), "--checkpoint", str(trainings / "detector"), "--threshold", "0"])
    printed = capsys.readouterr().out
    assert printed.count("\n") > 60, "20 queries, each with three classes"
    assert "class" in printed
    assert "[b]square" in printed
    assert files_in(tmp_path / "predictions") == ["a.png", "detections.json"]
    main(
        [
            "predict",
            str(photos / "a.png"),
            "--checkpoint",
            str(trainings / "segmenter"),
            "--weights",
            "last",
            "--out",
            "s",
        ]
    )
    assert "pixels" in capsys.readouterr().out


def test_a_segmenter_writes_labels_and_colored_images(trainings, photos, tmp_path, capsys):
    options = ["--checkpoint", str(trainings / "segmenter" / "model.safetensors"), "--size", "40"]
    main(["predict", str(photos / "in"), str(photos / "a.png"), *options, "--out", str(tmp_path / "found")])
    assert files_in(tmp_path / "found") == ["a.png", "b.png", "classes.txt", "labels/a.png", "labels/b.png"]
    for name, size in (("a", (90, 60)), ("b", (50, 80))):
        labels = read_labels(tmp_path / "found" / "labels" / f"{name}.png", size, 3)
        assert set(np.unique(labels)) <= {0, 1, 2}
    assert "wrote 2 images and labels/ and classes.txt to" in capsys.readouterr().out


def test_output_files_of_equal_names_do_not_overwrite_each_other(trainings, photos, tmp_path, capsys):
    (photos / "labels").mkdir()
    Image.new("RGB", (40, 40)).save(photos / "labels" / "a.png")
    given = ["predict", str(photos), "--out", str(tmp_path / "found"), "--checkpoint"]
    with pytest.raises(SystemExit) as stop:
        main([*given, str(trainings / "segmenter"), "--weights", "last"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert f"got {photos / 'labels/a.png'}, whose drawing would be written into labels" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "found").exists()
    main([*given, str(trainings / "detector")])
    assert files_in(tmp_path / "found") == ["a.png", "detections.json", "in/b.png", "labels/a.png"]


@pytest.mark.parametrize("kind", ["detector", "zoom"])
def test_an_unreadable_image_is_skipped_with_exit_code_2(finished, trainings, photos, tmp_path, capsys, kind):
    (photos / "broken.png").write_bytes(b"not an image")
    checkpoint = trainings / "detector" if kind == "detector" else finished / "runs/zoom-ape-seed0/model.safetensors"
    out = ["--out", str(tmp_path / "found"), "--threshold", "0"] if kind == "detector" else []
    with pytest.raises(SystemExit) as stop:
        main(["predict", str(photos), "--checkpoint", str(checkpoint), *out])
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert f"error: {photos / 'broken.png'} cannot be read as an image" in printed.err
    assert f"{photos / 'in/b.jpg'}" in printed.out
    if kind == "detector":
        assert "wrote 2 images" in printed.out
        found = json.loads((tmp_path / "found" / "detections.json").read_text())
        assert {(one["image_id"], one["file_name"]) for one in found} == {(1, "a.png"), (3, "in/b.jpg")}


def test_ctrl_c_keeps_finished_predictions(trainings, photos, tmp_path, monkeypatch):
    predict = importlib.import_module("ropevit.cli.predict")
    read = predict.read_image
    monkeypatch.setattr(predict, "read_image", lambda path: interrupt() if path.name == "b.jpg" else read(path))
    options = ["--checkpoint", str(trainings / "detector"), "--threshold", "0", "--out", str(tmp_path / "found")]
    with pytest.raises(SystemExit) as stop:
        main(["predict", str(photos), *options])
    assert stop.value.code == 130
    assert len(json.loads((tmp_path / "found" / "detections.json").read_text())) == 60


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("detector", ["--keep-aspect"], "got --keep-aspect with a detector; it is for a classifier: omit it"),
        ("detector", ["--model", "deit_tiny_patch16_LS"], "got --model with a detector"),
        ("detector", ["--threshold", "2"], "got threshold=2.0; expected a score from 0 to 1"),
        ("detector", ["--size", "64", "80"], "give the shorter side only"),
        ("detector", ["--size", "0"], "got size=0"),
        ("detector", ["--weights", "ema"], "has no model_ema.safetensors; choose --weights best"),
        ("detector", ["--out", "PHOTOS"], "is not empty; choose another --out"),
        ("detector", ["PHOTOS"], "got images of the same name"),
        ("detector", ["EMPTY"], "found no images in"),
        ("segmenter", ["--weights", "last", "--topk", "3"], "got --topk with a segmenter"),
        ("segmenter", ["--weights", "last", "--threshold", "0"], "got --threshold with a segmenter"),
        ("segmenter/model.safetensors", ["--weights", "last"], "only the directory of a training run has several"),
        ("zoom", ["--threshold", "0.5"], "got --threshold with a classifier; it is for a detector: omit it"),
        ("no/model", ["--threshold", "1"], "with a classifier (there is no file or directory no/model, so"),
        ("runs/no/model", ["--out", "new"], "no file 'runs/no/model'; check the path"),
        ("detector", ["--batch-size", "8"], "got --batch-size with a detector; it is for a classifier: omit it"),
    ],
)
def test_options_of_other_tasks_are_errors(finished, trainings, photos, capsys, kind, options, message):
    tmp_path = photos.parent
    (tmp_path / "empty").mkdir()
    places = {"PHOTOS": str(photos), "EMPTY": str(tmp_path / "empty")}
    checkpoint = finished / "runs/zoom-ape-seed0/model.safetensors" if kind == "zoom" else trainings / kind
    checkpoint = kind if kind.endswith("no/model") else checkpoint
    before = files_in(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["predict", str(photos), *[places.get(word, word) for word in options], "--checkpoint", str(checkpoint)])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert files_in(tmp_path) == before
