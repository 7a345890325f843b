"""Training classifiers with random image sizes, one drawn for each step."""

import json
import os
import signal
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from ropevit.cli import main
from ropevit.models import ViT
from ropevit.tasks.classify import train as module
from ropevit.tasks.classify.estimate import step_spec
from ropevit.tasks.classify.train import Classification, train
from ropevit.tasks.distributed import Communicator, Interrupted, make_accelerator, shutdown
from ropevit.tasks.training.events import LogLine, StepDone
from ropevit.tasks.training.metrics_log import read_metrics
from ropevit.tasks.training.steps import draw_size
from ropevit.weights import load_model

SIZES = (20, 28, 36)


@pytest.fixture
def seen():
    """Collect the sizes of images that models in training see, and of those in evaluation."""
    found = {True: [], False: []}

    def note(model, images):
        if isinstance(model, ViT):
            found[model.training].append(tuple(images[0].shape[2:]))

    handle = register_module_forward_pre_hook(note)
    yield found
    handle.remove()


def stop_after(step):
    def watch(event):
        if isinstance(event, StepDone) and event.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return watch


def test_each_step_sees_one_of_the_sizes_and_the_evaluation_that_of_the_model(small, seen, tmp_path):
    config, lines = replace(small(1), train_sizes=SIZES), []
    train(config, lambda event: lines.append(event) if isinstance(event, LogLine) else None)
    wanted = [draw_size(SIZES, "train sizes", config.run.seed, step) for step in range(8)]
    assert len(set(wanted)) > 1
    assert seen[True] == [(size, size) for size in wanted]
    assert set(seen[False]) == {(28, 28)}
    assert load_model(tmp_path / "run" / "model.safetensors")[0].config.img_size == (28, 28)
    assert all(line.images_per_second > 0 for line in lines)


@pytest.mark.parametrize("position", ["ape", "rope_axial_ape"])
def test_absolute_embeddings_are_resized_to_each_step(small, seen, position):
    config = small(max_steps=3)
    train(replace(config, train_sizes=(20, 36), model=replace(config.model, position=position)))
    assert set(seen[True]) <= {(20, 20), (36, 36)}


def test_an_interrupted_training_draws_the_same_sizes_again_bit_for_bit(small, seen, tmp_path):
    config = replace(small(1, out=tmp_path / "whole"), train_sizes=SIZES)
    train(config)
    whole = list(seen[True])
    seen[True].clear()
    with pytest.raises(Interrupted):
        train(config.with_run(out=tmp_path / "run"), stop_after(3))
    train(config.with_run(out=tmp_path / "run", resume=True))
    assert seen[True] == whole
    losses = [[line["loss"] for line in read_metrics(tmp_path / name) if "loss" in line] for name in ("whole", "run")]
    assert losses[0] == losses[1]
    weights = [safetensors.torch.load_file(tmp_path / name / "model.safetensors") for name in ("whole", "run")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.fixture
def task(small):
    config = replace(small(), train_sizes=SIZES)
    source = module.open_source("fashion", "train")
    yield Classification(config, source, source, make_accelerator(config.run), Communicator())
    shutdown()


def test_every_process_and_micro_batch_of_a_step_draws_the_same_size(task):
    images = torch.randint(0, 256, (2, 3, 36, 36), dtype=torch.uint8)
    drawn = []
    for seed in (0, 1):  # generators that differ, as those of two processes do
        torch.manual_seed(seed)
        drawn.append([task.resize(images[: seed + 1], step).shape[-1] for step in range(30)])
    assert drawn[0] == drawn[1]
    assert set(drawn[0]) == set(SIZES)


def test_images_are_read_at_the_largest_size_and_reduced_without_aliasing(task):
    (batch,) = task.batches(0, 1)
    assert batch.images.shape[2:] == (36, 36)
    board = 255 * ((torch.arange(36)[:, None] + torch.arange(36)) % 2).to(torch.uint8).expand(1, 3, 36, 36)
    step = next(step for step in range(99) if draw_size(SIZES, "train sizes", 0, step) == 20)
    reduced = task.resize(board, step)[..., 4:-4, 4:-4]
    assert reduced.std() < 20, "a chequerboard, which has a standard deviation of 128, turns gray"


def test_an_estimate_is_of_the_largest_size(small):
    assert step_spec(replace(small(), train_sizes=SIZES)).size == (36, 36)


def test_a_training_is_not_resumed_with_other_sizes_but_one_of_an_older_version_is(small, tmp_path):
    train(small(max_steps=1))
    file = tmp_path / "run/config.json"
    settings = json.loads(file.read_text())
    del settings["train_sizes"]
    file.write_text(json.dumps(settings))
    train(small(max_steps=2, resume=True))
    with pytest.raises(ValueError, match=r"train_sizes was None, now \[20, 28, 36\]"):
        train(replace(small(max_steps=3, resume=True), train_sizes=SIZES))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["fashion", "--train-sizes", "20", "30"],
            "got train size 30; patches of 4 pixels do not tile it: take 28 or 32",
        ),
        (["fashion", "--train-sizes", "28", "20"], "got train sizes (28, 20); expected each once, from small to large"),
        (["fashion", "--train-sizes", "28"], "for one size, give --size 28"),
        (["detect/dino_vitdet_base", "--train-sizes", "20", "28"], "--train-sizes"),
        (["segment/upernet_vit_base", "--train-sizes", "20", "28"], "--train-sizes"),
    ],
)
def test_sizes_that_make_no_sense_are_one_line(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["train", *words])
    assert stop.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())
