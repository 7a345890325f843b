import contextlib
import io
import json
import os
import signal
import sys
from types import SimpleNamespace

import pytest

from options import TINY_TRAINING
from ropevit.cli import main
from ropevit.cli import train as cli_train
from ropevit.cli.console import Console
from ropevit.cli.runs import table
from ropevit.cli.train import TrainingBars, read_config
from ropevit.tasks.detect.model import load_detector
from ropevit.tasks.runs.run_summary import find_runs
from ropevit.tasks.training import engine
from ropevit.tasks.training.events import LogLine, Notice, StepDone, TrainStarted

OPTIONS = [*TINY_TRAINING, "--max-steps", "3"]


@pytest.mark.usefixtures("rendered")
def test_a_training_is_started_stopped_and_resumed(tmp_path, capsys, monkeypatch):
    out = str(tmp_path / "run")
    original = engine.take_step

    def terminated(state, job, batches):
        loss = original(state, job, batches)
        if state.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss

    monkeypatch.setattr(engine, "take_step", terminated)
    with pytest.raises(SystemExit) as stopped:
        main(["train", "fashion", "--out", out, *OPTIONS])
    assert stopped.value.code == 0
    assert "stopped after step 2, as asked by SIGTERM" in capsys.readouterr().out
    monkeypatch.undo()
    main(["train", "fashion", "--out", out, "--resume", *OPTIONS])
    printed = capsys.readouterr().out
    assert "resuming from step 2 of 3" in printed
    assert "top1" in printed
    assert "stopped after 3 of 624 steps; the same command with --resume and without --max-steps continues" in printed
    with pytest.raises(SystemExit):
        main(["train", "fashion", "--out", out, "--resume", *OPTIONS[:-1], "1"])
    assert "is at step 3 already" in capsys.readouterr().err
    main(["runs", str(tmp_path)])
    assert "0.0385/8" in capsys.readouterr().out
    assert (tmp_path / "runs.png").stat().st_size > 10_000


@pytest.mark.parametrize(("last", "said"), [(32, False), (40, True)])
def test_early_stopping_before_max_steps_is_not_reported_as_their_end(last, said, tmp_path, monkeypatch, capsys):
    def stop(_, report):
        report(TrainStarted(first=0, steps=40, length=72, steps_per_epoch=8, out=tmp_path, parameters=1, trainable=1))
        report(StepDone(step=last))
        return {"top1": 30.0}

    config = read_config(["fashion"])
    monkeypatch.setattr(cli_train, "find_task", lambda _: SimpleNamespace(get=lambda _: stop))
    monkeypatch.setattr(cli_train, "model_line", lambda *_: "a model")
    cli_train._show_training(config)
    printed = capsys.readouterr().out
    assert "top1 30.00" in printed
    assert ("stopped after 40 of 72 steps" in printed) == said
    assert ("--max-steps" in printed) == said


def test_the_display_names_a_skipped_file_once_and_fits_eighty_columns(tmp_path):
    console = Console(width=80, record=True, file=io.StringIO())
    with TrainingBars(console) as bars:
        bars.update(
            TrainStarted(
                first=0, steps=250_000, length=250_000, steps_per_epoch=625, out=tmp_path, parameters=1, trainable=1
            )
        )
        bars.update(StepDone(step=125_000))
        bars.update(
            LogLine(
                step=125_000,
                steps=250_000,
                epoch=200.0,
                loss=1.5,
                lr=1e-3,
                images_per_second=12_345.0,
                data_wait=0.5,
                memory_gib=70.0,
            )
        )
        for _ in range(2):
            bars.update(Notice(message="skipped a.jpg"))
    printed = console.export_text()
    assert printed.count("skipped a.jpg") == 1
    assert "125000/250000" in printed
    assert "loss 1.5000  lr 1.00e-03  12,345 images/s (data)  70.0 GiB" in printed


