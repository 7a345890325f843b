import json
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from embedded import few
from ropevit.study.config import StudyConfig
from ropevit.study.events import LoadingImages, RunDone, RunFailed, RunStarted, TrainProgress
from ropevit.study.runner import run_study

OPTIONS = {
    "panels": ("zoom",), "embeddings": ("none", "ape"), "steps": 3, "batch_size": 4, "width": 16, "depth": 1,
    "heads": 2, "test_sizes": (20, 28), "device": "cpu", "precision": "float32", "workers": 1,
}  # fmt: skip


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    """Take a part of the embedded images, so that nothing takes long."""
    monkeypatch.setattr("ropevit.study.runner.load_fashion", few)


def config(folder, **changes):
    return StudyConfig(**OPTIONS | {"out": folder / "study"} | changes)


def scores(results):
    return {(run["embedding"], run["seed"]): run["scores"] for run in results["runs"]}


def test_a_study_leaves_one_file_with_every_result(tmp_path):
    events = []
    results = run_study(config(tmp_path), events.append)
    assert results == json.loads((tmp_path / "study/results.json").read_text())
    assert results["complete"]
    assert results["failed"] == results["skipped_files"] == []
    assert [run["embedding"] for run in results["runs"]] == ["none", "ape"]
    assert results["config"] == json.loads((tmp_path / "study/config.json").read_text())
    assert results["environment"]["workers"] == 1
    assert (results["data"]["name"], results["data"]["train_images"]) == ("fashion", 40)
    assert sum(isinstance(event, RunDone) for event in events) == 2


