"""`ropevit probe`."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import ropevit
from ropevit.cli import main
from ropevit.data.tiny import make_tiny
from ropevit.models import ViT, ViTConfig, build_model, get_config
from ropevit.rope import ROPE_FAMILIES
from ropevit.tasks.classify.eval_model import read_eval_model
from ropevit.tasks.classify.evaluate import normalizer
from ropevit.tasks.classify.inference_modes import resize_images
from ropevit.tasks.evaluation.loop import distributed
from ropevit.tasks.evaluation.results import hash_weights
from ropevit.tasks.evaluation.tuned_scaling import TunedScaling, choices_file, save_choice
from ropevit.tasks.probe import ProbeConfig, linear, report_method
from ropevit.tasks.probe.features import Extractor, pool_features
from ropevit.tasks.probe.plan import make_plan

MODEL = {"position": "rope_mixed", "width": 16, "depth": 2, "heads": 2, "patch_size": 8, "img_size": (16, 16)}


def save(path, **changes):
    torch.manual_seed(0)
    model = ViT(ViTConfig(**MODEL | {"num_classes": 3, "layer_scale": None} | changes))
    with torch.no_grad():
        for block in model.blocks:  # sharp attention, which a rotation changes
            block.attn.qkv.weight.mul_(60)
    return str(ropevit.save_model(path, model))


@pytest.fixture(autouse=True)
def few_penalties(monkeypatch):
    """Choose the penalty of a linear probe from three: each is a fit."""
    for module in (linear, report_method):
        monkeypatch.setattr(module, "PENALTIES", (10.0, 1e-2, 1e-5))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two colors as classes, with a training image and a test image that are broken."""
    root, noise = tmp_path_factory.mktemp("probe") / "photos", np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 6)):
        for channel, name in enumerate(("blue", "red")):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = noise.integers(0, 120, (36, 40, 3))
                pixels[..., 2 * (1 - channel)] += 130
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / name / f"{index}.png")
    for split in ("train", "val"):
        (root / split / "red" / "0.png").write_text("not an image")
    return root


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return save(tmp_path / "own" / "model.safetensors")


def words(checkpoint, photos):
    return ["probe", "--checkpoint", checkpoint, "--data", str(photos), "--workers", "0", "--device", "cpu"]


def table(folder):
    with Path(folder, "probe.csv").open() as file:
        return list(csv.DictReader(file))


