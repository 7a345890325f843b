"""Studies that train rotations with scaling methods, and resumed studies with more methods and test sizes."""

import json
from dataclasses import replace

import pytest
import torch

from embedded import few
from marks import by_default
from ropevit.rope.scaling import CoordinateJitter
from ropevit.study.config import StudyConfig
from ropevit.study.events import Evaluating, Run, RunStarted, TrainProgress
from ropevit.study.figure import draw_curves
from ropevit.study.method import describe_method
from ropevit.study.outputs import write_outputs
from ropevit.study.report import conclusions
from ropevit.study.results import panel_results, paper_order_summary
from ropevit.study.runner import run_study
from ropevit.study.train import StopRequested, train
from ropevit.weights import load_model

JITTER, BOTH = "jitter(rescale=2)", "normalize+jitter(rescale=2)"

OPTIONS = {
    "panels": ("zoom",), "embeddings": ("ape", "rope_mixed"), "steps": 2, "batch_size": 4, "width": 16, "depth": 1,
    "heads": 2, "test_sizes": (20, 28), "device": "cpu", "precision": "float32", "workers": 1,
}  # fmt: skip


@pytest.fixture
def few_images(monkeypatch):
    """Take a part of the embedded images, so that nothing takes long."""
    monkeypatch.setattr("ropevit.study.runner.load_fashion", few)


def config(folder, **changes):
    return StudyConfig(**OPTIONS | {"out": folder / "study"} | changes)


@pytest.fixture
def drawn(monkeypatch):
    """Collect what trainings draw for their coordinates."""
    found, original = [], CoordinateJitter.sample

    def draw(self, *args, **options):
        found.append(original(self, *args, **options))
        return found[-1]

    monkeypatch.setattr(CoordinateJitter, "sample", draw)
    return found


def with_scaling(job, methods=JITTER):
    return replace(job, run=replace(job.run, train_scaling=methods))


def weights(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)["model"]


def after(count):
    asked = iter(range(1, 1000))
    return lambda: next(asked) >= count


def test_every_rotation_is_trained_with_each_scaling_method_besides_without():
    runs = StudyConfig(train_scaling=(JITTER, BOTH), panels=("zoom",)).runs()
    found = [(run.embedding, run.train_scaling) for run in runs]
    assert found == [
        ("ape", None),
        *((name, method) for name in ("rope_axial", "rope_mixed") for method in (None, JITTER, BOTH)),
    ]
    assert len({run.name for run in runs}) == 7
    assert runs[0].name == "zoom-ape-seed0"
    assert runs[-1].name == "zoom-rope_mixed-normalize+jitter-rescale2-seed0"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_scaling": ("normalize",)}, "got train_scaling 'normalize'; without jitter it changes nothing"),
        ({"train_scaling": ("ntk+jitter(rescale=1)",)}, r"rescale=1\)'; without jitter it changes nothing"),
        ({"train_scaling": (JITTER, JITTER)}, "name each once"),
        ({"train_scaling": (JITTER, "jitter(rescale = 2.0)")}, "name each once"),
        ({"train_scaling": (JITTER, "jitter")}, "name each once"),
        ({"train_scaling": ("larger",)}, "no scaling method named 'larger'"),
        (
            {"train_scaling": (JITTER,), "embeddings": ("none", "ape")},
            "with none, ape; none of them has RoPE: add one that has",
        ),
    ],
)
def test_scaling_methods_without_jitter_or_rope_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        StudyConfig(**changes)


def test_trainings_with_a_scaling_method_share_weights_images_and_draws(make_job, drawn, monkeypatch):
    seen = []
    for embedding, methods in (("rope_mixed", None), ("rope_mixed", JITTER), ("rope_axial", JITTER)):
        job = make_job(embedding=embedding, folder=None)
        job = replace(with_scaling(job, methods), folder=job.folder / (methods or "plain"))
        original = job.panel.batch

        def batch(seed, step, size=None, original=original):
            found = original(seed, step, size)
            seen.append((step, found[0].sum().item()))
            return found

        monkeypatch.setattr(job.panel, "batch", batch)
        state = torch.get_rng_state()
        train(job)
        assert torch.equal(torch.get_rng_state(), state)
    assert seen[:6] == seen[6:12] == seen[12:]
    assert len(drawn) == 12
    assert all(torch.equal(a, b) for a, b in zip(drawn[:6], drawn[6:], strict=True))
    assert len({tuple(values.flatten().tolist()) for values in drawn}) == 6


