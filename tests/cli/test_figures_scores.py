import csv
import importlib
import json
from functools import partial

import pytest

import ropevit
from ropevit.cli import main
from ropevit.cli.figures import FiguresConfig, load_figure_model
from ropevit.models import ViT, ViTConfig
from ropevit.tasks.evaluation.config import EvalConfig
from ropevit.tasks.predictions import new_folder


@pytest.fixture
def checkpoint(tmp_path):
    config = ViTConfig(position="ape", width=16, depth=1, heads=2, patch_size=8, img_size=(16, 16), num_classes=3)
    return str(ropevit.save_model(tmp_path / "own.safetensors", ViT(config), classes=["blue", "green", "red"]))


def read(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.usefixtures("rendered")
def test_extrapolation_evaluates_a_model_or_plots_existing_evaluations(
    checkpoint, my_images, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(
        importlib.import_module("ropevit.cli.figures"), "EvalConfig", partial(EvalConfig, workers=0, device="cpu")
    )
    given = ["--checkpoint", checkpoint, "--data", str(my_images), "--sizes", "8,16", "--scaling", "ntk"]
    with pytest.raises(SystemExit):
        main(["figures", "extrapolation", *given, "--out", str(tmp_path / "no")])  # scaling needs RoPE
    main(["figures", "extrapolation", *given[:-2], "--out", str(tmp_path / "new")])
    assert "8 px: top-1" in capsys.readouterr().out
    out = tmp_path / "new"
    assert {path.name for path in out.iterdir()} == {"eval", *(f"extrapolation.{x}" for x in ("png", "svg", "csv"))}
    main(["figures", "extrapolation", "--evals", str(out / "eval"), "--out", str(tmp_path / "read")])
    rows = read(tmp_path / "read" / "extrapolation.csv")
    assert rows == read(out / "extrapolation.csv")
    scores = {row["size"]: row["top1"] for row in read(out / "eval" / "eval.csv")}
    assert {row["size"]: row["measured"] for row in rows} == scores
    assert json.loads((out / "eval" / "eval.json").read_text())["config"].get("scaling") is None


def test_a_folder_that_another_process_writes_to_is_refused(checkpoint, tmp_path, capsys):
    with new_folder(tmp_path / "out"), pytest.raises(SystemExit):
        main(["figures", "distance", "--checkpoint", checkpoint, "--out", str(tmp_path / "out")])
    assert "another process is writing to" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_attention_figures_use_images_in_a_folder(checkpoint, my_images, tmp_path, capsys):
    images = tmp_path / "images"
    images.mkdir()
    for name in ("1", "2"):
        (images / f"{name}.png").write_bytes((my_images / "blue" / f"{name}.png").read_bytes())
    given = ["--checkpoint", checkpoint, "--images", str(images), "--sizes", "24", "--out", str(tmp_path / "out")]
    main(["figures", "distance", *given])
    (images / "3.png").write_text("not an image")
    main(["figures", "distance", *given[:-1], str(tmp_path / "again")])
    assert "3.png cannot be read as an image" in capsys.readouterr().err
    (images / "1.png").unlink()
    (images / "2.png").unlink()
    with pytest.raises(SystemExit):
        main(["figures", "distance", *given[:-1], str(tmp_path / "none")])
    rows = read(tmp_path / "out" / "distance.csv")
    assert rows == read(tmp_path / "again" / "distance.csv")
    assert {(row["height"], row["grid_rows"], row["images"]) for row in rows} == {("16", "2", "2"), ("24", "3", "2")}


def test_images_are_read_at_the_largest_size_of_the_figures(checkpoint, my_images):
    for sizes, side in ((), 32), ((8,), 16), ((24,), 24):
        config = FiguresConfig(name="distance", checkpoint=checkpoint, images=str(my_images), sizes=sizes)
        assert load_figure_model(config).images.shape[2:] == (side, side), "no image is upsampled from a smaller one"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["distance", "--evals", "x"], "got --evals for distance; it is for extrapolation, all"),
        (["entropy", "--data", "fashion"], "got --data for entropy"),
        (["extrapolation", "--evals", "x", "--data", "fashion"], "got --evals and --data"),
        (["extrapolation", "--evals", "x", "--model", "none_deit_tiny_patch16_LS"], "got --model with --evals"),
        (["extrapolation", "--evals", "x", "--sizes", "384"], "got --sizes with --evals"),
        (["extrapolation", "--evals", "x", "--scaling", "ntk"], "got --scaling with --evals"),
        (["extrapolation", "--evals", "x", "--weights", "last"], "got --weights with --evals"),
        (["extrapolation", "--evals", "x", "--images", "fashion"], "got --images for extrapolation"),
        (["extrapolation", "--model", "none_deit_tiny_patch16_LS", "--sizes", "384"], "got --sizes without --data"),
        (["extrapolation", "--random", "--data", "x", "--model", "none_deit_tiny_patch16_LS"], "--random with --data"),
        (["extrapolation", "--evals", "x"], "found no evaluation in x (no eval.json); leave it out of --evals"),
        (["extrapolation"], "got neither --model nor --checkpoint"),
        (
            ["extrapolation", "--random", "--model", "none_deit_tiny_patch16_LS"],
            "got no scores, and the paper has none",
        ),
        (["distance", "--random", "--model", "none_deit_tiny_patch16_LS"], "got no images"),
    ],
)
def test_wrong_input_is_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["figures", *arguments, "--out", "out"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
