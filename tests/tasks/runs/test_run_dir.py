import io
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ropevit.cli.console import Console
from ropevit.cli.runs import table
from ropevit.tasks import TASKS
from ropevit.tasks.evaluation.config import EvalConfig
from ropevit.tasks.runs.run_dir import (
    checkpoint_in_run,
    differences,
    open_directory,
    read_settings,
    task_of_checkpoint,
    weights_file,
)
from ropevit.tasks.runs.run_summary import by_metric, draw_runs, find_runs
from ropevit.tasks.segment.evaluate import SegmenterOptions
from ropevit.tasks.training.config import FORMER_FIELDS, RunConfig
from ropevit.tasks.training.metrics_log import read_metrics


def test_file_header_names_the_task_of_the_model(tmp_path):
    for name, task in (("ropevit-detector", "detect"), ("ropevit-segmenter", "segment"), ("ropevit", "classify")):
        folder = tmp_path / name
        folder.mkdir()
        save_file({"w": torch.zeros(1)}, folder / "best.safetensors", metadata={"format": name})
        assert task_of_checkpoint(str(folder)) is task_of_checkpoint(str(folder / "best.safetensors")) is TASKS[task]
    (tmp_path / "broken.safetensors").write_bytes(b"no header")
    assert (
        task_of_checkpoint(str(tmp_path / "broken.safetensors"))
        is task_of_checkpoint("timm/some_model")
        is task_of_checkpoint(None)
        is TASKS["classify"]
    )


@pytest.mark.parametrize("path", ["a/runs/segmenter", "./segmenter", "runs/best.safetensors", "segmenter", "~/none"])
def test_missing_path_has_no_task(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"no file .*{Path(path).name}'; check the path, or give a hub id"):
        task_of_checkpoint(path)


def test_possibly_mistyped_path_is_named_where_options_do_not_apply_to_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (
        task_of_checkpoint("runs/segmenter")
        is task_of_checkpoint("rope_mixed_deit_small_patch16_LS")
        is TASKS["classify"]
    )
    config = EvalConfig(data="fashion", checkpoint="runs/segmenter", options=SegmenterOptions(flip=True))
    message = r"with a classifier \(there is no file or directory runs/segmenter, so the hub's is meant\)"
    with pytest.raises(ValueError, match=message):
        config.check(TASKS["classify"])
    (tmp_path / "runs" / "segmenter").mkdir(parents=True)
    with pytest.raises(ValueError, match="with a classifier; leave it out"):
        config.check(TASKS["classify"])


def test_directory_returns_the_requested_weights_or_names_those_that_exist(tmp_path):
    (tmp_path / "model.safetensors").touch()
    assert checkpoint_in_run(tmp_path, "last") == checkpoint_in_run(tmp_path, None) == tmp_path / "model.safetensors"
    (tmp_path / "config.json").touch()  # that of a training
    with pytest.raises(ValueError, match=r"has no best[.]safetensors; choose --weights last"):
        checkpoint_in_run(tmp_path, None)
    (tmp_path / "hub").mkdir()
    index = tmp_path / "hub" / "model.safetensors.index.json"
    index.write_text('{"weight_map": {}}')
    assert checkpoint_in_run(tmp_path / "hub", None) == index
    assert task_of_checkpoint(str(tmp_path / "hub")) is task_of_checkpoint(str(index)) is TASKS["classify"]
    with pytest.raises(ValueError, match="holds no weights"):
        checkpoint_in_run(tmp_path / "hub", "best")
    with pytest.raises(ValueError, match="holds no weights"):
        checkpoint_in_run(tmp_path / "nowhere", "best")
    assert weights_file(str(tmp_path), "last") == str(tmp_path / "model.safetensors")
    for other in (str(tmp_path / "model.safetensors"), "naver-ai/deit_tiny", None):
        assert weights_file(other, None) == other


