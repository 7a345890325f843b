import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import ropevit
from ropevit.cli import main
from ropevit.cli.console import Console
from ropevit.cli.predictions import show_progress
from ropevit.data.imagenet import MEAN, STD
from ropevit.data.images import read_image, resize_to, to_tensor
from ropevit.models import MODELS, SwinConfig, ViT, ViTConfig, build_model
from ropevit.tasks.classify import predict as predicting
from ropevit.tasks.classify.predict import InputTransform, classify
from ropevit.tasks.predictions import new_folder


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.jpg"
    Image.effect_noise((90, 60), 90).convert("RGB").save(path)
    return path


def test_a_checkpoint_of_a_study_stores_its_class_names(finished, my_images, capsys):
    checkpoint = finished / "runs/zoom-rope_mixed-seed0/model.safetensors"
    main(["predict", str(my_images / "red/3.png"), str(my_images / "blue/1.png"), "--checkpoint", str(checkpoint)])
    printed = capsys.readouterr().out
    assert printed.count("at 16 x 16 pixels") == 2
    for name in ("red", "green", "blue"):
        assert printed.count(f" {name} ") == 2
    assert printed.count("%") == 6


def test_swin_takes_any_size_with_windows_of_one_32nd_of_it(photo, tmp_path, monkeypatch):
    config = SwinConfig(position="rope_mixed", width=16, depths=(2,), heads=(2,))
    monkeypatch.setitem(MODELS, "swin_narrow", config)
    weights = {name: torch.randn_like(value) for name, value in build_model(config).state_dict().items()}
    torch.save({"model": weights}, tmp_path / "weights.pth")
    given, image = ["--model", "swin_narrow", "--checkpoint", str(tmp_path / "weights.pth")], read_image(photo)
    for number, (words, shape, window) in enumerate(
        [(["50", "83"], (50, 83), 2), (["65", "--keep-aspect"], (65, 98), 3), (["60"], (60, 60), 2)]
    ):
        out = tmp_path / str(number)
        main(["predict", str(photo), *given, "--out", str(out), "--size", *words])
        (found,) = json.loads((out / "predictions.json").read_text())["images"]
        assert (found["height"], found["width"]) == shape
        best = {}
        for side in (window, window + 1):
            model = build_model(replace(config, window_size=side)).eval()
            model.load_state_dict(weights)
            best[side] = (
                model(to_tensor(resize_to(image, *shape), MEAN, STD)[None]).softmax(-1).topk(5).values[0].tolist()
            )
        assert found["probabilities"] == pytest.approx(best[window], abs=2e-6)
        assert found["probabilities"] != pytest.approx(best[window + 1], abs=1e-3)


def test_published_models_predict_imagenet_classes_at_any_size_and_shape(photo, tmp_path, capsys):
    name = "rope_mixed_deit_tiny_patch16_LS"
    model = ropevit.create_model(name)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.linspace(0, 20, 1000))
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    main(
        [
            "predict",
            str(photo),
            "--model",
            name,
            "--checkpoint",
            str(tmp_path / "weights.pth"),
            "--size",
            "64",
            "--keep-aspect",
        ]
    )
    printed = capsys.readouterr().out
    assert "at 64 x 96 pixels" in printed
    lines = [line for line in printed.splitlines() if "%" in line]
    assert len(lines) == 5
    assert "toilet tissue" in lines[0]


def test_metadata_of_a_file_defines_size_normalization_and_class_names(photo, tmp_path, capsys):
    config = ViTConfig(position="ape", width=16, depth=1, heads=2, patch_size=8, img_size=(32, 64), num_classes=2)
    names = ["dog[/b]", "[red]cat"]
    path = ropevit.save_model(
        tmp_path / "own.safetensors", ViT(config), classes=names, metadata={"mean": [0.4, 0.5, 0.6], "std": 0.2}
    )
    main(["predict", str(photo), "--checkpoint", str(path)])
    printed = capsys.readouterr().out
    assert "at 32 x 64 pixels" in printed
    assert all(name in printed for name in names)
    ropevit.save_model(path, ViT(config), classes=names, metadata={"mean": [0.4, 0.5]})
    with pytest.raises(SystemExit):
        main(["predict", str(photo), "--checkpoint", str(path)])
    assert "has mean=[0.4, 0.5] for images of 3 channels" in " ".join(capsys.readouterr().err.split())


@pytest.fixture
def photos(tmp_path):
    """A folder of seven images of different shapes, and a text file with the suffix of an image."""
    folder = tmp_path / "photos"
    (folder / "=more").mkdir(parents=True)
    for index in range(7):
        place = folder / ("=more" if index == 6 else ".") / f"{index}.png"
        Image.effect_noise((30 + 7 * index, 60 - 5 * index), 20 * index).save(place)
    (folder / "3a.png").write_text("not an image")
    return folder


