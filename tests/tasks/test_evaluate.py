"""Detectors and segmenters measured by two processes, and on the command line."""

import csv
import json
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from ropevit.cli import main
from ropevit.tasks.detect.evaluate import DetectorOptions
from ropevit.tasks.evaluate import evaluate
from ropevit.tasks.evaluation.config import EvalConfig
from ropevit.tasks.evaluation.loop import short_name
from tasks.detect import eval_data as detect
from tasks.detect.generated import write_images
from tasks.segment import eval_data as segment

#: What may differ between two evaluations of the same.
COSTS = ("images_per_second", "peak_memory_gib")


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A detector and a segmenter, with images."""
    root = tmp_path_factory.mktemp("evaluate")
    detect.save_tiny(root / "detector" / "best.safetensors")
    write_images(root / "coco")
    segment.save_tiny(root / "segmenter" / "best.safetensors")
    segment.write_images(root / "ade", lambda image: torch.arange(image.width).expand(image.height, -1) // 40)
    return root


def table(path):
    with Path(path).open() as file:
        return [{key: value for key, value in row.items() if key not in COSTS} for row in csv.DictReader(file)]


PAIRS = (("detector", "coco"), ("segmenter", "ade"))


def test_two_processes_measure_what_one_does(place, run_command, tmp_path):
    words = []
    with ExitStack() as stack:
        for kind, data in PAIRS:
            free = stack.enter_context(socket.socket())
            free.bind(("127.0.0.1", 0))
            words += [place / kind, place / data, tmp_path / "both" / kind, free.getsockname()[1]]
    result = run_command(tmp_path, words, script=Path(__file__).parent / "eval_ranks.py")
    assert result.code == 0, result.errors
    for kind, data in PAIRS:
        known = {"checkpoint": str(place / kind), "data": str(place / data), "out": tmp_path / kind}
        options = DetectorOptions(save_detections=kind == "detector")
        evaluate(EvalConfig(**known, sizes=(64,), workers=0, device="cpu", options=options))
    for kind, _ in PAIRS:
        folders = tmp_path / kind, tmp_path / "both" / kind
        rows = [table(folder / "eval.csv") for folder in folders]
        assert rows[0] == rows[1]
        assert [row["images"] for row in rows[0]] == ["6"]
        texts = [(folder / "per_class.csv").read_text() for folder in folders]
        assert texts[0] == texts[1]
        assert json.loads((folders[1] / "eval.json").read_text())["machine"]["processes"] == 2
    found = [(folder / "detector/detections-64.json").read_text() for folder in (tmp_path, tmp_path / "both")]
    assert found[0] == found[1]
    assert len({row["image_id"] for row in json.loads(found[0])}) == 6


@pytest.mark.full  # by default each task is evaluated from Python, and a classifier from the command line
@pytest.mark.usefixtures("rendered")
def test_the_command_line_evaluates_checkpoints_of_every_task(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    common = ["--workers", "0", "--device", "cpu"]
    main(["eval", "--checkpoint", str(place / "detector"), "--data", str(place / "coco"), "--sizes", "64", *common])
    printed = capsys.readouterr().out
    assert "detector on coco/val: shorter side, the longer at most 1.25 times that, float32, cpu" in printed
    assert "64 px: AP " in printed
    assert "(long 80)" in printed
    assert "64 (training)" in printed
    assert len(next(line for line in printed.splitlines() if "(training)" in line)) <= 80
    assert " GiB" in printed
    views = ["--ratios", "0.5,1.0", "--flip", "--sliding-window", "32"]
    data = str(place / "ade")
    main(["eval", "--checkpoint", str(place / "segmenter"), "--data", data, "--sizes", "48,64", *common, *views])
    printed = capsys.readouterr().out
    assert "segmenter on ade/val: shorter side, windows of 32 every 21, ratios 0.5, 1, flip" in printed
    assert "48 px: mIoU " in printed
    for name in ("detector", "segmenter"):
        assert (tmp_path / "runs/eval" / name / "curve.png").stat().st_size > 5_000


@pytest.mark.parametrize(
    ("kind", "extra", "message"),
    [
        ("detector", ["--protocol", "paper"], "got --protocol, for classifiers only, with a detector"),
        ("detector", ["--flip", "--ratios", "0.5"], "got --flip, --ratios, for segmenters only, with a detector"),
        ("segmenter", ["--real-labels", "real.json"], "got --real-labels, for classifiers only, with a segmenter"),
        ("segmenter", ["--stride", "20"], "got stride=20 for whole images"),
        ("segmenter", ["--sliding-window", "0"], "error: got --sliding-window 0; expected at least 1 pixel\n"),
        ("segmenter", ["--ratios", "0"], "error: got ratios=(0.0,); expected each above 0, and none twice\n"),
        ("a/detector.pth", ["--flip"], "a/detector.pth'; check the path, or give a hub id"),
        ("detector", ["--compare-with", "nowhere"], "found no evaluation in nowhere"),
    ],
)
def test_wrong_options_give_a_one_line_message(place, tmp_path, monkeypatch, capsys, kind, extra, message):
    monkeypatch.chdir(tmp_path)
    data = str(place / dict(PAIRS).get(kind, "ade"))
    with pytest.raises(SystemExit) as stop:
        main(["eval", "--checkpoint", str(place / kind), "--data", data, "--workers", "0", "--device", "cpu", *extra])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_files_that_a_training_left_are_called_like_its_directory():
    assert [short_name(Path("runs/mine") / name) for name in ("best.safetensors", "x.safetensors")] == ["mine", "x"]