@pytest.mark.full  # two processes import everything anew
def test_workers_give_the_same_results_and_events_as_one_process(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker: the order of a sum depends on it
    try:
        alone = run_study(config(tmp_path / "alone"), lambda _: None)
    finally:
        torch.set_num_threads(threads)
    events = []
    shared = run_study(config(tmp_path / "shared", workers=2), events.append)
    assert shared["environment"]["workers"] == 2
    assert shared["complete"]
    assert not shared["failed"]
    assert not any(isinstance(event, RunFailed) for event in events)
    if shared["environment"]["threads"] == 1:
        assert scores(shared) == scores(alone)
    for kind in (RunStarted, RunDone):
        assert {event.run.embedding for event in events if isinstance(event, kind)} == {"none", "ape"}
    assert [event.step for event in events if isinstance(event, TrainProgress)][-1] == 3


def test_a_directory_in_use_is_left_alone(tmp_path):
    run_study(config(tmp_path, embeddings=("none",)), lambda _: None)
    with pytest.raises(ValueError, match="holds a study already; add --resume"):
        run_study(config(tmp_path, embeddings=("none",)), lambda _: None)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep")
    with pytest.raises(ValueError, match="holds other files and no study"):
        run_study(config(tmp_path, out=tmp_path / "mine", resume=True), lambda _: None)
    with pytest.raises(ValueError, match="which is a file"):
        run_study(config(tmp_path, out=tmp_path / "mine/notes.txt"), lambda _: None)


def test_images_that_cannot_be_used_leave_no_directory_behind(tmp_path):
    with pytest.raises(ValueError, match="found no folder"):
        run_study(config(tmp_path, data=str(tmp_path / "nowhere"), test_sizes=(56, 64)), lambda _: None)
    assert not (tmp_path / "study").exists()


def test_a_study_goes_on_with_more_seeds_and_keeps_what_is_done(tmp_path):
    first = run_study(config(tmp_path), lambda _: None)
    events = []
    more = run_study(config(tmp_path, seeds=2, resume=True, workers=1), events.append)
    assert [event.run.seed for event in events if isinstance(event, RunDone) and event.reused] == [0, 0]
    assert [event.run.seed for event in events if isinstance(event, RunStarted)] == [1, 1]
    assert len(more["runs"]) == 4
    assert scores(more) == scores(more) | scores(first)
    assert scores(more)["ape", 0] != scores(more)["ape", 1]


def test_a_study_does_not_go_on_with_other_options(tmp_path):
    run_study(config(tmp_path, seeds=2, embeddings=("none",)), lambda _: None)
    with pytest.raises(ValueError, match=r"with other options \(settings, steps\)"):
        run_study(config(tmp_path, seeds=2, embeddings=("none",), steps=4, resume=True), lambda _: None)
    with pytest.raises(ValueError, match=r"\(seeds\): seeds was 2, now 1"):
        run_study(config(tmp_path, embeddings=("none",), resume=True), lambda _: None)
    (tmp_path / "study/config.json").write_text("{}")
    with pytest.raises(ValueError, match="cannot read"):
        run_study(config(tmp_path, embeddings=("none",), resume=True), lambda _: None)


def test_a_run_that_fails_is_reported_and_the_others_go_on(tmp_path):
    out = tmp_path / "study"
    run_study(config(tmp_path, embeddings=("none", "ape")), lambda _: None)
    (out / "runs/zoom-ape-seed0/result.json").unlink()
    (out / "runs/zoom-ape-seed0/checkpoint.pt").write_bytes(b"spoilt")
    events = []
    results = run_study(config(tmp_path, resume=True), events.append)
    assert not results["complete"]
    assert [run["embedding"] for run in results["runs"]] == ["none"]
    assert "cannot go on from" in results["failed"][0]["message"]
    assert isinstance(events[-1], RunFailed)


def test_a_folder_of_images_is_studied_and_what_could_not_be_read_is_listed(tmp_path):
    photos = tmp_path / "photos"
    for name, color in (("red", (200, 0, 0)), ("blue", (0, 0, 200))):
        (photos / name).mkdir(parents=True)
        for index in range(5):
            Image.new("RGB", (20 + index, 30), color).save(photos / name / f"{index}.png")
    (photos / "red/broken.png").write_bytes(b"")
    events = []
    sizes = {"patch_size": 4, "train_size": 16, "test_sizes": (8, 16)}
    for panel in ("field", "zoom"):
        asked = config(tmp_path / panel, data=str(photos), panels=(panel,), embeddings=("rope_axial",), **sizes)
        results = run_study(asked, events.append)
        assert results["complete"]
        assert len(results["skipped_files"]) == 1
        assert results["data"]["classes"] == ["blue", "red"]
    assert [event.done for event in events if isinstance(event, LoadingImages)][:11] == list(range(1, 12))


@pytest.mark.full
def test_ctrl_c_stops_the_workers_and_keeps_what_is_done(tmp_path):
    """In a process of its own, interrupted for real while it trains."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        from pathlib import Path
        from ropevit.study.config import StudyConfig
        from ropevit.study.runner import run_study

        if __name__ == "__main__":
            options = {OPTIONS | {"steps": 100_000, "workers": 2}!r}
            config = StudyConfig(**options, out=Path({str(tmp_path / "study")!r}))
            run_study(config, lambda event: print(event, flush=True))
        """)
    )
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    started = 0
    for line in process.stdout:
        started += line.startswith("RunStarted")
        if line.startswith("TrainProgress") and started == 2:
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()  # the training alone would take hours
    assert process.returncode != 0
    assert errors.strip().endswith("KeyboardInterrupt")
    partial = json.loads((tmp_path / "study/results.json").read_text())
    assert not partial["complete"]
    folders = sorted((tmp_path / "study/runs").iterdir())
    assert len(folders) == 2
    for folder in folders:
        assert torch.load(folder / "checkpoint.pt", weights_only=True)["step"] > 0


def test_an_interrupt_in_this_process_is_passed_on_after_the_results_are_written(tmp_path):
    before = signal.getsignal(signal.SIGINT)  # ignored where the tests run in the background

    def interrupt(event):
        if isinstance(event, RunDone):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_study(config(tmp_path), interrupt)
    assert len(json.loads((tmp_path / "study/results.json").read_text())["runs"]) == 1
    assert signal.getsignal(signal.SIGINT) is before
    finished = run_study(replace(config(tmp_path), resume=True), lambda _: None)
    assert finished["complete"]


def test_paths_of_results_do_not_depend_on_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_study(config(Path()), lambda _: None)
    assert (tmp_path / "study/results.json").exists()
