"""Every example runs as a reader would run it, in a folder of its own, without a network."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from marks import by_default

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


#: Examples that run by default: what the others call is called by the tests of integrations, too.
SHORT = [path for path in EXAMPLES if path.stem in ("packed_projection", "score_map")]


@pytest.mark.parametrize("path", by_default(SHORT, EXAMPLES), ids=lambda path: path.stem)
def test_each_example_runs_and_prints_what_it_found(path, tmp_path):
    source = str(path.parents[1] / "src")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore::DeprecationWarning", str(path)]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_each_example_fits_on_one_screen(path):
    assert len(path.read_text().splitlines()) <= 40