def test_the_table_of_runs_has_all_columns_in_eighty_characters(tmp_path):
    run = tmp_path / "a_rather_long_name"
    run.mkdir()
    settings = {"recipe": "deit3_small_imagenet100", "model": {"position": "rope_mixed_ape"}, "optim": {"epochs": 200}}
    (run / "config.json").write_text(json.dumps(settings))
    line = {"step": 1, "epoch": 123.4, "loss": 1.5, "top1": 100.0, "images_per_second": 12345.0, "skipped": ["a.jpg"]}
    (run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table(find_runs([tmp_path])))
    printed = console.export_text()
    for shown in ("skipped", "images/s", "123.4/200 …", "1.5000", "100.00", "12,345"):
        assert shown in printed


@pytest.mark.full  # by default a segmenter is, in test_train_segment.py
def test_a_detector_is_trained_on_synthetic_images(tmp_path, capsys):
    data, out = str(tmp_path / "coco"), tmp_path / "run"
    main(["data", "make-tiny", "coco", data])
    options = [*TINY_TRAINING, "--patch-size", "16", "--window-size", "2", "--dino.queries", "10", "--epochs", "1"]
    main(["train", "detect/dino_smoke", "--data", data, "--out", str(out), *options])
    assert "AP50" in capsys.readouterr().out
    _, info = load_detector(out / "model.safetensors")
    assert (info.config.width, info.config.dino.queries, info.metadata["recipe"]) == (16, 10, "detect/dino_smoke")
    with pytest.raises(SystemExit) as stop:
        main(["train", "detect/nosuch"])
    assert stop.value.code == 2
    assert "no recipe named 'detect/nosuch'; did you mean detect/dino_smoke" in capsys.readouterr().err


def test_the_recipes_are_listed_with_expected_accuracy_and_cost_in_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    main(["train", "--list"])
    printed = capsys.readouterr().out
    assert [line.split() for line in printed.splitlines() if "deit3_small " in line] == [
        ["deit3_small", "224", "400", "2048", "80.9", "7.1"]
    ]
    assert "…" not in printed, "nothing is truncated"
    assert "segment/upernet_vit_large_xcit" in printed
    assert "160000 steps" in printed  # of segmenters
    assert any(line.split() == ["detect/dino_swin_tiny", "800", "12", "16"] for line in printed.splitlines())


@pytest.mark.parametrize(
    "arguments",
    [["train"], ["train", "--help"], ["train", "fashion", "--help"], ["train", "detect/dino_smoke", "--help"]],
)
def test_help_shows_the_command(arguments, capsys):
    with contextlib.suppress(SystemExit):
        main(arguments)
    assert "ropevit train" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nosuch"], "no recipe named 'nosuch'"),
        (["--out", "x"], "got --out before the recipe"),
        (["fashion", "--data", "nowhere"], "found no folder nowhere"),
        (["fashion", "--lr", "-1"], "got lr=-1.0"),
        (["fashion", "--position", "sinusoid"], "got position 'sinusoid'"),
        (["fashion", "--init-from", "nothing.safetensors"], "nothing.safetensors"),
        (["fashion", "--batch-size", "20000"], "expected no batch larger than the set"),
        (["fashion", "--batch-size", "33", "--mixup", "0.8"], "got batch_size=33"),
        (
            ["fashion", "--wandb", "p"],
            'wandb is not installed; in a clone of ropevit, install it with: pip install ".[wandb]"',
        ),
        (["fashion", "--tensorboard"], 'in a clone of ropevit, install it with: pip install ".[train]"'),
    ],
)
def test_wrong_input_is_an_error_before_anything_is_written(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for absent in ("wandb", "tensorboard"):
        monkeypatch.setitem(sys.modules, absent, None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(SystemExit) as stop:
        main(["train", *arguments, "--device", "cpu"])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "model"),
    [
        (["--model", "rope_axial_deit_tiny_patch16_LS"], ("deit_tiny", "rope_axial")),
        (["--model=deit_small_patch16_LS", "--position", "ape"], ("deit_small", "ape")),
        (["--model", "deit_small"], ("deit_small", "rope_mixed")),
    ],
)
def test_a_model_is_given_by_name_or_by_variant(words, model):
    config = read_config(["fashion", *words])
    assert (config.model.model, config.model.position) == model


def test_a_model_with_another_position_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["train", "fashion", "--model", "deit_small_patch16_LS", "--position", "rope_mixed"])
    assert "give --model deit_small with it" in capsys.readouterr().err
