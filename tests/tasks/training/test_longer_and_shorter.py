"""Trainings without a name, with more epochs on resuming, and with fewer by early stopping."""

import json
from pathlib import Path

import pytest

from ropevit.locks import lock_folder
from ropevit.tasks.classify.train import Classification, train
from ropevit.tasks.runs.run_names import choose_folder, numbered_folders
from ropevit.tasks.runs.run_summary import find_runs
from ropevit.tasks.training.events import EvalDone, Notice, StepDone, TrainStarted
from ropevit.tasks.training.extension import longer
from ropevit.tasks.training.metrics_log import read_metrics
from ropevit.weights import load_model


def events_of(config, *kinds):
    seen = []
    train(config, lambda event: seen.append(event) if isinstance(event, kinds) else None)
    return seen


@pytest.mark.parametrize(
    ("there", "free", "last"),
    [
        ((), "run", "run"),
        (("run",), "run-2", "run"),
        (("run", "run-2"), "run-3", "run-2"),
        (("run", "run-3"), "run-4", "run-3"),
        (("run-2",), "run-3", "run-2"),
        (("run", "run-2", "run-10", "run-02", "run-1", "run-new", "my-run-11"), "run-11", "run-10"),
    ],
)
@pytest.mark.parametrize("run", ["run", "lr0.01"])
def test_names_count_up_and_resuming_takes_the_last(tmp_path, there, free, last, run):
    there = [name.replace("run", run) for name in there]
    free, last = (name.replace("run", run) for name in (free, last))
    for name in there:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    assert choose_folder(tmp_path / run, resume=False) == tmp_path / free
    assert choose_folder(tmp_path / run, resume=True) == tmp_path / last
    assert numbered_folders(tmp_path / run) == [tmp_path / name for name in there[:3]]


def test_an_empty_folder_is_free_unless_a_process_holds_it(tmp_path):
    assert choose_folder(tmp_path / "none" / "run", resume=False) == tmp_path / "none" / "run"
    run = tmp_path / "run"
    with lock_folder(run):
        assert choose_folder(run, resume=False) == tmp_path / "run-2"
    run.mkdir()
    (run / ".lock").touch()  # of a killed process
    assert choose_folder(run, resume=False) == run


