import importlib
import shlex
from dataclasses import replace

import pytest

from ropevit.cli import main
from ropevit.tasks import TASKS
from ropevit.tasks.classify.reproduce import Speed, list_targets


def commands(printed, start="ropevit "):
    return [shlex.split(line.removeprefix(start)) for line in printed.splitlines() if line.startswith(start)]


@pytest.fixture
def parse_commands(capsys, monkeypatch):
    """Return a function that runs commands without their work, and returns the configs of trainings and evaluations."""
    trained, evaluated = [], []
    task = replace(TASKS["classify"], train=lambda config, _: trained.append(config) or {})
    monkeypatch.setitem(TASKS, "classify", task)
    monkeypatch.setattr(
        importlib.import_module("ropevit.cli.eval"), "evaluate", lambda config, _: evaluated.append(config)
    )

    def parse(commands):
        for words in commands:
            main(words)
        capsys.readouterr()
        return trained, evaluated

    return parse


def test_the_commands_of_a_row_are_valid(capsys, parse_commands):
    main(["reproduce", "vit", "--only", "*mixed_deit_large*", "--data", "my data/imagenet", "--out", "somewhere else"])
    trained, evaluated = parse_commands(commands(capsys.readouterr().out))
    assert [(config.recipe, config.model.size) for config in trained] == [
        ("deit3_large", 192),
        ("deit3_large_finetune", 224),
    ]
    first, last = trained
    assert last.model.init == str(first.run.out / "model.safetensors")
    assert [config.checkpoint for config in evaluated] == [str(last.run.out)]
    assert {config.data for config in (*trained, *evaluated)} == {"my data/imagenet"}


@pytest.mark.full
def test_every_command_is_valid(capsys, parse_commands):
    main(["reproduce", "all", "--data", "my data/imagenet", "--out", "somewhere else"])
    found = commands(capsys.readouterr().out)
    targets = list_targets("all")
    assert len(found) == 24 + 24 + 10  # the last training and the evaluation of each row, and ten pre-trainings
    trained, evaluated = parse_commands(found)
    stages = [stage.config for target in targets for stage in target.stages]
    for config, stage in zip(trained, stages, strict=True):
        assert (config.data, config.run.out.parts[0]) == ("my data/imagenet", "somewhere else")
        assert (config.recipe, config.model.name, config.optim) == (stage.recipe, stage.model.name, stage.optim)
    places = [str(config.run.out) for config in trained]
    assert len(set(places)) == 34
    inits = [config.model.init for config in trained if config.model.init]
    assert len(inits) == 10
    assert {init.removesuffix("/model.safetensors") for init in inits} <= set(places)
    assert [config.checkpoint for config in evaluated] == [
        str(config.run.out) for config in trained if config.model.size == 224
    ]
    assert {(config.data, config.weights, config.sizes) for config in evaluated} == {("my data/imagenet", "last", ())}
    assert len({config.out for config in evaluated}) == 24


def test_commands_for_several_gpus_use_torchrun(capsys):
    main(["reproduce", "swin", "--only", "*mixed_tiny*", "--gpus", "8"])
    printed = capsys.readouterr().out
    found = commands(printed, "torchrun --nproc-per-node 8 -m ropevit ")
    assert [words[0] for words in found] == ["train", "eval"]
    assert "not measured" in printed
    assert "160: 78.4±0.05, 192: 80.2±0.05, 224: 81.4, 256: 81.7±0.05" in printed


def test_hours_are_computed_from_the_given_throughput(capsys):
    main(["reproduce", "swin", "--only", "*mixed_tiny*", "--throughput", "2500", "--gpus", "8"])
    printed = capsys.readouterr().out
    assert f"{8 * 300 * 1281167 / 2500 / 3600:,.0f}" in printed
    assert "at 2500 images/s, as given" in printed
    assert "not measured" not in printed


def test_measured_throughput_names_the_device(capsys, monkeypatch):
    timed = []

    def time_training(config, device, device_name):
        timed.append((config.recipe, config.model.position, device.type))
        return Speed(images_per_second=1.0, source=f"on {device_name}")

    monkeypatch.setattr(importlib.import_module("ropevit.cli.reproduce"), "time_training", time_training)
    main(["reproduce", "vit", "--only", "deit_base*", "--measure", "--device", "cpu"])
    assert timed == [("deit3_base", "ape", "cpu"), ("deit3_base_finetune", "ape", "cpu")]
    printed = capsys.readouterr().out
    assert "deit3_base ape: 1 images/s (on a CPU (" in printed
    assert f"{420 * 1281167 / 3600:,.0f}" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vit", "--only", "swin*"], "no row of vit matches 'swin*'"),
        (["vit", "--throughput", "2500"], "name the recipe, such as deit3_small=2500"),
        (["vit", "--throughput", "2500", "--measure"], "got several of --throughput, --runs and --measure"),
        (["vit", "--gpus", "0"], "got gpus=0"),
        (["vit", "--runs", "nowhere"], "found no training in nowhere"),
    ],
)
def test_wrong_input_is_one_line(capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        main(["reproduce", *arguments])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