def test_study_run_returns_its_weights_and_a_study_names_its_runs(tmp_path):
    for name in ("zoom-ape-seed0", "zoom-none-seed0"):
        folder = tmp_path / "study" / "runs" / name
        folder.mkdir(parents=True)
        save_file({"w": torch.zeros(1)}, folder / "model.safetensors", metadata={"metadata": '{"panel": "zoom"}'})
        assert checkpoint_in_run(folder, None) == checkpoint_in_run(folder, "last") == folder / "model.safetensors"
    with pytest.raises(ValueError, match=r"study is a study of 2 trained models; .* such as .*runs/zoom-none-seed0"):
        checkpoint_in_run(tmp_path / "study", None)


SETTINGS = {"recipe": "fashion", "data": "here", "optim": {"lr": 1.0}, "run": {"seed": 0, "workers": 3}}


def test_nonempty_directory_is_never_written_to(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(ValueError, match="is not empty; choose another --out"):
        open_directory(RunConfig(out=tmp_path), SETTINGS)
    with pytest.raises(ValueError, match=r"found no training in .*config.json cannot be read"):
        open_directory(RunConfig(out=tmp_path, resume=True), SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def take_a_step(folder):
    """Leave what a training leaves after its first steps."""
    (folder / "metrics.jsonl").write_text('{"step": 1, "epoch": 0.5, "loss": 1.0}\n')


def test_training_is_resumed_only_with_the_same_options(tmp_path):
    run = RunConfig(out=tmp_path / "run", resume=True)
    open_directory(run, SETTINGS)
    take_a_step(run.out)
    moved = {**SETTINGS, "data": "elsewhere", "run": {"seed": 0, "workers": 0}}
    open_directory(run, moved)  # where the data is and how it is computed may change
    with pytest.raises(ValueError, match=r"was started with other options \(lr was 1.0, now 2.0\)"):
        open_directory(run, {**SETTINGS, "optim": {"lr": 2.0}})
    with pytest.raises(ValueError, match=r"seed was 0, now 1"):
        open_directory(run, {**SETTINGS, "run": {"seed": 1}})
    assert read_settings(run.out) == SETTINGS


@pytest.mark.parametrize(
    ("task", "recipe"),
    [("classify", "fashion"), ("detect", "detect/dino_smoke"), ("segment", "segment/mask2former_smoke")],
)
def test_training_with_the_former_names_of_options_is_resumed(task, recipe, tmp_path):
    config = TASKS[task].get("recipes")[recipe]().with_run(out=tmp_path / "run", resume=True)
    settings = json.loads(json.dumps(config.to_dict()))
    former = {group: {new: old for old, new in names.items()} for group, names in FORMER_FIELDS.items()}
    older = {former[""].get(name, name): value for name, value in settings.items()}
    for group, names in former.items():
        if group in older:
            older[group] = {names.get(name, name): value for name, value in older[group].items()}
    assert {"accumulate", "keep"} <= older["run"].keys()
    open_directory(config.run, older)
    take_a_step(config.run.out)
    open_directory(config.run, settings)
    assert read_settings(config.run.out) == settings
    settings["optim"]["opt_eps"] = 1.0
    with pytest.raises(ValueError, match=r"opt_eps was 1e-08, now 1.0"):
        open_directory(config.run, settings)


def test_a_task_of_another_package_keeps_its_own_fields_with_former_names_of_ours(tmp_path):
    own = {"top": 5, "eval_crop": 0.5, "augment": {"crop": 8, "pad": 1}, "scale": {"longest": 3}}
    older = {"recipe": "toy/line", **own, "run": {"accumulate": 2, "keep": 3}, "optim": {"eps": 1e-6}}
    (tmp_path / "config.json").write_text(json.dumps(older))
    run, optim = {"grad_accum_steps": 2, "keep_checkpoints": 3}, {"opt_eps": 1e-6}
    assert read_settings(tmp_path) == {"recipe": "toy/line", **own, "run": run, "optim": optim}


def test_training_without_its_checkpoints_does_not_overwrite_its_weights(tmp_path):
    run = RunConfig(out=tmp_path / "run", resume=True)
    open_directory(run, SETTINGS)
    take_a_step(run.out)
    open_directory(run, SETTINGS)  # killed before its first checkpoint: it starts over
    (run.out / "best.safetensors").write_bytes(b"precious")
    with pytest.raises(ValueError, match=r"holds best.safetensors, but no checkpoint to resume from; .* --init-from"):
        open_directory(run, SETTINGS)
    (run.out / "checkpoints").mkdir()
    (run.out / "checkpoints" / "step-00000004.pt").touch()
    open_directory(run, SETTINGS)


def test_partial_files_of_a_killed_process_are_removed(tmp_path):
    run = RunConfig(out=tmp_path / "run", resume=True)
    open_directory(run, SETTINGS)
    (run.out / "checkpoints").mkdir()
    part = run.out / "checkpoints" / ".step-00000004.pt.123.part"
    part.write_bytes(b"half")
    open_directory(run, SETTINGS)
    assert not part.exists()


def test_directory_without_a_step_is_overwritten_with_other_options(tmp_path):
    run, other = RunConfig(out=tmp_path / "run"), {**SETTINGS, "optim": {"lr": 2.0}}
    open_directory(run, SETTINGS)
    (run.out / "metrics.jsonl").touch()  # a crash before the first line
    (run.out / "checkpoints").mkdir()
    (run.out / ".config.json.12.part").write_text("{")
    for again in (run, RunConfig(out=run.out, resume=True)):
        open_directory(again, other)
        assert read_settings(run.out) == other
    assert not list(run.out.glob(".*.part"))
    for name in ("mine.txt", "metrics.jsonl", "checkpoints/step-00000001.pt"):
        (run.out / name).write_text("precious")
        with pytest.raises(ValueError, match="is not empty; choose another --out"):
            open_directory(run, SETTINGS)
        (run.out / name).unlink()
    (run.out / "config.json").write_text('{"somebody": "else"}')
    with pytest.raises(ValueError, match="is not empty; choose another --out"):
        open_directory(run, SETTINGS)


IMAGES = {"images": 24, "names": "a", "labels": "b", "files": "c"}


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({"images": 21, "names": "x"}, r"train: 3 images were removed from 24"),
        ({"images": 29, "names": "x"}, r"train: 5 images were added to 24"),
        ({"names": "x", "files": "x"}, r"train: the images have other names"),
        ({"labels": "x", "files": "x"}, r"train: labels changed"),
        ({"files": "x"}, r"train: files changed"),
    ],
)
def test_training_is_not_resumed_with_other_images(now, said, tmp_path):
    run = RunConfig(out=tmp_path / "run", resume=True)
    open_directory(run, SETTINGS, {"train": IMAGES, "val": IMAGES})
    take_a_step(run.out)
    open_directory(run, SETTINGS, {"train": IMAGES, "val": IMAGES})
    with pytest.raises(ValueError, match=rf"the data changed since .*run was started \({said}\); resume it with"):
        open_directory(run, SETTINGS, {"train": IMAGES | now, "val": IMAGES})
    with pytest.raises(ValueError, match=said.replace("train", "val")):
        open_directory(run, SETTINGS, {"train": IMAGES, "val": IMAGES | now})