def test_resuming_without_a_folder_continues_that_of_older_versions(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(small(1, max_steps=1, out=Path("runs/train")))
    (started,) = events_of(small(1, max_steps=2, out=None, resume=True), TrainStarted)
    assert (str(started.out), started.first) == ("runs/train", 1)
    other = json.loads(Path("runs/train/config.json").read_text()) | {"recipe": "other"}
    Path("runs/train/config.json").write_text(json.dumps(other))
    (started,) = events_of(small(1, max_steps=1, out=None, resume=True), TrainStarted)
    assert (str(started.out), started.first) == ("runs/fashion", 0)


def test_trainings_without_a_folder_are_numbered_by_recipe(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(small(1, max_steps=1, out=None))
    (started,) = events_of(small(1, max_steps=2, out=None, resume=True), TrainStarted)
    assert (str(started.out), started.first) == ("runs/fashion", 1)
    (started,) = events_of(small(1, max_steps=1, out=None), TrainStarted)
    assert (str(started.out), started.first) == ("runs/fashion-2", 0)
    assert json.loads((started.out / "config.json").read_text())["run"]["out"] == "runs/fashion-2"
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["fashion", "fashion-2"]


def test_a_refused_extension_changes_nothing(small, tmp_path):
    train(small(1))
    config = (tmp_path / "run" / "config.json").read_bytes()
    with pytest.raises(ValueError, match=r"got max_steps=4, but .* is at step 8 already"):
        train(small(2, max_steps=4, resume=True))
    assert (tmp_path / "run" / "config.json").read_bytes() == config
    (started,) = events_of(small(1, resume=True), TrainStarted)
    assert started.first == 8
    assert (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.full  # by default a training is extended, and one ended by patience
def test_an_extended_training_is_not_complete_until_its_new_end(small, tmp_path):
    run = tmp_path / "run"
    train(small(1))
    assert find_runs([run])[0].finished
    train(small(2, max_steps=9, resume=True))
    names = {path.name for path in run.glob("*.safetensors")}
    assert names == {"best.safetensors"}
    train(small(2, resume=True))
    assert find_runs([run])[0].finished
    assert load_model(run / "model_ema.safetensors")[1].metadata["step"] == 16


def losses(folder):
    return [(line["step"], line["lr"]) for line in read_metrics(folder) if "loss" in line]


def test_a_finished_training_is_extended_on_the_schedule_of_its_new_length(unbroken, small, tmp_path):
    train(small(1))
    notice, started = events_of(small(2, resume=True), Notice, TrainStarted)[:2]
    assert notice.message.startswith("extended from 1 to 2 epochs: from here on, the learning rate is that of")
    assert (started.first, started.length) == (8, 16)
    run = tmp_path / "run"
    assert losses(run)[8:] == losses(unbroken)[8:]
    assert losses(run)[:8] != losses(unbroken)[:8], "of a shorter schedule"
    assert load_model(run / "model.safetensors")[1].metadata["step"] == 16
    config = json.loads((run / "config.json").read_text())
    assert (config["optim"]["epochs"], config["extended"]) == (2, [{"epochs": 1}])
    assert config["images"], "the identity of the images is kept"
    (started,) = events_of(small(2, resume=True), TrainStarted)
    assert started.first == 16
    with pytest.raises(ValueError, match="epochs was 2, now 1"):
        train(small(1, resume=True))


@pytest.mark.parametrize(
    ("before", "now", "unit"),
    [
        ({"epochs": 2, "steps": None}, {"epochs": 3, "steps": None}, "epochs"),
        ({"epochs": None, "steps": 20}, {"epochs": None, "steps": 30}, "steps"),
        ({"epochs": 3, "steps": None}, {"epochs": 2, "steps": None}, None),
        ({"epochs": 2, "steps": None}, {"epochs": None, "steps": 99}, None),
        ({"epochs": 2, "steps": None}, {"epochs": 2, "steps": None}, None),
        ({}, {"epochs": 2, "steps": None}, None),
    ],
)
def test_a_training_is_longer_by_the_same_unit_only(before, now, unit):
    assert longer({"optim": before}, {"optim": now}) == unit


@pytest.fixture
def scored(monkeypatch):
    """Let evaluations, one after the other, return these scores."""

    def give(*scores):
        rest = iter(scores)
        monkeypatch.setattr(Classification, "evaluate", lambda *_: {"top1": next(rest)})

    return give


def test_a_training_ends_when_its_score_no_longer_improves(small, scored, tmp_path):
    scored(10.0, 30.0, 20.0, 30.0, 25.0)  # of four epochs; the last one is that of the moving average
    seen = events_of(small(9, patience=2), Notice, EvalDone)
    assert [event.step for event in seen if isinstance(event, EvalDone)] == [8, 16, 24, 32]
    line = "stopped after step 32: top1 has not improved for 2 epochs, since step 16; best.safetensors has"
    assert seen[-1].message.startswith(line)
    assert seen[-2].scores == {"top1": 30.0, "ema_top1": 25.0}
    run = tmp_path / "run"
    assert load_model(run / "best.safetensors")[1].metadata["step"] == 16
    for name in ("model", "model_ema"):
        assert load_model(run / f"{name}.safetensors")[1].metadata["step"] == 32
    scored()
    assert [type(event) for event in events_of(small(9, patience=2, resume=True), EvalDone, Notice)] == [Notice]
    scored(40.0, 10.0, 10.0, 10.0, 10.0)
    later = events_of(small(9, patience=3, resume=True), EvalDone)
    assert [event.step for event in later] == [40, 48, 56, 64]


@pytest.mark.full  # by default a training is extended, and one ended by patience
def test_patience_counts_from_where_a_training_was_extended(small, scored):
    scored(30.0, 20.0, 20.0, 10.0)
    train(small(3, patience=2))
    scored(20.0, 10.0)
    seen = events_of(small(9, patience=2, max_steps=32, resume=True), EvalDone)
    assert [event.step for event in seen] == [32]
    scored(20.0, 10.0)
    seen = events_of(small(9, patience=2, resume=True), EvalDone)
    assert [event.step for event in seen] == [40]


def test_patience_that_ends_a_training_at_once_evaluates_the_moving_average(small, scored):
    def kill(event):
        if event == StepDone(step=21):
            raise RuntimeError("killed")

    scored(30.0, 20.0)
    with pytest.raises(RuntimeError, match="killed"):
        train(small(9, save_interval=4), kill)
    scored(20.0, 10.0)
    (seen,) = events_of(small(9, patience=1, resume=True), EvalDone)
    assert (seen.step, seen.scores) == (20, {"top1": 20.0, "ema_top1": 10.0})


@pytest.mark.full  # by default a training is extended, and one ended by patience
def test_patience_counts_evaluations_and_not_the_steps_in_between(small, scored):
    scored(10.0, 5.0, 4.0, 3.0)
    seen = events_of(small(6, patience=1, val_interval=2), EvalDone)
    assert [event.step for event in seen] == [16, 32]
    with pytest.raises(ValueError, match="got patience=0; expected at least 1"):
        small(6, patience=0)
