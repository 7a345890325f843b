import json
import subprocess
import sys
from dataclasses import fields, replace
from unittest.mock import patch

import pytest
from PIL import Image
from safetensors import safe_open

from ropevit.cli import main
from ropevit.tasks import TASKS, Metric, PredictOption, TaskSpec, register_task
from ropevit.tasks.compare import read_evaluations
from ropevit.tasks.evaluation.results import read_rows
from ropevit.tasks.registry import task_of_format, task_of_recipe
from ropevit.tasks.runs.run_summary import find_runs
from ropevit.tasks.training.metrics_log import read_metrics
from tasks import toy as module


@pytest.mark.parametrize("name", TASKS)
def test_every_part_of_a_task_can_be_imported(name):
    task = TASKS[name]
    parts = [each.name for each in fields(task) if ":" in str(getattr(task, each.name))]
    assert {"recipes", "config", "train"} <= {*parts}
    assert all(task.get(part) is not None for part in parts if part not in ("metric", "eval_refused"))
    assert all(task_of_recipe(recipe) is task for recipe in task.get("recipes"))
    assert all(task_of_format(form) is task for form in task.formats)


def test_the_registry_loads_no_task():
    code = "import sys, ropevit.tasks; print([m for m in ('torch', 'ropevit.tasks.training') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_what_a_task_does_not_do_is_refused():
    task = TaskSpec(noun="counter", metric=Metric("error"), recipes={}, config=dict, train=dict)
    with pytest.raises(ValueError, match="a counter has no step spec"):
        task.get("step_spec")


@pytest.mark.parametrize(("name", "forms"), [("detect", ()), ("to/y", ()), ("toy", ("ropevit-detector",))])
def test_no_task_takes_the_name_or_the_files_of_another(name, forms):
    with pytest.raises(ValueError, match=r"expected an identifier other|which another task has"):
        register_task(name, replace(TASKS["detect"], formats=forms))


def test_a_metric_knows_which_score_is_better():
    accuracy, error = Metric("top1"), Metric("rmse", higher_is_better=False, unit="m")
    assert (accuracy.is_better(2, 1), error.is_better(2, 1), error.is_better(2, None)) == (True, False, True)
    assert accuracy.to_dict() == {"metric": "top1"}  # as runs have it that were started before
    assert Metric.from_dict(error.to_dict()) == error


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """A task of another module, registered for one test."""
    monkeypatch.chdir(tmp_path)
    module.register()
    yield
    del TASKS["toy"]


@pytest.mark.usefixtures("toy")
def test_a_task_from_outside_is_trained_kept_and_evaluated_by_its_error(tmp_path, capsys):
    main(["train", "--list"])
    assert "toy/line" in capsys.readouterr().out
    main(["train", "toy/line", "--run.out", "run"])
    lines = [line for line in read_metrics(tmp_path / "run") if "rmse" in line]
    assert lines[1]["rmse"] < lines[0]["rmse"]  # so that the best ones are the last ones, by the direction of the score
    best = [json.loads(safe_open(f"run/{name}.safetensors", "pt").metadata()["metadata"]) for name in ("best", "model")]
    assert best[0] == best[1]
    main(["eval", "--checkpoint", "run", "--data", "noise", "--device", "cpu", "--shift", "1"])
    rows = read_rows(tmp_path / "runs/eval/run", module.ToyResult)
    assert [row.size for row in rows] == [8, 16]
    assert rows[0].rmse == pytest.approx(1 + lines[1]["rmse"])
    assert not (tmp_path / "runs/eval/run/per_class.csv").exists()
    trained_only = replace(TASKS["toy"], evaluate=None, result=None, formats=())
    with patch.dict(TASKS, {"trained_only": trained_only, **TASKS}, clear=True):  # the same metric, and in front
        assert read_evaluations([tmp_path / "runs/eval/run"]).unit == ""
    run = find_runs([tmp_path / "run"])[0]
    assert (run.metric, run.best) == (module.Toy.metric, lines[1]["rmse"])


@pytest.mark.usefixtures("toy")
def test_a_task_from_outside_predicts_with_an_option_of_its_own(tmp_path, capsys):
    main(["train", "toy/line", "--run.out", "run"])
    Image.new("L", (4, 4), 50).save(tmp_path / "gray.png")
    words = ["predict", "gray.png", "--checkpoint", "run", "--device", "cpu"]
    main([*words, "--shift", "7"])
    assert "gray.png: brightness 57" in capsys.readouterr().out
    for given, said in (("--shift=-1", "got shift=-1.0; expected at least 0"), ("--topk=3", "got --topk with a toy")):
        with pytest.raises(SystemExit):
            main([*words, "--out", "other", given])
        assert said in capsys.readouterr().err
    with pytest.raises(ValueError, match="got the predict option 'topk', which another task has with another type"):
        register_task("other", replace(TASKS["toy"], formats=(), predict_options={"topk": PredictOption(float, "")}))


@pytest.mark.usefixtures("toy")
def test_commands_refuse_what_a_task_from_outside_does_not_have(capsys):
    main(["train", "toy/line", "--run.out", "run"])
    for words, said in (
        (["train", "toy/line", "--estimate"], "a toy has no step spec"),
        (["eval", "--checkpoint", "run", "--data", "noise", "--flip"], "got --flip, for segmenters only, with a toy"),
    ):
        with pytest.raises(SystemExit):
            main(words)
        assert said in capsys.readouterr().err