@pytest.fixture
def named(tmp_path):
    """A grayscale classifier with class names that contain a spreadsheet formula and an escape sequence."""
    config = ViTConfig(
        position="ape", width=16, depth=1, heads=2, patch_size=8, img_size=(16, 16), num_classes=3, in_channels=1
    )
    names = ["=1+1", "cat\x1b[2J", "dog"]
    return str(
        ropevit.save_model(tmp_path / "own.safetensors", ViT(config), classes=names, metadata={"mean": 0.5, "std": 0.5})
    )


def exit_code(arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    return stop.value.code


#: Seconds for a process; by default the journeys predict with workers, and test_loading.py compares what those read.
WORKERS = pytest.param(["--workers", "1"], marks=pytest.mark.full)


@pytest.mark.parametrize("more", [[], ["--keep-aspect"], ["--batch-size", "3"], WORKERS])
def test_a_folder_is_classified_in_batches_and_written_as_csv_and_json(photos, named, tmp_path, capsys, more):
    out = tmp_path / "out"
    assert exit_code(["predict", str(photos), "--checkpoint", named, "--out", str(out), "--topk", "2", *more]) == 2
    printed, errors = capsys.readouterr()
    assert errors.count("\n") == 1
    assert "3a.png cannot be read as an image" in errors
    assert "1 unreadable and skipped" in printed
    assert f"wrote predictions.csv and predictions.json to {out}" in " ".join(printed.split())
    assert "\x1b" not in printed
    assert sorted(path.name for path in out.iterdir()) == ["predictions.csv", "predictions.json"]
    with (out / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = json.loads((out / "predictions.json").read_text())
    assert [row["file"] for row in rows] == [image["file"] for image in found["images"]]
    assert [Path(row["file"]).name for row in rows] == ["0.png", "1.png", "2.png", "3.png", "4.png", "5.png", "6.png"]
    assert [Path(image["file"]).name for image in found["unreadable"]] == ["3a.png"]
    for row, image in zip(rows, found["images"], strict=True):
        alone = classify_alone(row["file"], named, "--keep-aspect" in more)
        assert image["classes"] == [guess.name for guess in alone.top_classes]
        assert image["probabilities"] == pytest.approx([guess.probability for guess in alone.top_classes], abs=2e-6)
        assert (image["height"], image["width"]) == (alone.height, alone.width)
        assert row["class_1"] == {"=1+1": "'=1+1", "cat\x1b[2J": r"cat\x1b[2J", "dog": "dog"}[image["classes"][0]]
        assert float(row["probability_2"]) == image["probabilities"][1]


@pytest.mark.parametrize(("mode", "more"), [("tiles", []), ("resize", []), ("resize", ["--keep-aspect"])])
def test_larger_images_are_classified_in_tiles_or_after_a_resize(photos, named, tmp_path, mode, more):
    size = ["--size", "24"] if more else ["--size", "24", "32"]
    out = ["--out", str(tmp_path / "out")]
    main(["predict", str(photos / "2.png"), "--checkpoint", named, "--inference-mode", mode, *size, *more, *out])
    (found,) = json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]
    model, image = ropevit.load_model(named)[0].eval(), read_image(photos / "2.png")  # 44 x 50 pixels
    wanted = {"mean": (0.5,), "std": (0.5,)}
    larger = resize_to(image, *((24, 24) if more else (24, 32)))
    if mode == "resize":
        chances = model(to_tensor(resize_to(larger, 16, 16), **wanted)[None]).softmax(-1)
        shape = 16, 16
    else:
        pixels, shape = to_tensor(larger, **wanted)[None], (24, 32)
        tiles = [pixels[..., y : y + 16, x : x + 16] for y in (0, 8) for x in (0, 16)]
        chances = torch.cat([model(tile).softmax(-1) for tile in tiles]).mean(0, keepdim=True)
    assert found["probabilities"] == pytest.approx(chances[0].sort(descending=True).values.tolist(), abs=2e-6)
    assert (found["height"], found["width"]) == shape


@pytest.mark.parametrize(("total", "printed"), [(8, []), (25, [10, 20]), (2000, list(range(200, 2001, 200)))])
def test_outside_a_terminal_progress_is_printed_as_lines(total, printed, capsys):
    with show_progress(Console(), "images", total, lines=True) as update:
        for done in range(1, total + 1):
            update(done)
    assert capsys.readouterr().out.splitlines() == [f"images: {done:,} of {total:,}" for done in printed]


def classify_alone(path, checkpoint, whole):
    model, info = ropevit.load_model(checkpoint)
    model_input = InputTransform(
        size=(16,) if whole else (16, 16), multiple=8, keep_aspect=whole, mean=(0.5,), std=(0.5,)
    )
    return classify(model, read_image(Path(path)), model_input, info.classes, 2)


def test_many_images_are_printed_as_lines_and_counted(photos, named, capsys):
    assert exit_code(["predict", str(photos), "--checkpoint", named]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9
    assert all("%" in line for line in lines[:7])
    assert lines[7].startswith("8 images: ")
    assert lines[8] == "1 unreadable and skipped"


def test_ctrl_c_keeps_finished_predictions(photos, named, tmp_path, capsys, monkeypatch):
    original, seen = predicting.top_classes, []

    def interrupted(*given):
        if seen:
            raise KeyboardInterrupt
        seen.append(1)
        return original(*given)

    monkeypatch.setattr(predicting, "top_classes", interrupted)
    arguments = ["predict", str(photos), "--checkpoint", named, "--out", str(tmp_path / "out"), "--batch-size", "2"]
    assert exit_code(arguments) == 130
    assert "stopped after 2 of 8 images" in capsys.readouterr().out
    assert (tmp_path / "out" / "predictions.csv").read_text().count("\n") == 3


def test_a_folder_that_another_process_writes_to_is_refused(photos, named, tmp_path, capsys):
    out = tmp_path / "out"
    with new_folder(out):
        assert exit_code(["predict", str(photos), "--checkpoint", named, "--out", str(out)]) == 2
    assert "another process is writing to" in capsys.readouterr().err
    assert not out.exists()


def test_the_directory_of_a_training_is_a_checkpoint(finished, photo, capsys):
    main(["predict", str(photo), "--checkpoint", str(finished / "runs/zoom-ape-seed0")])
    assert "at 16 x 16 pixels" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict"], "got no image"),
        (["predict", "PHOTO"], "got neither --model nor --checkpoint"),
        (["predict", "gone.jpg", "--model", "deit_tiny_patch16_LS"], "no image file or folder at gone.jpg"),
        (["predict", "PHOTO", "--model", "deit_huge"], "no model named 'deit_huge'"),
        (["predict", "PHOTO", "--checkpoint", "FIELD"], "labels pixels, which its study does outside the model"),
        (["predict", "PHOTO", "--checkpoint", "STUDY"], "is a study of 6 trained models; name the directory of one"),
        (
            ["predict", "PHOTO", "--checkpoint", "ZOOM", "--weights", "last"],
            "only the directory of a training run has several",
        ),
        (["predict", "PHOTO", "--checkpoint", "ZOOM", "--batch-size", "0"], "got batch_size=0"),
        (["predict", "PHOTO", "--checkpoint", "ZOOM", "--threshold", "0.5"], "got --threshold with a classifier"),
        (["predict", "PHOTO", "--checkpoint", "ZOOM", "--out", "PHOTO"], "choose another --out"),
        (["predict", "PHOTO", "--checkpoint", "ZOOM", "--size", "20"], "use a height of 16 or 24"),
        (["predict", "PHOTO", "--checkpoint", "ZOOM", "--topk", "0"], "got topk=0"),
        (
            ["predict", "PHOTO", "--checkpoint", "ZOOM", "--inference-mode", "tile"],
            "choose one of whole, tiles, resize",
        ),
        (
            ["predict", "PHOTO", "--checkpoint", "ZOOM", "--inference-mode", "tiles"],
            "got --inference-mode tiles without --size",
        ),
        (["predict", "PHOTO", "--checkpoint", "ZOOM", "--device", "tpu"], "device 'tpu'"),
        (["predict", "PHOTO", "--checkpoint", "ZOOM", "--device", "meta"], "device 'meta'"),
        (["predict", "PHOTO", "--checkpoint", "ZOOM", "--size", "-8"], "got size (-8,); expected pixels, above 0"),
        (["predict", "PHOTO", "--checkpoint", "ZOOM", "--model", "deit_tiny_patch16_LS"], "leave out --model"),
        (
            ["predict", "PHOTO", "--model", "deit_tiny_patch16_LS", "--checkpoint", ""],
            "is a directory; give a checkpoint file",
        ),
    ],
)
def test_wrong_input_is_one_line(finished, photo, capsys, arguments, message):
    names = {
        "PHOTO": str(photo),
        "FIELD": str(finished / "runs/field-ape-seed0/model.safetensors"),
        "ZOOM": str(finished / "runs/zoom-ape-seed0/model.safetensors"),
        "STUDY": str(finished),
    }
    with pytest.raises(SystemExit) as stop:
        main([names.get(word, word) for word in arguments])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
