"""Damage to the files of a study is noticed, and answered in one line."""

import pytest
import torch

from embedded import few
from ropevit.study.config import StudyConfig
from ropevit.study.events import Run
from ropevit.study.results import read_results
from ropevit.study.runner import run_study
from ropevit.study.stored_runs import read_result
from ropevit.study.train import StopRequested, train

OPTIONS = {
    "panels": ("zoom",), "embeddings": ("none",), "steps": 3, "batch_size": 4, "width": 16, "depth": 1, "heads": 2,
    "test_sizes": (20, 28), "device": "cpu", "precision": "float32", "workers": 1,
}  # fmt: skip

DEEP = "[" * 100_000


@pytest.fixture
def few_images(monkeypatch):
    """Take a part of the embedded images, so that nothing takes long."""
    monkeypatch.setattr("ropevit.study.runner.load_fashion", few)


def config(folder, **changes):
    return StudyConfig(**OPTIONS | {"out": folder / "study"} | changes)


def after(count):
    """Return True from the `count`-th call on."""
    asked = iter(range(1, 1000))
    return lambda: next(asked) >= count


@pytest.fixture
def half(make_job, tmp_path):
    """Arguments of a training that stopped half-way."""
    with pytest.raises(StopRequested):
        train(make_job(folder=tmp_path / "run", should_stop=after(4)))
    return {"folder": tmp_path / "run"}


def test_a_flipped_bit_of_a_checkpoint_is_noticed(make_job, half):
    path = half["folder"] / "checkpoint.pt"
    content = bytearray(path.read_bytes())
    weight = torch.load(path, weights_only=True)["model"]["head.weight"].numpy().tobytes()
    content[content.index(weight)] ^= 16
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot go on from .*checkpoint.pt: .*; delete it to train this run again"):
        train(make_job(**half))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"step": 99}, "it holds step 99 of 6"),
        ({"step": "3"}, "it holds step '3' of 6"),
        ({"seconds": None}, "it holds seconds=None"),
        ({"run": {"panel": "zoom"}}, "it belongs to"),
        ({"images": "another"}, "it was trained on other images"),
        ({"optimizer": {}}, ""),
    ],
)
def test_a_checkpoint_that_says_something_else_is_refused(make_job, half, changes, told):
    path = half["folder"] / "checkpoint.pt"
    torch.save(torch.load(path, weights_only=True) | changes, path)
    with pytest.raises(ValueError, match=f"cannot go on from .*{told}") as error:
        train(make_job(**half, images="these"))
    assert "\n" not in str(error.value)


def test_moments_of_another_shape_are_refused(make_job, half):
    path = half["folder"] / "checkpoint.pt"
    content = torch.load(path, weights_only=True)
    content["optimizer"]["state"][0]["exp_avg"] = torch.zeros(1)
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"exp_avg is \(1,\), expected"):
        train(make_job(**half))


@pytest.mark.parametrize("line", [pytest.param(DEEP, id="deep"), "{}", "[1]", '{"step": "1"}', '{"step": 1', "\xff"])
def test_a_damaged_line_of_the_log_is_named(make_job, half, line):
    log = half["folder"] / "log.jsonl"
    lines = log.read_text().splitlines()
    log.write_text("\n".join([lines[0], line, *lines[2:]]) + "\n", encoding="latin-1")
    with pytest.raises(ValueError, match=r"log.jsonl, line 2 .*; delete the log") as error:
        train(make_job(**half))
    assert "\n" not in str(error.value)


def test_a_changed_digit_of_a_result_is_noticed(make_job, tmp_path):
    result = train(make_job(folder=tmp_path))
    run, path = Run(panel="zoom", embedding="rope_mixed", seed=0), tmp_path / "result.json"
    assert read_result(path, run) == result
    hint = ".*; delete it, and --resume evaluates that model again"
    text = path.read_text()
    for wrong in (text.replace('"seed": 0', '"seed": 1'), text.replace("0", "1"), text[:-20], DEEP, "[]", "{}", "\xff"):
        path.write_text(wrong, encoding="latin-1")
        with pytest.raises(ValueError, match=f"result.json{hint}"):
            read_result(path, run)
    path.write_text(text)
    with pytest.raises(ValueError, match="the result of another run"):
        read_result(path, Run(panel="zoom", embedding="rope_mixed", seed=1))


@pytest.mark.usefixtures("few_images")
@pytest.mark.parametrize("name", ["config.json", "images.json", "results.json", "runs/zoom-none-seed0/result.json"])
def test_no_damaged_file_of_a_study_ends_in_a_traceback(tmp_path, name):
    run_study(config(tmp_path), lambda _: None)
    path = tmp_path / "study" / name
    text = path.read_text()
    for wrong in (DEEP, "", "3", '{"runs": 3, "config": 3}', "\x00", text[: len(text) // 2]):
        path.write_text(wrong)
        with pytest.raises(ValueError, match=name.split("/")[-1]) as error:
            run_study(config(tmp_path, resume=True), lambda _: None)
        assert "\n" not in str(error.value)


def test_results_are_read_whole(tmp_path):
    for wrong in (DEEP, "3", '{"runs": [], "config": {}, "environment": {}, "complete": 1'):
        (tmp_path / "results.json").write_text(wrong)
        with pytest.raises(ValueError, match=r"results.json"):
            read_results(tmp_path)
