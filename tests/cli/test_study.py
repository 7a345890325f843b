import io
import json
import re
import shutil
import sys

import pytest

from ropevit.cli import main
from ropevit.cli.console import Console
from ropevit.cli.study import score_table
from ropevit.cli.study_progress import ProgressLines
from ropevit.rope.types import DISTANCE_BIAS_TYPES, ROPE_TYPES
from ropevit.study.events import Run, RunFailed, RunStarted, TrainProgress
from ropevit.study.results import EmbeddingScores, PanelResult, panel_results


@pytest.mark.usefixtures("rendered")
def test_a_study_of_a_folder_prints_a_conclusion_and_writes_all_files(finished, tiny, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    results = json.loads((out / "results.json").read_text())
    results["environment"]["device"] = "another machine"
    (out / "results.json").write_text(json.dumps(results))
    main([*tiny, "--out", str(out), "--resume"])
    printed = capsys.readouterr().out
    assert "field (larger field of view): mean IoU (%), 1 seed" in printed
    assert "zoom (higher resolution): top-1 accuracy (%), 1 seed" in printed
    assert "zoom: at the training size" in printed
    assert "did not learn: not counted" in " ".join(printed.split())  # after three steps
    assert f"report: {out / 'report.html'}" in printed.replace("\n", "")
    assert printed.count("(reused)") == 6
    assert "skipped red/broken.png" in printed
    assert "with 6 test images one image is 16.7 points" in printed
    assert {"config.json", "results.json", "curves.png", "curves.svg", "report.html", "runs"} <= {
        path.name for path in finished.iterdir()
    }
    results = json.loads((out / "results.json").read_text())
    assert results["environment"]["device"] == "another machine"  # which trained
    assert results["complete"]
    assert {run["panel"] for run in results["runs"]} == {"field", "zoom"}
    assert all(list(run["scores"]) == ["8", "16", "24"] for run in results["runs"])


def test_help_names_every_position_embedding_of_the_registries(capsys):
    with pytest.raises(SystemExit):
        main(["study", "--help"])
    words = set(re.findall(r"[\w:=]+", capsys.readouterr().out))
    alone = {name for name, kind in DISTANCE_BIAS_TYPES.items() if not kind.combines_with_rope}
    beside = {f"_{name}" for name, kind in DISTANCE_BIAS_TYPES.items() if kind.combines_with_rope}
    assert {"none", "ape", "_ape", *alone, *beside, *(f"rope_{name}" for name in ROPE_TYPES)} <= words
    assert words.isdisjoint({"rpb", "_rpb"}), "those are a Swin's"


def test_an_interrupted_study_keeps_finished_trainings_and_resumes(tiny, tmp_path, capsys, monkeypatch):
    from ropevit.study import runner
    from ropevit.study.events import RunDone

    def interrupted_run(plan, images, report, stopped):
        def stop_after_one(event):
            report(event)
            if isinstance(event, RunDone):
                stopped.set()

        whole(plan, images, stop_after_one, stopped)

    whole = runner.run_here
    few = [*tiny, "--panels", "zoom", "--embeddings", "none", "ape"]
    monkeypatch.setattr(runner, "run_here", interrupted_run)
    with pytest.raises(SystemExit) as stop:
        main([*few, "--out", str(tmp_path / "out")])
    assert stop.value.code == 130
    printed = capsys.readouterr().out
    assert "trainings are done; the same command with --resume continues" in " ".join(printed.split())
    first = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/runs").glob("*/result.json")}
    assert len(first) == 1
    monkeypatch.undo()
    main([*few, "--out", str(tmp_path / "out"), "--resume"])
    assert json.loads((tmp_path / "out/results.json").read_text())["complete"]
    assert all(path.stat().st_mtime_ns == time for path, time in first.items()), "nothing is trained twice"


def test_a_study_interrupted_while_loading_images_writes_nothing(tiny, tmp_path, capsys, monkeypatch):
    from ropevit.study import runner

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "load_folder", stop)
    with pytest.raises(SystemExit) as end:
        main([*tiny, "--out", str(tmp_path / "out")])
    assert end.value.code == 130
    assert "stopped before the first training finished" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "holds a study already; add --resume to go on with it, or give another --out"),
        (["--resume", "--steps", "4"], "holds a study with other options (settings, steps)"),
    ],
)
def test_a_finished_study_is_not_overwritten(finished, tiny, capsys, options, message):
    with pytest.raises(SystemExit) as stop:
        main([*tiny, "--out", str(finished), *options])
    assert stop.value.code == 2
    error = " ".join(capsys.readouterr().err.split())
    assert message in error
    assert error.startswith("error: ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "nowhere"], "nowhere"),
        (["--embeddings", "rope"], "got embedding rope; did you mean rope_axial, rope_mixed or rope_axial_ape?"),
        (["--train-size", "30"], "patches of"),
        (["--seeds", "0"], "got seeds=0; expected at least 1"),
        (["--heads", "5"], "multiple of the heads"),
        (["--device", "tpu"], "tpu"),
    ],
)
def test_wrong_options_are_one_line_and_exit_code_2(tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as stop:
        main(["study", "--out", str(tmp_path / "out"), *options])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_missing_data_folder_is_reported_before_an_existing_study(finished, capsys):
    with pytest.raises(SystemExit):
        main(["study", "--data", "nowhere", "--out", str(finished)])
    assert "found no folder nowhere" in capsys.readouterr().err


def test_an_error_is_the_only_output(run_command, tmp_path):
    run = run_command(tmp_path, ["study", "--data", "nowhere", "--out", "out"])
    assert (run.code, run.output) == (2, "")
    assert run.errors.startswith("error: found no folder nowhere")


@pytest.mark.parametrize("arguments", [["study", "--sede", "3"], ["stdy"]])
def test_unknown_options_and_verbs_exit_with_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().err


def test_a_missing_extra_is_an_error_before_training(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit) as stop:
        main(["study", "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert 'pip install ".[figures]"' in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_many_curves_are_table_rows_and_fit_into_80_columns():
    curves = tuple(
        EmbeddingScores(
            embedding="rope_mixed",
            sizes=(4, 8),
            scores=((10.0, 20.0 + n), (12.0, 20.0 + n)),
            parameters=7,
            step_ms=1.0,
            scaling=f"parts(slow=0.{n},fast=1)+log" if n > 1 else None,
        )
        for n in range(1, 7)
    )
    panel = PanelResult(panel="zoom", metric="top-1", train_size=4, seeds=(0, 1), curves=curves)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(score_table(panel))
    lines = console.export_text().splitlines()
    assert any("RoPE-Mixed, parts(slow=0.6,fast=1)+log" in line and "26.0±0.0" in line for line in lines)
    assert "…" not in "".join(lines)


def test_outside_a_terminal_progress_is_printed_as_lines():
    file = io.StringIO()
    lines, run = ProgressLines(Console(file=file, width=80)), Run(panel="zoom", embedding="ape", seed=0)
    lines.update(RunStarted(run=run, first=0, steps=1000))
    assert file.getvalue() == "zoom-ape-seed0: training, 1000 steps\n"
    for step in range(1, 1001):
        lines.update(TrainProgress(run=run, step=step, steps=1000, loss=0.5, lr=0.1, seconds=1.0))
    printed = file.getvalue().splitlines()
    assert printed[1:3] == [f"zoom-ape-seed0: step {step} of 1000, loss 0.500" for step in (100, 200)]
    assert len(printed) == 11
    lines.update(RunFailed(run=run, message="[red]no[/]"))
    assert file.getvalue().endswith("zoom-ape-seed0 failed: [red]no[/]\n")


def test_a_slow_training_prints_a_line_every_half_minute(monkeypatch):
    file, now = io.StringIO(), iter(range(0, 400, 20))
    monkeypatch.setattr("time.monotonic", lambda: float(next(now)))
    lines, run = ProgressLines(Console(file=file, width=80)), Run(panel="zoom", embedding="ape", seed=0)
    lines.update(RunStarted(run=run, first=3, steps=1000))
    for step in range(4, 8):
        lines.update(TrainProgress(run=run, step=step, steps=1000, loss=0.5, lr=0.1, seconds=1.0))
    steps = [line.split()[2] for line in file.getvalue().splitlines() if " step " in line and "loss" in line]
    assert steps == ["5", "7"]


def test_headings_of_a_table_fit_a_terminal_of_80_columns():
    """Two baselines beside three embeddings: no heading is cut off, and none is taken for an embedding."""
    scores = {"32": 40.0, "64": 35.0}
    runs = [
        {
            "panel": "field", "embedding": name, "seed": 0, "metric": "mean IoU (%)", "train_size": 32,
            "scores": scores, "baselines": {"tiles": {"64": 36.0}, "resize": {"64": 20.0}}, "parameters": 207_648,
            "step_ms": 1.0,
        }
        for name in ("ape", "rope_axial", "rope_mixed")
    ]  # fmt: skip
    levels = {"field": {"name": "everything background", "scores": {"32": 13, "64": 13}, "errors": {"32": 1, "64": 1}}}
    (result,) = panel_results(runs, levels)
    console = Console(width=80)
    with console.capture() as printed:
        console.print(score_table(result))
    text = printed.get()
    assert "…" not in text
    assert text.count("13.0") == 2  # the last column
    assert text.count("baseline") == 3  # two headings and the note
    assert "baselines: with the best at the training size, absolute (APE)" in text
