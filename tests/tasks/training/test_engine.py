import json
import os
import resource
import shutil
import signal
import sys

import pytest
import safetensors.torch
import torch

from ropevit.locks import lock_folder
from ropevit.models.vit import ViT
from ropevit.tasks.classify.train import train
from ropevit.tasks.distributed import Interrupted
from ropevit.tasks.training import engine
from ropevit.tasks.training.checkpoints import CheckpointError, list_checkpoints
from ropevit.tasks.training.events import EvalDone, EvalProgress, Notice, StepDone, TrainStarted
from ropevit.tasks.training.metrics_log import read_metrics
from ropevit.tasks.training.steps import DivergedError
from ropevit.weights import load_model

TIMING = ("images_per_second", "data_wait", "memory_gib")


def log(folder):
    return [{key: value for key, value in line.items() if key not in TIMING} for line in read_metrics(folder)]


def at(step, action):
    """Return a reporter that acts after a step."""

    def report(event):
        if isinstance(event, StepDone) and event.step == step:
            action()

    return report


def interrupt(number):
    return lambda: os.kill(os.getpid(), number)


def same_files(folder, other):
    for name in ("model.safetensors", "model_ema.safetensors", "best.safetensors"):
        weights = [safetensors.torch.load_file(where / name) for where in (folder, other)]
        assert weights[0].keys() == weights[1].keys()
        assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_training_writes_log_weights_and_config(unbroken, small):
    lines = log(unbroken)
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 17))
    assert [line["step"] for line in lines if "top1" in line] == [8, 16]
    model, info = load_model(unbroken / "model.safetensors")
    assert len(info.classes) == 10
    assert info.metadata["recipe"] == "fashion"
    assert info.metadata["step"] == 16
    assert model.config == small().model.build(10)
    assert json.loads((unbroken / "config.json").read_text())["optim"]["optimizer"] == "lamb"
    assert [path.name for path in list_checkpoints(unbroken / "checkpoints")] == [
        "step-00000008.pt",
        "step-00000016.pt",
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_training_interrupted_by_a_signal_resumes_exactly(unbroken, small, tmp_path, number):
    with pytest.raises(Interrupted, match=r"stopped after step 11, as asked by SIG.*step-00000011.pt"):
        train(small(2), at(11, interrupt(number)))
    started = []
    train(small(2, resume=True), lambda event: started.append(event) if isinstance(event, TrainStarted) else None)
    assert started[0].first == 11
    assert log(tmp_path / "run") == log(unbroken)
    same_files(tmp_path / "run", unbroken)


@pytest.mark.parametrize("moment", [EvalProgress, EvalDone])
def test_training_killed_during_an_evaluation_resumes_with_it(unbroken, small, tmp_path, moment):
    def die(event):
        if isinstance(event, moment):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(small(2), die)
    started = []
    train(small(2, resume=True), lambda event: started.append(event) if isinstance(event, TrainStarted) else None)
    assert started[0].first == 8
    assert log(tmp_path / "run") == log(unbroken)
    same_files(tmp_path / "run", unbroken)


def test_signal_before_an_evaluation_ends_the_training_without_it(unbroken, small, tmp_path):
    with pytest.raises(Interrupted, match=r"stopped after step 8, as asked by SIGTERM"):
        train(small(2), at(8, interrupt(signal.SIGTERM)))
    assert not any("top1" in line for line in log(tmp_path / "run"))
    train(small(2, resume=True))
    assert log(tmp_path / "run") == log(unbroken)


def test_training_killed_while_writing_its_config_restarts_and_removes_partial_files(small, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".config.json.1.part").write_text("{")
    train(small(1, resume=True, max_steps=1))
    (folder / ".best.safetensors.1.part").write_bytes(b"half")
    train(small(1, resume=True, max_steps=2))
    assert not list(folder.rglob("*.part"))


def test_training_stopped_by_max_steps_resumes_with_the_same_schedule(unbroken, small, tmp_path):
    train(small(2, max_steps=5))
    assert not (tmp_path / "run" / "model.safetensors").exists()
    train(small(2, resume=True))
    trial = [line for line in log(tmp_path / "run") if "loss" in line]
    assert trial == [line for line in log(unbroken) if "loss" in line]


def test_gradient_accumulation_changes_losses_by_rounding_only(small, tmp_path):
    config = small(2, grad_accum_steps=2, out=tmp_path / "parts")
    without = [small(2, out=tmp_path / "whole"), config]
    for each in without:
        object.__setattr__(each.model, "drop_path", 0.0)  # what is dropped and erased is drawn part by part
        object.__setattr__(each.augment, "random_erasing", 0.0)
        train(each)
    parts, whole = ([line["loss"] for line in log(tmp_path / name) if "loss" in line] for name in ("parts", "whole"))
    torch.testing.assert_close(torch.tensor(parts), torch.tensor(whole), rtol=1e-5, atol=0)


def test_resume_falls_back_to_the_previous_checkpoint_if_the_newest_is_damaged(unbroken, small, tmp_path):
    with pytest.raises(Interrupted):
        train(small(2, save_interval=3), at(14, interrupt(signal.SIGTERM)))
    newest = list_checkpoints(tmp_path / "run" / "checkpoints")[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1  # one bit
    newest.write_bytes(content)
    said = []
    train(small(2, resume=True), lambda event: said.append(event) if isinstance(event, Notice | TrainStarted) else None)
    assert "step-00000014.pt is damaged" in said[0].message
    assert said[1].first == 12
    assert log(tmp_path / "run") == log(unbroken)


def test_training_with_only_damaged_checkpoints_does_not_silently_restart(small, tmp_path):
    train(small(1, max_steps=2))
    for path in list_checkpoints(tmp_path / "run" / "checkpoints"):
        path.write_bytes(path.read_bytes()[:1000])
    for _ in range(2):  # a cluster runs the same command again
        with pytest.raises(
            CheckpointError, match=r"damaged.*step-00000002.*there is no other checkpoint, so start again"
        ):
            train(small(1, resume=True))


def test_full_disk_is_reported_and_the_directory_stays_valid(unbroken, small, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # Python itself would leave half a file
    train(small(2, max_steps=4))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # files may not grow beyond 20 kB
    try:
        with pytest.raises(CheckpointError, match=r"cannot save step 8.*step-00000004.pt is intact.*free space"):
            train(small(2, resume=True))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))
    train(small(2, resume=True))
    assert [line for line in log(tmp_path / "run") if "loss" in line] == [
        line for line in log(unbroken) if "loss" in line
    ]


def test_nonfinite_loss_ends_the_training_and_names_the_step(small, monkeypatch, tmp_path):
    original = engine.take_step

    def poisoned(state, job, batches):
        loss = original(state, job, batches)
        return loss * float("nan") if state.step == 11 else loss

    monkeypatch.setattr(engine, "take_step", poisoned)
    with pytest.raises(
        DivergedError, match=r"loss is nan at step 11 with lr .*newest checkpoint is .*step-00000008.pt"
    ):
        train(small(2, log_interval=4))
    assert [path.name for path in list_checkpoints(tmp_path / "run" / "checkpoints")] == ["step-00000008.pt"]


def test_tenfold_loss_ends_the_training(small):
    with pytest.raises(DivergedError, match=r"the loss has grown to .* at step \d+ with lr"):
        train(small(2, optim={"lr": 3e3, "optimizer": "adamw"}))


def test_only_the_newest_checkpoints_are_kept(small, tmp_path):
    train(small(1, save_interval=1, keep_checkpoints=3))
    assert [path.name for path in list_checkpoints(tmp_path / "run" / "checkpoints")] == [
        f"step-{step:08d}.pt" for step in (6, 7, 8)
    ]


@pytest.mark.full  # test_recipes_start.py trains with the first two by default
@pytest.mark.usefixtures("unchecked")
def test_training_works_with_bfloat16_checkpointing_and_compiling(small, tmp_path, monkeypatch):
    compiled = []

    def compile_quickly(model):
        compiled.append(type(model))
        model._compiled_call_impl = torch.compile(model._call_impl, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", compile_quickly)
    scores = train(small(1, precision="bfloat16", grad_checkpointing=True, compile=True, max_steps=3))
    assert scores.keys() == {"top1", "top5", "ema_top1", "ema_top5"}
    assert compiled == [ViT]
    losses = [line["loss"] for line in log(tmp_path / "run") if "loss" in line]
    train(small(1, max_steps=3, out=tmp_path / "plain"))
    plain = [line["loss"] for line in log(tmp_path / "plain") if "loss" in line]
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(plain), rtol=2e-2, atol=0)
    assert losses != plain


def test_best_weights_have_the_best_score(small, tmp_path):
    scores = []
    train(
        small(3), lambda event: scores.append((event.scores["top1"], event.step)) if isinstance(event, EvalDone) else 0
    )
    best = max(scores, key=lambda pair: (pair[0], -pair[1]))
    _, info = load_model(tmp_path / "run" / "best.safetensors")
    assert (info.metadata["scores"]["top1"], info.metadata["step"]) == best


def test_resuming_a_finished_training_changes_nothing(unbroken, small, tmp_path):
    shutil.copytree(unbroken, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.pt")}
    scores = train(small(2, resume=True))
    assert scores["top1"] == log(unbroken)[-1]["top1"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.pt")} == before


def test_refused_training_writes_nothing(small, tmp_path):
    with pytest.raises(ValueError, match=r"got a learning rate factor for 'backbone\.'"):
        train(small(1, optim={"backbone_lr_scale": 0.5}, out=tmp_path / "runs" / "new"))
    assert list(tmp_path.iterdir()) == []


def test_corrected_command_works_after_a_crash_before_the_first_step(small, tmp_path, monkeypatch):
    def crash(*_):
        raise TypeError("cannot pickle 'module' object")

    monkeypatch.setattr(engine, "take_step", crash)
    with pytest.raises(TypeError):
        train(small(1))
    monkeypatch.undo()
    train(small(1, {"lr": 1e-4}, max_steps=1))
    assert [line["step"] for line in log(tmp_path / "run")][:1] == [1]


@pytest.mark.parametrize("resume", [False, True])
def test_second_training_in_a_directory_is_refused(resume, small, tmp_path):
    with lock_folder(tmp_path / "run"), pytest.raises(ValueError, match=r"another process is writing to .*run; wait"):
        train(small(1, resume=resume))
    assert not (tmp_path / "run").exists()


def test_shortened_warm_up_is_reported_and_resumes_exactly(small, tmp_path):
    said = []
    options = {"warmup_epochs": 5}
    train(small(1, options, max_steps=4), lambda event: said.append(event) if isinstance(event, Notice) else None)
    assert [event.message for event in said] == ["the warm-up of 40 steps was cut to 4, half of the training"]
    train(small(1, options, resume=True))
    rates = [line["lr"] for line in log(tmp_path / "run") if "lr" in line]
    assert rates[:4] == sorted(rates[:4])
    assert rates[3:] == sorted(rates[3:], reverse=True)
