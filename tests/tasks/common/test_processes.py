"""Whole trainings in processes of their own: killed and resumed, or shared by several (the scripts are longer)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ropevit.tasks.common.config import RunConfig
from ropevit.tasks.common.processes import make_accelerator

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


def run(script, *arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, BENCHMARKS / script, *arguments], capture_output=True, text=True, env=environment, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_a_training_that_is_killed_again_and_again_ends_as_one_that_is_not():
    output = run("kill_and_resume.py", "--kills", "4", "--epochs", "3")
    assert "after each of 4 kills" in output
    assert "the same: losses of 60 steps, 3 evaluations, three files of weights, bit for bit" in output


def test_several_processes_train_as_one_does_also_sharing_weights_and_resuming_with_another_number():
    differences = json.loads(run("many_processes.py", "--steps", "4", "--short"))
    assert list(differences) == ["two processes, then one", "weights shared out, stopped and resumed"]
    assert max(differences.values()) < 1e-5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"device": "cpu", "precision": "float16"}, "got precision='float16' on a CPU"),
        ({"device": "cpu", "shard": True}, "got shard=True with one process"),
    ],
)
def test_what_cannot_be_computed_here_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        make_accelerator(RunConfig(**fields))
