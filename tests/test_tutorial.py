"""The tutorial: its notebook is made of its page, and every command on it runs."""

import json
import os
import re
import runpy
import shlex
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "tutorial.md").read_text()

#: What the commands have written when all have run.
MADE = (
    "images.png",
    "runs/study/report.html",
    "runs/small/train_batches.png",
    "runs/mine/best.safetensors",
    "runs/scores/curve.png",
    "runs/scores/confusion.png",
    "runs/scores/worst.png",
    "runs/runs.png",
    "predictions/predictions.csv",
    "mine.onnx",
)


def test_the_notebook_is_made_of_the_page():
    made = runpy.run_path(str(DOCS / "tutorial_notebook.py"))["notebook"](PAGE)
    assert made == (DOCS / "tutorial.ipynb").read_text(), "run python docs/tutorial_notebook.py"
    cells = json.loads(made)["cells"]
    assert [cell["source"][0] for cell in cells if cell["cell_type"] == "code"][:2] == [
        "from pathlib import Path\n",
        "!ropevit data check my_images\n",
    ]
    assert all(line.startswith("!ropevit ") for cell in cells for line in cell["source"] if line.startswith("!r"))


@pytest.mark.full  # the commands are tested one by one in tests/cli
@pytest.mark.timeout(1800)  # minutes on a busy machine
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the commands are copies of a process")
def test_every_command_of_the_tutorial_runs(run_command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```(python)?\n(.*?)^```\n", PAGE, re.M | re.S)
    (code,) = (text for language, text in blocks if language)
    exec(compile(code, "tutorial", "exec"), {})
    commands = [line for language, text in blocks if not language for line in text.splitlines()]
    assert len(commands) == 9
    for command in commands:
        program, *words = shlex.split(command)
        result = run_command(tmp_path, words)
        assert (program, result.code) == ("ropevit", 0), f"{command}\n{result.printed[-2000:]}"
        assert "Traceback" not in result.printed
    assert [name for name in MADE if not (tmp_path / name).stat().st_size] == []