@pytest.mark.parametrize("panel", by_default(["zoom"], ["field", "zoom"]))
def test_a_run_with_jitter_cut_short_goes_on_to_the_very_same_weights(make_job, tmp_path, panel, drawn):
    whole = with_scaling(make_job(panel, folder=tmp_path / "whole"))
    train(whole)
    plain = make_job(panel, folder=tmp_path / "plain")
    train(plain)
    with pytest.raises(StopRequested):
        train(with_scaling(make_job(panel, folder=tmp_path / "cut", should_stop=after(4))))
    torch.rand(3)
    train(with_scaling(make_job(panel, folder=tmp_path / "cut")))
    torch.testing.assert_close(weights(tmp_path / "cut"), weights(tmp_path / "whole"), rtol=0, atol=0)
    assert not torch.equal(weights(tmp_path / "plain")["head.weight"], weights(tmp_path / "whole")["head.weight"])
    assert len(drawn) == 12


def test_a_model_is_measured_with_what_it_was_trained_with_or_another_scaling_method(make_job, tmp_path, monkeypatch):
    job = replace(with_scaling(make_job(folder=tmp_path / "run"), BOTH), scaling=("ntk",))
    seen = []

    def score(model, size, check):
        check()
        seen.append((model.config.scaling, size))
        return 0.0

    monkeypatch.setattr(job.panel, "score", score)
    result = train(job)
    assert seen == [*((BOTH, size) for size in (4, 8, 12)), ("ntk", 4), ("ntk", 12)]
    assert result["train_scaling"] == BOTH
    model, info = load_model(tmp_path / "run/model.safetensors")
    assert model.config.scaling == BOTH
    assert info.metadata["train_scaling"] == BOTH


def test_trainings_with_scaling_methods_are_curves_named_in_table_figure_and_sentences(make_job):
    jobs = [
        replace(with_scaling(make_job(embedding=name), methods), scaling=("ntk",))
        for name, methods in (("ape", None), ("rope_mixed", None), ("rope_mixed", JITTER))
    ]
    results = [train(replace(job, folder=job.folder / str(job.run.train_scaling))) for job in jobs]
    for result in results:
        result["scores"] = {"4": 1.0, "8": 5.0, "12": 9.0 if result["train_scaling"] else 3.0}
        result["scaled"] = {method: {"4": 1.0, "8": 5.0, "12": 2.0} for method in result["scaled"]}
    (panel,) = panel_results(results)
    labels = [
        "absolute (APE)", "RoPE-Mixed", "RoPE-Mixed, ntk", f"RoPE-Mixed, trained with {JITTER}",
        f"RoPE-Mixed, trained with {JITTER}, evaluated with ntk",
    ]  # fmt: skip
    assert [curve.label for curve in panel.curves] == labels
    plots = draw_curves([panel]).axes
    assert [axes.get_title().split("\n")[:-1] or axes.get_title() for axes in plots] == [
        "zoom: as trained",
        ["zoom: evaluated with ntk"],
        [f"zoom: trained with {JITTER}"],
        [f"zoom: trained with {JITTER}", "evaluated with ntk"],
    ]
    names = [axes.get_legend_handles_labels()[1] for axes in plots]
    assert names == [labels[:2], ["RoPE-Mixed"], ["RoPE-Mixed"], ["RoPE-Mixed"]]
    told = " ".join(conclusions([panel], {"test_images": 300, "classes": ["a"]}))
    assert f"at 1.5x the training size (12 px) RoPE-Mixed, trained with {JITTER} has the highest score, 9.0" in told
    assert "does not show" in paper_order_summary(
        replace(panel, seeds=(0, 1, 2))
    )  # of the plain trainings, level at 12


def test_results_from_before_train_scaling_existed_are_read(make_job):
    result = train(make_job())
    del result["train_scaling"]
    (panel,) = panel_results([result])
    assert [curve.label for curve in panel.curves] == ["RoPE-Mixed"]


