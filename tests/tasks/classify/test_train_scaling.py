"""Training classifiers with the newer rope types and with RoPE scaling methods."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from PIL import Image

from ropevit.data.fashion import load_fashion
from ropevit.rope.scaling import CoordinateJitter
from ropevit.tasks.classify import evaluate as measuring
from ropevit.tasks.classify.config import TrainConfig
from ropevit.tasks.classify.evaluate import evaluate
from ropevit.tasks.classify.train import train
from ropevit.tasks.distributed import Interrupted
from ropevit.tasks.evaluation.config import EvalConfig
from ropevit.tasks.evaluation.loop import EvalStarted
from ropevit.tasks.runs.run_summary import find_runs
from ropevit.tasks.training.events import StepDone
from ropevit.tasks.training.metrics_log import read_metrics
from ropevit.weights import load_model

METHOD = "normalize+jitter(rescale=2)"


def model_of(config: TrainConfig, **fields) -> TrainConfig:
    return replace(config, model=replace(config.model, **fields))


def last_of(folder: Path):
    return load_model(folder / "best.safetensors")[0]


@pytest.fixture
def drawn(monkeypatch):
    """Collect what trainings draw for their coordinates."""
    found, original = [], CoordinateJitter.sample

    def draw(self, *args, **options):
        found.append(original(self, *args, **options))
        return found[-1]

    monkeypatch.setattr(CoordinateJitter, "sample", draw)
    return found


@pytest.mark.parametrize("position", ["rope_golden", "rope_spiral", "rope_star", "rope_simplex", "rope_polar"])
def test_a_new_rope_type_is_trained_with_scaling_and_both_are_saved(small, tmp_path, drawn, position):
    train(model_of(small(max_steps=2), position=position, scaling=METHOD))
    assert len(drawn) == 2
    assert len({tuple(values.flatten().tolist()) for values in drawn}) == 2
    config = last_of(tmp_path / "run").config
    assert (config.position, config.scaling) == (position, METHOD)
    asked = json.loads((tmp_path / "run/config.json").read_text())["model"]
    assert (asked["position"], asked["scaling"]) == (position, METHOD)
    (run,) = find_runs([tmp_path])
    assert run.title == f"fashion {position} {METHOD}"


def test_without_scaling_no_jitter_is_drawn(small, drawn, tmp_path):
    train(small(max_steps=1))
    assert not drawn
    assert find_runs([tmp_path])[0].title == "fashion rope_mixed"


def test_an_interrupted_training_with_jitter_resumes_bit_for_bit(small, tmp_path, drawn):
    config = model_of(small(1, out=tmp_path / "whole"), scaling=METHOD)
    train(config)
    whole = list(drawn)
    drawn.clear()
    with pytest.raises(Interrupted):
        train(config.with_run(out=tmp_path / "run"), stop_after(3))
    train(config.with_run(out=tmp_path / "run", resume=True))
    assert len(whole) == 8
    assert all(torch.equal(a, b) for a, b in zip(drawn, whole, strict=True))
    losses = [[line["loss"] for line in read_metrics(tmp_path / name) if "loss" in line] for name in ("whole", "run")]
    assert losses[0] == losses[1]
    weights = [safetensors.torch.load_file(tmp_path / name / "model.safetensors") for name in ("whole", "run")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def stop_after(step):
    def watch(event):
        if isinstance(event, StepDone) and event.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return watch


def test_a_training_is_not_resumed_with_other_scaling(small):
    train(model_of(small(max_steps=1), scaling="normalize"))
    with pytest.raises(ValueError, match="scaling was 'normalize', now None"):
        train(small(max_steps=2, resume=True))


def test_a_training_from_before_scaling_methods_is_resumed(small, tmp_path):
    train(small(max_steps=1))
    file = tmp_path / "run/config.json"
    settings = json.loads(file.read_text())
    del settings["model"]["scaling"]
    file.write_text(json.dumps(settings))
    train(small(max_steps=2, resume=True))


@pytest.mark.parametrize(("scaling", "grid"), [("pi", (7, 7)), (None, (14, 14))])
def test_the_reference_grid_of_scaling_is_that_of_the_initial_weights(small, tmp_path, scaling, grid):
    train(small(max_steps=1))
    start = str(tmp_path / "run/best.safetensors")
    train(model_of(small(max_steps=1, out=tmp_path / "larger"), size=56, init=start, scaling=scaling))
    config = last_of(tmp_path / "larger").config
    assert config.attention_grid == (14, 14)
    assert (config.trained_grid or config.attention_grid) == grid


def test_a_model_is_evaluated_with_the_scaling_of_its_training_or_of_the_option(small, tmp_path, monkeypatch):
    for name in load_fashion("test").classes[2:5]:
        (tmp_path / "images/val" / name).mkdir(parents=True)
        Image.effect_noise((40, 30), 50).convert("RGB").save(tmp_path / "images/val" / name / "0.png")
    train(model_of(small(max_steps=1), scaling=METHOD))
    seen, begun, original = [], [], measuring.classifier

    def spy(model, bench):
        seen.append(model.config.scaling_methods)
        return original(model, bench)

    monkeypatch.setattr(measuring, "classifier", spy)
    for name, scaling in (("own", None), ("other", "yarn"), ("plain", "none")):
        config = EvalConfig(
            checkpoint=str(tmp_path / "run"), data=str(tmp_path / "images"), out=tmp_path / name, sizes=(56,),
            workers=0, device="cpu", scaling=scaling,
        )  # fmt: skip
        evaluate(config, lambda event: begun.append(event.description) if isinstance(event, EvalStarted) else None)
    assert [[method.name for method in scaling.methods] for scaling in seen[:2]] == [["normalize", "jitter"], ["yarn"]]
    assert {scaling.trained_grid for scaling in seen[:2]} == {(7, 7)}
    assert [text.split("scaling ")[1].split(",")[0] for text in begun[:2]] == [METHOD, "yarn"]
    assert seen[2] is None
    assert "scaling" not in begun[2]
    with pytest.raises(ValueError, match="no scaling method named ''; choose from"):
        evaluate(replace(config, scaling="", out=tmp_path / "empty"))


def test_scaling_without_rope_is_refused(small):
    with pytest.raises(ValueError, match="got scaling='normalize' for ape, which has no RoPE; remove"):
        model_of(small(), position="ape", scaling="normalize")
