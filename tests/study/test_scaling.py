"""Rope types and scaling methods in a study."""

import json
from copy import deepcopy

import pytest

from ropevit.models import SWIN_EMBEDDINGS, VIT_EMBEDDINGS
from ropevit.models.positions import position_label, position_style
from ropevit.study.config import StudyConfig, unpublished_types
from ropevit.study.figure import draw_curves
from ropevit.study.method import describe_method
from ropevit.study.report import conclusions, score_table
from ropevit.study.results import overall_summary, panel_results, panel_summary
from ropevit.study.train import train
from ropevit.weights import load_model


def test_every_embedding_has_a_name_and_a_style_of_its_own():
    for embeddings in (VIT_EMBEDDINGS, SWIN_EMBEDDINGS):
        assert len({position_label(name) for name in embeddings}) == len(embeddings)
        own = [name for name in embeddings if embeddings is VIT_EMBEDDINGS or not name.endswith("_ape")]
        assert len({position_style(name) for name in own}) == len(own)


def test_rope_types_join_the_embeddings():
    assert StudyConfig().all_embeddings == StudyConfig().embeddings
    assert StudyConfig(rope_types=("spiral",)).all_embeddings[-1] == "rope_spiral"
    every = StudyConfig(rope_types=("all",), seeds=2)
    assert every.all_embeddings == (*every.embeddings, *(f"rope_{name}" for name in unpublished_types()))
    assert len(every.runs()) == 2 * 2 * 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_types": ("gold",)}, "got rope type gold; did you mean golden?"),
        ({"rope_types": ("all", "golden")}, "got rope types all, golden; all has the others: give it alone"),
        ({"embeddings": ("rope_golden",), "rope_types": ("golden",)}, "name each once"),
        ({"scaling": ("ntk", "ntk")}, "got scaling methods ntk, ntk; name each once"),
        ({"scaling": ("entropy", "log(power=0.5)")}, "name each once"),
        ({"scaling": ("larger",)}, "no scaling method named 'larger'"),
        ({"scaling": ("ntk+jitter",)}, "scaling 'ntk\\+jitter'; jitter is for training: give it with --train-scaling"),
    ],
)
def test_what_cannot_be_compared_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        StudyConfig(**changes)


JOBS = [("rope_golden", 0), ("rope_golden", 1), ("ape", 0), ("ape", 1)]


@pytest.fixture(scope="module")
def trained(make_shared_job):
    """Jobs and their results."""
    jobs = [make_shared_job(embedding=name, seed=seed, scaling=("ntk", "yarn+log")) for name, seed in JOBS]
    return jobs, [train(job) for job in jobs]


@pytest.fixture
def results(trained):
    return deepcopy(trained[1])


def test_trained_rotations_are_evaluated_with_every_scaling_method(trained):
    jobs, (first, _, absolute, _) = trained
    assert json.loads((jobs[0].folder / "result.json").read_text()) == first
    assert list(first["scaled"]) == ["ntk", "yarn+log"]
    for scores in first["scaled"].values():
        assert list(scores) == list(first["scores"]) == ["4", "8", "12"]
        assert scores["8"] == first["scores"]["8"]  # the training size
    assert absolute["scaled"] == {}
    kept, _ = load_model(jobs[0].folder / "model.safetensors")
    assert kept.config.scaling is None


def test_a_scaling_method_is_set_while_it_is_evaluated(make_job, monkeypatch):
    seen = []
    job = make_job(scaling=("ntk",))

    def score(model, size, check, mode="whole"):
        check()
        if mode == "whole":
            seen.append((model.config.scaling, size))
        return 0.0

    monkeypatch.setattr(job.panel, "score", score)
    train(job)
    assert seen == [(None, 4), (None, 8), (None, 12), ("ntk", 4), ("ntk", 12)]


def test_scaling_methods_are_curves_of_their_own(results):
    (panel,) = panel_results(results)
    labels = [curve.label for curve in panel.curves]
    assert labels == ["RoPE-Golden", "RoPE-Golden, ntk", "RoPE-Golden, yarn+log", "absolute (APE)"]
    assert [curve.label for curve in panel.ranked(8) if curve.scaling] == []
    assert len(panel.ranked(12)) == 4
    table = score_table(panel)
    assert [row["label"] for row in table["rows"]] == labels
    plots = draw_curves([panel]).axes
    assert [axes.get_title().split("\n")[0] for axes in plots] == [
        "zoom: as trained",
        "zoom: evaluated with ntk",
        "zoom: evaluated with yarn+log",
    ]
    shown = [axes.get_legend_handles_labels()[1] for axes in plots]
    assert shown == [["RoPE-Golden", "absolute (APE)"], ["RoPE-Golden"], ["RoPE-Golden"]]


def test_sentences_name_scaling_methods(results):
    for run in results:
        run["scores"] = {"4": 10.0, "8": 50.0, "12": 30.0}
        run["scaled"] = {method: {"4": 10.0, "8": 50.0, "12": 40.0 + len(method)} for method in run["scaled"]}
    (panel,) = panel_results(results)
    assert "at 1.5x the training size (12 px) RoPE-Golden, yarn+log has the highest mean, 48.0" in panel_summary(panel)
    assert "RoPE-Golden (50.0 ± 0.0) and absolute (APE) (50.0 ± 0.0) are level at the top" in panel_summary(panel)
    assert "RoPE-Golden" in overall_summary([panel])
    (alone,) = panel_results([run for run in results if run["embedding"] != "ape"])
    assert "at the training size (8 px) RoPE-Golden (50.0 ± 0.0) is alone" in panel_summary(alone)
    assert conclusions([alone], {"test_images": 300, "classes": ["a"]})


def test_results_from_before_scaling_existed_are_read(results):
    for run in results:
        del run["scaled"]
    (panel,) = panel_results(results)
    assert len(panel.curves) == 2


def test_the_report_says_which_scaling_methods_were_tried():
    config = StudyConfig(rope_types=("polar",), scaling=("pi", "log"))
    data = {"train_images": 1, "test_images": 1, "classes": ["a"]}
    told = " ".join(describe_method(config, {"data": data}))
    assert "RoPE-Polar" in told
    assert "also evaluated with pi, log" in told