def test_the_report_says_which_scaling_methods_were_trained_with():
    data = {"train_images": 1, "test_images": 1, "classes": ["a"]}
    told = " ".join(describe_method(StudyConfig(train_scaling=(JITTER,)), {"data": data}))
    assert f"every model with RoPE was also trained with {JITTER}, from the same weights" in told
    assert "also trained" not in " ".join(describe_method(StudyConfig(), {"data": data}))


@pytest.mark.full  # test_runner.py has one that goes on with more seeds
@pytest.mark.usefixtures("few_images")
def test_a_study_resumes_with_more_scaling_methods_and_sizes_without_training_again(tmp_path):
    first = run_study(config(tmp_path), lambda _: None)
    events = []
    grown = {"scaling": ("ntk",), "test_sizes": (20, 28, 36), "train_scaling": (JITTER,), "resume": True}
    more = run_study(config(tmp_path, **grown), events.append)
    trained = [event.run.name for event in events if isinstance(event, TrainProgress)]
    assert set(trained) == {"zoom-rope_mixed-jitter-rescale2-seed0"}
    measured = [(event.run.name, event.size) for event in events if isinstance(event, Evaluating)]
    assert [size for name, size in measured if name == "zoom-ape-seed0"] == [36]
    assert [size for name, size in measured if name == "zoom-rope_mixed-seed0"] == [36, 20, 36]
    for before, now in zip(first["runs"], more["runs"], strict=False):
        assert now["scores"] == {**before["scores"], "36": now["scores"]["36"]}
    assert more["complete"]
    asked = config(tmp_path, **grown)
    fresh = run_study(replace(asked, out=tmp_path / "fresh", resume=False), lambda _: None)
    for now, other in zip(more["runs"], fresh["runs"], strict=True):
        assert (now["scores"], now["scaled"]) == (other["scores"], other["scaled"])
    assert "trained with" in write_outputs(asked, more).read_text()
    events.clear()
    run_study(asked, events.append)
    assert not [event for event in events if isinstance(event, RunStarted)]


@pytest.mark.usefixtures("few_images")
def test_a_study_does_not_resume_with_fewer_scaling_methods_or_sizes(tmp_path):
    run_study(config(tmp_path, scaling=("ntk",), train_scaling=(JITTER,)), lambda _: None)
    for name, value in {"scaling": ("pi",), "train_scaling": None, "test_sizes": (28,)}.items():
        options = {"scaling": ("ntk",), "train_scaling": (JITTER,), "resume": True} | {name: value}
        with pytest.raises(ValueError, match=rf"other options \({name}\)"):
            run_study(config(tmp_path, **options), lambda _: None)


@pytest.mark.usefixtures("few_images")
def test_a_study_from_before_train_scaling_existed_resumes(tmp_path):
    run_study(config(tmp_path, embeddings=("rope_mixed",)), lambda _: None)
    for file in (tmp_path / "study/config.json", tmp_path / "study/runs/zoom-rope_mixed-seed0/result.json"):
        content = json.loads(file.read_text())
        for name in ("train_scaling", "scaling", "scaled", "families", "digest"):
            content.pop(name, None)
        file.write_text(json.dumps(content))
    events = []
    results = run_study(config(tmp_path, embeddings=("rope_mixed",), resume=True), events.append)
    assert results["complete"]
    assert not [event for event in events if isinstance(event, RunStarted)]


def test_larger_test_sizes_would_change_what_a_folder_is_trained_on(tmp_path):
    from ropevit.study.stored_runs import refuse_other_study

    sizes = {"data": str(tmp_path), "patch_size": 4, "train_size": 16}
    stored = config(tmp_path, **sizes | {"test_sizes": (8, 16)})
    (tmp_path / "config.json").write_text(json.dumps(stored.to_dict()))
    refuse_other_study(config(tmp_path, **sizes | {"test_sizes": (8, 12, 16)}), tmp_path / "config.json")
    with pytest.raises(ValueError, match="images prepared for 16 px; with test_sizes up to 24 px they would differ"):
        refuse_other_study(config(tmp_path, **sizes | {"test_sizes": (8, 16, 24)}), tmp_path / "config.json")


def test_a_run_is_named_by_its_scaling():
    run = Run(panel="zoom", embedding="rope_mixed", seed=1, train_scaling="jitter(shift=0.5, jitter=1.1,rescale=2)")
    assert run.name == "zoom-rope_mixed-jitter-shift0.5-jitter1.1-rescale2-seed1"