def test_training_without_recorded_images_is_resumed(tmp_path):
    run = RunConfig(out=tmp_path / "run", resume=True)
    open_directory(run, SETTINGS)
    take_a_step(run.out)
    open_directory(run, SETTINGS, {"train": IMAGES, "val": IMAGES})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param("[" * 100_000, "nested too deeply", id="deep"),
        ("[]", "it holds a list, expected an object"),
        ('{"model": 5}', "model is '5', which no training writes"),
        ('{"model": {"position": ["a"]}}', r"model\.position is"),
        ('{"optim": {"epochs": "8"}}', r"optim\.epochs is '8'"),
        ('{"recipe": 7}', "recipe is '7'"),
        ('{"images": {"train": 24}}', r"images\.train is '24'"),
    ],
)
def test_config_not_written_by_a_training_gives_a_one_line_error(content, reason, tmp_path):
    (tmp_path / "config.json").write_text(content)
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(ValueError, match=rf"found no training in .*config\.json cannot be read: .*{reason}") as caught:
        find_runs([tmp_path])
    assert "\n" not in str(caught.value)


def make_run(folder, losses):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(SETTINGS))
    lines = [{"step": step, "epoch": step / 2, "loss": loss} for step, loss in enumerate(losses, 1)]
    lines.append({"step": len(losses), "epoch": len(losses) / 2, "top1": 100 / sum(losses)})
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 9, "lo'  # killed while writing
    (folder / "metrics.jsonl").write_text(text)


