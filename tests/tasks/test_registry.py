import subprocess
import sys
from dataclasses import replace

import pytest

from ropevit.tasks import TASKS, Metric, TaskSpec, register_task
from ropevit.tasks.registry import task_of_format, task_of_recipe


@pytest.mark.parametrize("name", TASKS)
def test_every_part_of_a_task_can_be_imported(name):
    task = TASKS[name]
    for part in ("recipes", "config", "train", "evaluate", "result", "step_spec", "recipe_facts"):
        assert task.get(part)
    assert all(task_of_recipe(recipe) is task for recipe in task.get("recipes"))
    assert all(task_of_format(form) is task for form in task.formats)


def test_the_registry_loads_no_task():
    code = "import sys, ropevit.tasks; print([m for m in ('torch', 'ropevit.tasks.common') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_what_a_task_does_not_do_is_refused():
    task = TaskSpec(noun="counter", metric=Metric("error"), recipes={}, config=dict, train=dict)
    with pytest.raises(ValueError, match="a counter has no step spec"):
        task.get("step_spec")


@pytest.mark.parametrize(("name", "forms"), [("detect", ()), ("to/y", ()), ("toy", ("ropevit-detector",))])
def test_no_task_takes_the_name_or_the_files_of_another(name, forms):
    with pytest.raises(ValueError, match=r"expected a word other|which another task has"):
        register_task(name, replace(TASKS["detect"], formats=forms))


def test_a_metric_knows_which_score_is_better():
    accuracy, error = Metric("top1"), Metric("rmse", higher_is_better=False, unit="m")
    assert (accuracy.is_better(2, 1), error.is_better(2, 1), error.is_better(2, None)) == (True, False, True)
    assert accuracy.to_dict() == {"metric": "top1"}  # as runs have it that were started before
    assert Metric.from_dict(error.to_dict()) == error
