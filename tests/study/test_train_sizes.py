"""Studies that also train with random sizes, one a step."""

import json
from dataclasses import replace

import pytest
import torch

from ropevit.models.vit import ViT
from ropevit.study.config import StudyConfig
from ropevit.study.events import Run
from ropevit.study.method import describe_method
from ropevit.study.panels import PANEL_CLASSES
from ropevit.study.results import panel_results
from ropevit.study.train import StopRequested, train

SIZES = (4, 8, 12)


def sized(job, folder, sizes=SIZES):
    return replace(job, run=replace(job.run, train_sizes=sizes), folder=folder)


def seen_sizes(monkeypatch):
    """Collect the sizes of the images that models see in training."""
    seen, forward = [], ViT.embed

    def embed(self, images, pixel_mask=None):
        if self.training:
            seen.append(images.shape[-1])
        return forward(self, images, pixel_mask)

    monkeypatch.setattr(ViT, "embed", embed)
    return seen


def test_every_embedding_sees_the_same_random_sizes(make_job, tmp_path, monkeypatch):
    seen = seen_sizes(monkeypatch)
    for embedding in ("none", "rope_mixed"):
        train(sized(make_job("zoom", embedding, settings={"steps": 12}), tmp_path / embedding))
    assert seen[:12] == seen[12:]
    assert set(seen) == set(SIZES)


@pytest.mark.parametrize("panel", ["field", "zoom"])
def test_a_resumed_training_sees_the_rest_of_the_sizes(make_job, tmp_path, panel, monkeypatch):
    seen = seen_sizes(monkeypatch)
    train(sized(make_job(panel), tmp_path / "whole"))
    whole, calls = list(seen), iter(range(100))
    seen.clear()
    with pytest.raises(StopRequested):
        train(sized(make_job(panel, should_stop=lambda: next(calls) == 3), tmp_path / "part"))
    train(sized(make_job(panel), tmp_path / "part"))
    assert seen == whole
    ends = [torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["model"] for name in ("whole", "part")]
    torch.testing.assert_close(*ends, rtol=0, atol=0)


def test_such_trainings_are_curves_of_their_own(make_job, tmp_path):
    results = [train(make_job("zoom", folder=tmp_path / "plain")), train(sized(make_job("zoom"), tmp_path / "sizes"))]
    assert json.loads((tmp_path / "sizes" / "result.json").read_text())["train_sizes"] == [4, 8, 12]
    assert "train_sizes" not in results[0]  # as in files from before there were any
    assert results[1]["baselines"] == {"resize": {}}  # a baseline is for models trained at one size
    (panel,) = panel_results(results)
    assert [curve.label for curve in panel.curves] == ["RoPE-Mixed", "RoPE-Mixed, trained with sizes 4, 8, 12"]


def test_a_study_trains_every_embedding_both_ways():
    config = StudyConfig(panels=("zoom",), embeddings=("none", "rope_axial"), train_sizes=(20, 28))
    assert [run.name for run in config.runs()] == [
        "zoom-none-seed0", "zoom-none-sizes20-28-seed0", "zoom-rope_axial-seed0", "zoom-rope_axial-sizes20-28-seed0",
    ]  # fmt: skip
    study = {"data": {"train_images": 10, "test_images": 10, "classes": ["a"]}}
    assert any("the sizes 20, 28 px" in paragraph for paragraph in describe_method(config, study))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((28, 20), "got train sizes .28, 20.; expected each once, from small to large"),
        ((20, 30), "got train size 30; patches of 4 pixels do not tile it: take 28 or 32"),
        ((), "got no train sizes; give at least one, such as --train-sizes"),
    ],
)
def test_sizes_that_patches_do_not_tile_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        StudyConfig(panels=("zoom",), train_sizes=sizes)


def test_a_result_of_other_sizes_is_another_run(make_job, tmp_path):
    train(sized(make_job("zoom"), tmp_path / "run"))
    with pytest.raises(ValueError, match=r"it belongs to .*4, 8, 12"):
        train(sized(make_job("zoom"), tmp_path / "run", sizes=(4, 8)))


def test_names_of_runs_tell_trainings_apart():
    plain = Run(panel="far", embedding="ape", seed=3)
    assert plain.name == "far-ape-seed3"
    assert replace(plain, train_scaling="jitter(rescale=2)", train_sizes=(4, 8)).name == (
        "far-ape-jitter-rescale2-sizes4-8-seed3"
    )


@pytest.mark.parametrize("name", sorted(PANEL_CLASSES))
def test_a_panel_makes_batches_of_any_size(make_job, name):
    panel = make_job(name).panel
    images, _ = panel.batch(0, 0, 12)
    assert images.shape[-1] == 12
    torch.testing.assert_close(panel.batch(0, 0, 8), panel.batch(0, 0), rtol=0, atol=0)
