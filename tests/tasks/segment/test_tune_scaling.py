"""`ropevit tune-scaling` of a segmenter, and `--scaling auto` of the verbs that read its choice."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ropevit.cli import main
from ropevit.data.ade import open_ade
from ropevit.data.tiny import draw_scene, write_ade
from ropevit.tasks.evaluation import scaling_search
from ropevit.tasks.evaluation.scaling_search import split_images
from ropevit.tasks.segment.inference import InferenceConfig
from ropevit.tasks.segment.tune_scaling import ClassPixels, decode_pixels, encode_pixels, mean_iou
from tasks.segment.eval_data import CLASSES, save_tiny

BROKEN = 39


@pytest.fixture(scope="module")
def ade(tmp_path_factory):
    """Forty images, the last one broken, whose labels are those of the scenes, folded to four classes."""
    root = tmp_path_factory.mktemp("tune") / "ade"
    write_ade(root, "val", [draw_scene(number) for number in range(40)])
    (root / "classes.txt").write_text("\n".join(CLASSES))
    for path in (root / "annotations" / "validation").iterdir():
        labels = np.asarray(Image.open(path))
        Image.fromarray(np.where(labels > 0, labels % len(CLASSES) + 1, 0).astype(np.uint8)).save(path)
    Path(open_ade(root, "val").describe(BROKEN)).write_bytes(b"")
    return root


@pytest.fixture(scope="module", autouse=True)
def few_candidates():
    """Search in a short list, also where a search is resumed."""
    few = [scaling_search.Candidate(), *(scaling_search.Candidate(method="pi", power=power) for power in (0.0, 1.0))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scaling_search, "coarse_grid", lambda: few)
        yield


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    """The folder of a segmenter."""
    folder = tmp_path_factory.mktemp("segmenter")
    save_tiny(folder / "model.safetensors", crop=32)
    return folder


@pytest.fixture(scope="module")
def tuned(ade, segmenter):
    """The same, once its scaling was chosen."""
    main([*words("tune-scaling", segmenter, ade), "--out", str(segmenter / "tuning")])
    return segmenter


def words(verb, folder, data):
    where = ["--checkpoint", str(folder / "model.safetensors"), "--data", str(data)]
    return [verb, *where, "--sizes", "64", "--workers", "0", "--device", "cpu"]


def score(path):
    with (path / "eval.csv").open() as file:
        return float(next(csv.DictReader(file))["mIoU"])


@pytest.mark.full  # tests/cli/test_tune_scaling.py has it for classifiers
def test_scores_of_the_choice_are_those_of_eval_on_the_same_images(tuned, ade, tmp_path):
    source, half = open_ade(ade, "val"), tmp_path / "ade"
    for index in split_images(len(source), "images")["choose"].tolist():
        for file in (Path(source.describe(index)), source.label_file(index)):
            (half / file.relative_to(ade)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, half / file.relative_to(ade))
    shutil.copy(ade / "classes.txt", half)
    record = json.loads((tuned / "tuning" / "tuning.json").read_text())
    trials = {trial["scaling"]: trial["score"] for trial in record["result"]["trials"]}
    assert len(set(trials.values())) > 2, "methods change predictions"
    for scaling in ("none", "pi+log"):
        main([*words("eval", tuned, half), "--scaling", scaling, "--out", str(tmp_path / scaling)])
        assert trials[scaling] == pytest.approx(score(tmp_path / scaling), abs=1e-3)


@pytest.mark.full  # tests/cli/test_tune_scaling.py has it for classifiers
def test_the_choice_is_read_by_eval_and_predict(tuned, ade, tmp_path, capsys):
    (choice,) = json.loads((tuned / "scaling.json").read_text())["choices"]
    assert (choice["metric"], choice["sizes"]) == ("mIoU", [64])
    main([*words("eval", tuned, ade), "--scaling", "auto", "--out", str(tmp_path / "auto")])
    line = f"scaling auto: {choice['scaling']}"
    printed = " ".join(capsys.readouterr().out.split())
    assert line in printed
    assert "it has seen images of this evaluation" in printed
    main([*words("eval", tuned, ade), "--scaling", choice["scaling"], "--out", str(tmp_path / "named")])
    assert score(tmp_path / "auto") == score(tmp_path / "named")
    image = open_ade(ade, "val").describe(0)
    predict = ["predict", image, "--checkpoint", str(tuned / "model.safetensors"), "--size", "64", "--device", "cpu"]
    capsys.readouterr()
    found = {}
    for scaling in ("auto", choice["chosen"], "parts+log"):
        main([*predict, "--scaling", scaling, "--out", str(tmp_path / f"predicted-{scaling}")])
        assert (line in capsys.readouterr().out) == (scaling == "auto")
        found[scaling] = next((tmp_path / f"predicted-{scaling}" / "labels").iterdir()).read_bytes()
    assert found["auto"] != found["parts+log"] or choice["scaling"] == "parts+log"


@pytest.mark.full  # tests/cli/test_tune_scaling.py has it for classifiers
def test_unreadable_images_are_named_and_not_counted(tuned, ade, capsys):
    (choice,) = json.loads((tuned / "scaling.json").read_text())["choices"]
    half = next(name for name, index in split_images(40, "images").items() if BROKEN in index)
    expected = (19, 20) if half == "choose" else (20, 19)
    assert (choice["images_chosen_on"], choice["images_reported_on"]) == expected
    before = (tuned / "scaling.json").read_text()
    main([*words("tune-scaling", tuned, ade), "--out", str(tuned / "tuning"), "--resume"])
    printed = "".join(capsys.readouterr().out.split())
    assert f"leftout,unreadableorwithoutlabels(1):{open_ade(ade, 'val').describe(BROKEN)}" in printed
    assert json.loads((tuned / "scaling.json").read_text())["choices"][0] == json.loads(before)["choices"][0]


@pytest.mark.full  # the search of its fixture takes seconds
def test_a_search_is_not_resumed_on_other_images_or_with_other_limits(tuned, ade, tmp_path, capsys):
    settings = json.loads((tuned / "tuning" / "tuning.json").read_text())["config"]
    assert settings.items() >= {"flip": False, "test_short": 64, "test_long": 80, "window": None}.items()
    other = shutil.copytree(ade, tmp_path / "other" / "ade")
    for file in (Path(open_ade(other, "val").describe(3)), open_ade(other, "val").label_file(3)):
        file.rename(file.with_stem("renamed"))
    error = error_of([*words("tune-scaling", tuned, other), "--out", str(tuned / "tuning"), "--resume"], capsys)
    assert "was started with other options (annotations was" in error


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"position": "ape"}, "with the position embedding ape; RoPE scaling needs a model with RoPE"),
        ({"inference": InferenceConfig(window=32, stride=16)}, "RoPE scaling is for larger grids: give --whole\n"),
        ({"model": {"window": 2, "depth": 8}}, "global attention in all blocks: give such a segmenter\n"),
    ],
)
def test_a_segmenter_that_scaling_cannot_change_is_refused_before_the_first_pass(
    ade, tmp_path, monkeypatch, capsys, model, expected
):
    monkeypatch.setattr(ClassPixels, "__call__", lambda *_: pytest.fail("a pass has begun"))
    save_tiny(tmp_path / "model.safetensors", crop=32, **model)
    assert expected in error_of([*words("tune-scaling", tmp_path, ade), "--out", str(tmp_path / "out")], capsys)


def test_predict_advises_its_own_option(ade, tmp_path, capsys):
    save_tiny(tmp_path / "model.safetensors", crop=32, inference=InferenceConfig(window=32, stride=16))
    where = ["--checkpoint", str(tmp_path / "model.safetensors"), "--size", "64", "--device", "cpu"]
    command = ["predict", open_ade(ade, "val").describe(0), *where, "--scaling", "pi", "--out", str(tmp_path / "out")]
    assert "RoPE scaling is for larger grids: give --inference-mode whole\n" in error_of(command, capsys)
    main([*command, "--inference-mode", "whole"])


def error_of(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main(command)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_counts_are_read_as_they_were_written():
    counts = torch.zeros(3, 5, 3, dtype=torch.int64)
    counts[0, 1] = torch.tensor([3, 5, 4])
    counts[2, 4] = torch.tensor([0, 0, 9])
    assert torch.equal(decode_pixels(encode_pixels(counts), 5), counts)
    for wrong in (["5 1 1 1"], ["1 2 3"], ["a b c d"], "1 2 3 4", [3]):
        with pytest.raises(ValueError, match=r"pixels|images|invalid"):
            decode_pixels(wrong, 5)


def test_the_mean_is_over_classes_that_are_labeled_or_predicted():
    counts = torch.tensor([[[1.0, 2.0, 2.0], [4.0, 4.0, 4.0], [0.0, 0.0, 0.0]]])
    assert mean_iou(counts).item() == pytest.approx(100 * (1 / 3 + 1) / 2)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--sizes", "32"], "got size 32 for a segmenter trained on crops of 32 px; RoPE scaling is for larger sizes"),
        (["--crop-pct", "0.9"], "got --protocol or --crop-pct with a segmenter; they are for classifiers"),
        (["--max-images", "0"], "got max_images=0; expected 1 or more"),
        (["--batch-size", "2"], "a segmenter takes images one by one"),
    ],
)
def test_wrong_input_is_one_line(segmenter, ade, tmp_path, monkeypatch, capsys, extra, message):
    monkeypatch.chdir(tmp_path)
    assert message in error_of([*words("tune-scaling", segmenter, ade), *extra], capsys)