@pytest.mark.usefixtures("rendered")
def test_trainings_at_any_depth_are_found_and_compared(tmp_path):
    make_run(tmp_path / "a", [3.0, 2.0])
    make_run(tmp_path / "deep" / "b", [3.0, 1.0, 1.0])
    runs = find_runs([tmp_path])
    assert [(run.name, run.last("loss"), run.best, run.finished) for run in runs] == [
        ("a", 2.0, 20.0, False),
        ("b", 1.0, 20.0, False),
    ]
    assert runs[1].curve("loss") == ([0.5, 1.0, 1.5], [3.0, 1.0, 1.0])
    assert len(read_metrics(tmp_path / "a")) == 3
    assert draw_runs(runs, tmp_path / "runs.png").stat().st_size > 10_000


@pytest.mark.usefixtures("rendered")
def test_an_accuracy_and_an_average_precision_are_not_compared(tmp_path):
    make_run(tmp_path / "a", [3.0, 2.0])
    make_run(tmp_path / "b", [3.0, 2.0])
    (tmp_path / "b" / "config.json").write_text(json.dumps({**SETTINGS, "metric": "AP"}))
    runs = find_runs([tmp_path])
    assert {metric.name: [run.name for run in alike] for metric, alike in by_metric(runs).items()} == {
        "top1": ["a"],
        "AP": ["b"],
    }
    heights = []
    for some in (runs, runs[:1]):
        with Image.open(draw_runs(some, tmp_path / "runs.png")) as image:
            heights.append(image.height)
    assert heights[0] == 2 * heights[1]


def test_directory_without_trainings_is_refused(tmp_path):
    with pytest.raises(ValueError, match="found no training in"):
        find_runs([tmp_path])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        pytest.param(
            '{"a":' * 100_000 + "1" + "}" * 100_000, "line 2 is not readable JSON .nested too deeply", id="deep"
        ),
        ('{"loss": 1.0}', "line 2 names no step"),
        ('{"step": "1", "epoch": 1}', "line 2 names no step"),
        ('{"step": 1, "epoch": "1"}', "line 2 has epoch '1'"),
        ('{"step": 1, "epoch": 1, "loss": {}}', "line 2 has loss '{}'"),
        ('{"step": 1, "epoch": 1, "skipped": 7}', "line 2 has skipped '7'"),
    ],
)
def test_log_not_written_by_a_training_gives_a_one_line_error(line, reason, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SETTINGS))
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1, "epoch": 0.5, "loss": 1.0}}\n{line}\n')
    with pytest.raises(ValueError, match=rf"metrics\.jsonl, {reason}") as caught:
        find_runs([tmp_path])
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("rendered")
def test_special_characters_in_names_of_runs_and_recipes_are_listed_and_drawn(tmp_path):
    make_run(tmp_path / "_$a$b", [3.0])
    settings = {**SETTINGS, "recipe": "[/red]$x^", "model": None, "optim": None}
    (tmp_path / "_$a$b" / "config.json").write_text(json.dumps(settings))
    runs = find_runs([tmp_path])
    assert draw_runs(runs, tmp_path / "runs.png").stat().st_size > 10_000
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table(runs))
    assert "[/red]$x^" in console.export_text()


def test_a_flag_that_an_older_version_did_not_have_was_off():
    assert differences({"lr": 1.0}, {"lr": 1.0, "freeze_backbone": False}) == []
    assert differences({"lr": 1.0}, {"lr": 1.0, "freeze_backbone": True}) == ["freeze_backbone was None, now True"]
    assert differences({"empty": True}, {"empty": False}) == ["empty was True, now False"]
    assert differences({}, {"count": 0}) == ["count was None, now 0"]