def error_of(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


@pytest.mark.usefixtures("rendered")
def test_frozen_features_are_measured_at_every_size(checkpoint, photos, capsys):
    main([*words(checkpoint, photos), "--sizes", "32", "--scaling", "none", "pi", "--out", "out"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "model on photos/val at 16, 32 px" in printed
    assert "24 images to fit the probes to, 12 to measure them on" in printed
    rows = table("out")
    conditions = [(row["size"], row["scaling"], row["mode"], row["tokens"]) for row in rows]
    assert conditions == [
        ("16", "none", "whole", "4"),
        ("32", "none", "whole", "16"),
        ("32", "pi", "whole", "16"),
        ("32", "none", "tiles", "16"),
        ("32", "none", "resize", "4"),
    ]
    counts = [row[name] for row in rows for name in ("images", "skipped", "train_images", "train_skipped")]
    assert counts == ["11", "1", "23", "1"] * 5
    assert [printed.count(f"skipped {photos}/{split}/red/0.png") for split in ("train", "val")] == [1, 1]
    assert {row["knn"] for row in rows} == {"100.0"}  # any features distinguish colors
    assert rows[0]["knn_change"] == rows[0]["knn_change_low"] == "0.0"
    stored = json.loads(Path("out/probe.json").read_text())
    assert [each["images"][0].count("-") for each in stored["passes"]] == [1] * 5
    assert stored["config"]["classes"] == ["blue", "red"]
    page = Path("out/report.html").read_text()
    assert "Frozen features of model on photos/val" in page
    assert stored["result"]["conclusions"][0].split(";")[0] in page
    assert "23 training images of 2 classes (1 more could not be read), and are measured on 11 other images (1" in page
    assert "the values of DINO" in page
    assert page.count("<td>whole, no scaling</td>") == 1
    assert stored["data"] == str(photos)
    assert stored["model"] | {"weights": "", "checkpoint": ""} == {
        **{"name": "model", "weights": "", "checkpoint": "", "model": None, "position": "rope_mixed", "trained_at": 16}
    }
    assert stored["machine"].keys() >= {"ropevit", "torch", "batch_size"}
    remark = "the chosen penalty is the strongest of the grid, 10, in 5 of 5 rows"  # all of them are right
    assert remark in printed
    assert remark in page
    assert {row["converged"] for row in rows} == {"True"}
    assert "not finished" not in page
    assert Path("out/curve.png").stat().st_size > 10_000


def test_a_stopped_probe_goes_on_with_what_is_missing(checkpoint, photos, monkeypatch, capsys):
    original, calls = Extractor.extract, []

    def interrupted(self, condition, *rest):
        calls.append(condition.text)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(self, condition, *rest)

    monkeypatch.setattr(Extractor, "extract", interrupted)
    asked = [*words(checkpoint, photos), "--sizes", "32", "--baselines", "--out"]
    with pytest.raises(SystemExit) as stop:
        main([*asked, "half"])
    assert stop.value.code == 130
    assert "the same command with --resume measures the remaining rows" in capsys.readouterr().out
    assert [row["size"] for row in table("half")] == ["16"]
    assert "1 row is missing" in Path("half/report.html").read_text()
    main([*asked, "half", "--resume", "--scaling", "none", "pi"])  # and another method
    assert calls == ["16 px, scaling none"] * 2 + ["32 px, scaling none"] * 4 + ["32 px, scaling pi"] * 2
    main([*asked, "whole", "--scaling", "none", "pi"])
    results = [{k: v for k, v in row.items() if k != "images_per_second"} for row in table("half")]
    assert results == [{k: v for k, v in row.items() if k != "images_per_second"} for row in table("whole")]


def test_auto_is_what_tune_scaling_chose(checkpoint, photos, capsys):
    digest = hash_weights(read_eval_model(None, checkpoint).parsed.state)
    facts = {"fingerprint": digest, "weights": "model.safetensors", "scaling": "ntk", "chosen": "ntk"}
    facts |= {"baseline": "none", "gain": 3.0, "low": 1.0, "high": 5.0, "metric": "top-1", "sizes": [32]}
    facts |= {"data": "photos/val", "images_chosen_on": 30, "images_reported_on": 30, "date": "2026-01-31"}
    save_choice(choices_file(None, checkpoint), TunedScaling(**facts))
    main(
        [
            *words(checkpoint, photos),
            "--sizes",
            "32",
            "--scaling",
            "auto",
            "ntk",
            "--baselines",
            "--pooling",
            "both",
            "--out",
            "out",
        ]
    )
    printed = capsys.readouterr().out
    assert "scaling auto: ntk, chosen at 32 px on images of photos/val" in printed
    assert "it has seen images of this evaluation" in " ".join(printed.split())
    assert [(row["scaling"], row["channels"]) for row in table("out")] == [("none", "32"), ("ntk", "32")]


@pytest.mark.full  # by default one size and one method
def test_reference_and_baselines_keep_the_scaling_of_the_model(tmp_path, photos, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    own = save(tmp_path / "own.safetensors", scaling="pi", trained_grid=(1, 1))  # so that it changes 16 px, too
    main([*words(own, photos), "--sizes", "32", "--scaling", "none", "--neighbors", "5", "--out", "out"])
    conditions = [(row["size"], row["scaling"], row["mode"]) for row in table("out")]
    assert conditions == [
        ("16", "pi", "whole"),
        ("16", "none", "whole"),
        ("32", "none", "whole"),
        ("32", "pi", "tiles"),
        ("32", "pi", "resize"),
    ]
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line.count("reference") for line in lines if line[:2] == ["16", "px"]] == [3, 0]
    page = Path("out/report.html").read_text()
    assert page.count("<td>reference</td>") == 1
    assert "the values of DINO" not in page
    assert "the model as it is at its training size, 16 px (scaling pi)" in page
    config = ProbeConfig(data=str(photos), checkpoint=own, sizes=(32,), scaling=("none",), device="cpu")
    eval_model, images = read_eval_model(None, own), torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    model = eval_model.build(eval_model.config)
    model.reset_classifier(0)
    with distributed(config.eval_config(), lambda _: None) as context, torch.no_grad():
        plan = make_plan(config, context)
        small = resize_images(images, 16)
        expected = pool_features(model, normalizer(eval_model, context.device)(small), "model")
        resized = next(each for each in plan.conditions if each.mode == "resize")
        torch.testing.assert_close(Extractor(plan).embedder(plan.reference)(small), expected)
        torch.testing.assert_close(Extractor(plan).embedder(resized)(images), expected)


@pytest.mark.full  # by default classes and patches of a ViT are probed
def test_models_without_a_head_or_a_rotation_are_probed(tmp_path, photos, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bare = save(tmp_path / "bare.safetensors", num_classes=0, position="ape", pooling="avg", class_token=False)
    main(
        [
            *words(bare, photos),
            "--sizes",
            "24",
            "--pooling",
            "mean",
            "--out",
            "out",
            "--max-images",
            "10",
        ]
    )
    rows = table("out")
    assert [(row["size"], row["mode"]) for row in rows] == [(size, mode) for size, mode in (
        ("16", "whole"), ("24", "whole"), ("24", "tiles"), ("24", "resize")
    )]  # fmt: skip
    assert {row["channels"] for row in rows} == {"16"}
    assert all(int(row["images"]) + int(row["skipped"]) == 10 for row in rows)


@pytest.mark.parametrize("pooling", ["token", "avg"])
def test_features_are_those_of_the_head_and_of_the_mean_patch(pooling):
    torch.manual_seed(0)
    model, images = (
        ViT(ViTConfig(**MODEL, num_classes=0, pooling=pooling, pooled_norm=True)).eval(),
        torch.rand(2, 3, 16, 24),
    )
    tokens = model.forward_features(images)
    mean, head = model.norm(tokens[:, 1:].mean(1)), model.norm(tokens[:, 0])
    head = head if pooling == "token" else mean
    torch.testing.assert_close(pool_features(model, images, "model"), head)
    torch.testing.assert_close(pool_features(model, images, "mean"), mean)
    torch.testing.assert_close(pool_features(model, images, "both"), torch.cat([head, mean], 1))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--sizes", "30"], "patches of 8 pixels do not tile"),
        (["--max-images", "1"], "got 1 training images of 2 classes in photos/train; expected at least one of each"),
        (["--scaling", "larger"], "no scaling method named 'larger'"),
        (["--scaling", "pi", "pi"], "got scaling pi pi; name each once"),
        (["--scaling", "auto"], "got --scaling auto, but there is no"),
        (["--neighbors", "0"], "got neighbors=0"),
        (["--out", "own"], "own is not empty; choose another --out, or continue in it with --resume"),
        (["--out", "own", "--resume"], "cannot read own/probe.json"),
    ],
)
def test_wrong_input_is_one_line(checkpoint, photos, capsys, extra, message):
    assert message in error_of([*words(checkpoint, photos), *extra], capsys)


def test_images_that_cannot_be_probed_are_refused(checkpoint, photos, tmp_path, capsys):
    unlabeled, single, other = (tmp_path / name for name in ("unlabeled", "single", "other"))
    for folder in (unlabeled, single / "train/red", single / "val/red", other / "train/red", other / "train/blue"):
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes((photos / "val" / "red" / "1.png").read_bytes())
    for name in ("red", "green"):
        (other / "val" / name).mkdir(parents=True)
        (other / "val" / name / "b.png").write_bytes((photos / "val" / "red" / "2.png").read_bytes())
    assert "found no train images in" in error_of(words(checkpoint, unlabeled), capsys)
    assert "found the only class red in" in error_of(words(checkpoint, single), capsys)
    assert "(blue, green in one of them only)" in error_of(words(checkpoint, other), capsys)


def test_a_class_whose_training_images_cannot_be_read_is_refused(checkpoint, photos, tmp_path, capsys):
    shutil.copytree(photos, tmp_path / "broken")
    for file in (tmp_path / "broken/train/blue").iterdir():
        file.write_text("not an image")
    error = error_of([*words(checkpoint, tmp_path / "broken"), "--sizes", "16"], capsys)
    assert "got no training image of blue among 11 of broken/train that can be read; expected at least one" in error


def test_a_damaged_pass_is_not_resumed(checkpoint, photos, capsys):
    asked, file = [*words(checkpoint, photos), "--sizes", "16", "--out", "out"], Path("out/probe.json")
    main(asked)
    content = json.loads(file.read_text())
    for damage, message in (
        ({"penalty": None}, "a pass has no valid penalty"),
        ({"tokens": "4"}, "a pass has no valid tokens"),
        ({"images": ["01", "01"]}, "a pass is incomplete"),
        ({"mode": "other"}, "a pass is incomplete"),
        ({"probes": ["knn"], "images": ["0" * 12]}, "a pass is incomplete"),
    ):
        file.write_text(json.dumps(content | {"passes": [content["passes"][0] | damage]}))
        assert f"cannot read out/probe.json ({message})" in error_of([*asked, "--resume"], capsys)


def test_other_images_or_pixels_do_not_resume_a_probe(checkpoint, photos, tmp_path, capsys):
    shutil.copytree(photos, tmp_path / "photos")
    asked = [*words(checkpoint, tmp_path / "photos"), "--sizes", "16", "--out", "out"]
    main(asked)
    main([*asked, "--resume", "--protocol", "paper"])
    assert "crop was 1.0, now 0.9" in error_of([*asked, "--resume", "--protocol", "timm"], capsys)
    shutil.copy(photos / "train/blue/1.png", tmp_path / "photos/train/blue/2.png")
    error = error_of([*asked, "--resume"], capsys)
    assert "out was started with other options (train_files was" in error
    assert "test_files" not in error


def test_detectors_and_methods_that_do_not_fit_are_refused(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_file({"x": torch.zeros(1)}, "detector.safetensors", metadata={"format": "ropevit-detector"})
    assert "detector.safetensors is a detector; probe takes classifiers" in error_of(
        words("detector.safetensors", photos), capsys
    )
    ape = save(tmp_path / "ape.safetensors", position="ape")
    assert "RoPE" in error_of([*words(ape, photos), "--scaling", "pi"], capsys)
    mean = save(tmp_path / "mean.safetensors", pooling="avg")
    error = error_of([*words(mean, photos), "--pooling", "both"], capsys)
    assert "got --pooling both for mean, whose head reads the mean patch" in error


@pytest.mark.full  # tests/integrations/test_scaling_in_place.py has these methods
def test_models_of_other_families_take_scaling_methods(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    convention = ROPE_FAMILIES["dinov3"].convention
    dino = save(tmp_path / "dino.safetensors", position="rope_axial", rope_convention=convention)
    main([*words(dino, photos), "--sizes", "32", "--scaling", "none", "pi", "--out", "probed"])
    with Path("probed/probe.csv").open() as file:
        rows = [(row["size"], row["scaling"]) for row in csv.DictReader(file) if row["mode"] == "whole"]
    assert rows == [("16", "none"), ("32", "none"), ("32", "pi")]
    capsys.readouterr()


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    """Colored shapes with masks, one image of each split broken."""
    root = tmp_path_factory.mktemp("probe") / "shapes"
    make_tiny("ade", root, train=8, val=5)
    for split, folder in (("train", "training"), ("val", "validation")):
        (root / "images" / folder / f"ADE_{split}_00000002.jpg").write_text("not an image")
    return root


def test_patches_are_measured_where_images_have_masks(checkpoint, masks, capsys):
    asked = [*words(checkpoint, masks), "--max-patches", "80", "--out", "out"]
    main([*asked, "--sizes", "32", "--scaling", "none", "pi"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "mean IoU (%), with the 95 % interval" in printed
    rows = table("out")
    assert [(row["size"], row["scaling"], row["mode"]) for row in rows] == [
        ("16", "none", "whole"),
        ("16", "pi", "whole"),
        ("32", "none", "whole"),
        ("32", "pi", "whole"),
        ("32", "none", "tiles"),
        ("32", "none", "resize"),
    ]
    counts = [row[name] for row in rows for name in ("images", "skipped", "train_images", "train_skipped")]
    assert counts == ["4", "1", "7", "1"] * 6
    patches = [int(row["patches"]) for row in rows]
    assert patches[2:5] == [7 * 10] * 3  # of each image that could be read; fewer fit into the small ones
    assert max(patches) == 7 * 10
    assert rows[4]["patch_classes"] == "4"
    values = [float(row["iou"]) for row in rows]
    stored = json.loads(Path("out/probe.json").read_text())
    assert {each["majority"] for each in stored["passes"]} == {0}
    nothing = float(re.search(r"every pixel ground: ([0-9.]+) %", printed).group(1))
    assert max(values) > nothing > 15  # shapes of bright colors are found
    page = Path("out/report.html").read_text()
    assert "every pixel ground" in page
    assert "so that --max-patches 80 bounds memory" in page
    assert f"{rows[0]['patch_classes']} of 150 classes have patches in training" in page
    assert "bootstrap over only 4 test images" in page
    assert Path("out/curve.png").exists()
    before = Path("out/probe.csv").read_text()
    main([*asked, "--sizes", "32", "--scaling", "none", "pi", "--resume"])
    assert Path("out/probe.csv").read_text() == before
    assert "max_patches was 80, now 10000" in error_of([*words(checkpoint, masks), "--out", "out", "--resume"], capsys)


@pytest.mark.full  # by default classes and patches of a ViT are probed
def test_a_swin_and_an_absolute_embedding_are_probed_by_patches(masks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = get_config(
        "swin_rope_mixed_tiny_patch4_window7_224",
        width=8,
        depths=(1, 1),
        heads=(1, 1),
        window_size=2,
        img_size=(16, 16),
    )
    swin = str(ropevit.save_model("swin.safetensors", build_model(config)))
    ape = save(tmp_path / "ape.safetensors", position="ape")
    for file in (swin, ape):
        main([*words(file, masks), "--sizes", "24", "--baselines", "--max-patches", "60", "--out", f"{file}.probe"])
        rows = table(f"{file}.probe")
        assert [row["size"] for row in rows] == ["16", "24"]
        assert all(float(row["iou"]) > 5 for row in rows)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--pooling", "mean", "--batch-size", "4"], "got --pooling, --batch-size for"),
        (["--max-patches", "0"], "got max_patches=0; expected 1 or more"),
        (["--max-images", "1"], "got 1 training image; expected at least two"),
        (["--sizes", "30"], "patches of 8 pixels do not tile"),
    ],
)
def test_options_that_masks_do_not_take_are_one_line(checkpoint, masks, capsys, extra, message):
    assert message in error_of([*words(checkpoint, masks), *extra], capsys)


def test_data_that_a_probe_of_patches_cannot_take_is_refused(checkpoint, photos, masks, tmp_path, capsys):
    make_tiny("coco", tmp_path / "boxes", train=2, val=1)
    assert "in the format of COCO; a probe takes" in error_of(words(checkpoint, tmp_path / "boxes"), capsys)
    asked = [*words(checkpoint, photos), "--max-patches", "10"]
    assert "got --max-patches for" in error_of(asked, capsys)
    shutil.copytree(masks, tmp_path / "one")
    for file in (tmp_path / "one/annotations/training").iterdir():
        Image.fromarray(np.minimum(np.array(Image.open(file)), 1)).save(file)
    error = error_of([*words(checkpoint, tmp_path / "one"), "--sizes", "16"], capsys)
    assert "got labeled patches of 1 classes in 7 images of ade/train" in error
