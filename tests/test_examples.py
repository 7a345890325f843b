"""Every example runs as a reader would run it, in a folder of its own, without a network."""

from pathlib import Path

import pytest

from marks import by_default

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))

#: Examples that run by default; the tests of exports hold what the other one shows.
SHORT = [path for path in EXAMPLES if path.stem != "export_onnx"]


@pytest.mark.parametrize("path", by_default(SHORT, EXAMPLES), ids=lambda path: path.stem)
def test_each_example_runs_and_prints_what_it_found(run_command, path, tmp_path):
    run = run_command(tmp_path, [], script=path)
    assert run.code == 0, run.errors
    assert run.output.strip()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_each_example_fits_on_one_screen(path):
    assert len(path.read_text().splitlines()) <= 40
