import pytest

from ropevit.cli.data import MakeTinyConfig, run_make_tiny
from ropevit.cli.train import start_training
from ropevit.tasks.training.metrics_log import read_metrics


def test_a_segmenter_is_trained_and_evaluated_from_the_command_line(tmp_path, capsys):
    run_make_tiny(MakeTinyConfig(format="ade", directory=tmp_path / "tiny"))
    options = ["--width", "32", "--upernet.channels", "8", "--device", "cpu", "--max-steps", "2", "--log-interval", "1"]
    start_training(
        ["segment/upernet_smoke", "--data", str(tmp_path / "tiny"), "--out", str(tmp_path / "run"), *options]
    )
    out = capsys.readouterr().out
    assert "stopped after 2 of 200 steps" in out
    assert "mIoU" in out
    assert (tmp_path / "run" / "best.safetensors").is_file()
    assert [line["step"] for line in read_metrics(tmp_path / "run") if "loss" in line] == [1, 2]


def test_recipes_of_segmenters_have_help(capsys):
    with pytest.raises(SystemExit):
        start_training(["segment/mask2former_swin_tiny", "--help"])
    out = capsys.readouterr().out
    assert "--mask2former.queries" in out
    assert "--mask2former.classes" not in out
