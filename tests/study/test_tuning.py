"""`--scaling auto` of a study: a scaling method chosen on held-out training images."""

import json
from dataclasses import replace

import pytest
import torch

from marks import by_default
from ropevit.cli.study import score_table
from ropevit.data.labeled import LabeledImages
from ropevit.models.vit import ViT
from ropevit.study.config import StudyConfig
from ropevit.study.events import Tuning
from ropevit.study.method import describe_method
from ropevit.study.panels import PANEL_CLASSES
from ropevit.study.results import panel_results
from ropevit.study.runner import run_study
from ropevit.study.stored_runs import read_result, refuse_other_study, stored_result
from ropevit.study.train import train
from ropevit.study.tuning import describe_choices, hold_out, tune, tuning_panels
from ropevit.tasks.evaluation import scaling_search
from ropevit.weights import load_model

PANELS = sorted(PANEL_CLASSES)


def never():
    """Go on."""


def noise(count=240, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return LabeledImages(
        images=torch.randint(256, (count, 1, 8, 8), dtype=torch.uint8, generator=generator),
        labels=torch.arange(count) % 3,
        classes=("a", "b", "c"),
        name="noise/train",
        source="random numbers",
    )


def contents(data):
    return {image.numpy().tobytes() for image in data.images}


def test_a_fifth_of_the_training_images_is_held_out_in_two_halves():
    data = noise()
    kept, halves = hold_out(data)
    parts = [contents(part) for part in (kept, halves["choose"], halves["report"])]
    assert [len(part) for part in parts] == [192, 24, 24]
    assert set.union(*parts) == contents(data)
    assert sum(map(len, parts)) == len(data)  # no two share an image
    again, _ = hold_out(data)
    assert torch.equal(again.images, kept.images)
    assert halves["choose"].name != halves["report"].name


def test_copies_stay_together_and_every_class_is_trained_on():
    data = noise(300)
    images = data.images.clone()
    images[150:] = images[:150]
    labels = data.labels.clone()
    labels[labels == 2] = 0
    labels[7] = labels[157] = 2  # a class of one image and its copy
    kept, halves = hold_out(replace(data, images=images, labels=labels))
    parts = [contents(part) for part in (kept, *halves.values())]
    assert not any(parts[i] & parts[j] for i, j in ((0, 1), (0, 2), (1, 2)))
    assert (kept.labels == 2).sum() == 2
    assert min(map(len, halves.values())) >= scaling_search.MIN_IMAGES


def test_too_few_images_are_refused_before_anything_is_trained(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="got 100 training images, of which 10 and 10 can be held out; --scaling auto"):
        hold_out(noise(100))
    few = noise(100)
    monkeypatch.setattr("ropevit.study.runner.load_images", lambda *_: (few, few))
    with pytest.raises(ValueError, match="name methods instead"):
        run_study(StudyConfig(scaling=("auto",), out=tmp_path / "out"), lambda _: None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("panel", PANELS)
def test_counts_of_images_add_up_to_the_score(make_job, panel):
    panel = make_job(panel).panel
    model = ViT(panel.model_config("rope_mixed")).eval()
    with torch.no_grad():
        for mode in ("whole", *panel.baselines):
            counts = panel.counts(model, 12, never, mode)
            assert len(counts) == (12 if panel.name == "zoom" else 3)
            score = panel.score_of(counts.sum(0, keepdim=True).double()).item()
            assert score == pytest.approx(panel.score(model, 12, never, mode), abs=1e-4)


@pytest.fixture
def make_tuned(make_job):
    """Return a function that makes jobs with held-out images."""
    kept, halves = hold_out(noise())

    def make(panel="zoom", embedding="rope_mixed", **options):
        job = make_job(panel=panel, embedding=embedding, scaling=("auto", "pi"), **options)
        panels = tuning_panels(type(job.panel), job.panel.settings, kept, halves)
        return replace(job, tuning=panels)

    return make


@pytest.mark.parametrize("panel", by_default(["zoom"], PANELS))
def test_every_size_above_the_training_size_has_a_choice(make_tuned, panel):
    seen = []
    job = make_tuned(panel, report=seen.append)
    result = train(job)
    assert list(result["tuned"]) == ["12"]
    choice = result["tuned"]["12"]
    assert choice["baseline"] == "none"
    assert choice["scaling"] == (choice["chosen"] if choice["low"] > 0 else "none")
    assert list(result["scaled"]) == ["auto", "pi"]
    for size in [size for size in result["scores"] if size != "12"]:
        assert result["scaled"]["auto"][size] == result["scores"][size]
    assert 18 < max(event.done for event in seen if isinstance(event, Tuning)) <= 29
    kept, _ = load_model(job.folder / "model.safetensors")
    assert kept.config.scaling is None
    assert read_result(job.folder / "result.json", job.run) == result


def prefer(monkeypatch, panels, best, elsewhere="none"):
    """Make one method right on all held-out images of the choice, and one on those of the report."""
    for half, name in (("choose", best), ("report", elsewhere)):

        def counts(model, size, check, mode="whole", name=name):
            del size, mode
            check()
            right = (model.config.scaling or "none") == name
            return torch.tensor([[int(right), 1]] * 100)

        monkeypatch.setattr(panels[half], "counts", counts)


def test_what_was_chosen_is_used_on_the_test_images(make_tuned, monkeypatch):
    job = make_tuned()
    prefer(monkeypatch, job.tuning, "ntk+log", "ntk+log")
    worth = {None: 10.0, "pi": 20.0, "ntk+log": 30.0}
    monkeypatch.setattr(job.panel, "score", lambda model, *_: worth[model.config.scaling])
    result = train(job)
    assert result["tuned"]["12"] | {"scaling": "ntk+log", "gain": 100} == result["tuned"]["12"]
    assert result["scaled"] == {
        "auto": {"4": 10, "8": 10, "12": 30},
        "pi": {"4": 20, "8": 10, "12": 20},
    }


def test_a_model_keeps_its_own_scaling_and_halves_differ(make_tuned, monkeypatch):
    job = make_tuned()
    chosen, reported = job.tuning["choose"], job.tuning["report"]
    assert not contents(chosen.test) & contents(reported.test)
    assert not contents(chosen.train) & (contents(chosen.test) | contents(reported.test))
    model = ViT(replace(job.panel.model_config("rope_mixed"), scaling="ntk"))
    prefer(monkeypatch, job.tuning, "pi", "pi")
    assert tune(model, job.tuning, 12, never, never).recommended == "pi"
    assert model.config.scaling == "ntk"


def test_without_a_gain_on_the_other_half_the_model_is_left_as_it_is(make_tuned, monkeypatch):
    job = make_tuned()
    prefer(monkeypatch, job.tuning, "ntk+log")
    result = train(job)
    assert result["tuned"]["12"] | {"scaling": "none", "chosen": "ntk+log", "gain": -100} == result["tuned"]["12"]
    assert result["scaled"]["auto"] == result["scores"]


def test_test_images_have_no_part_in_the_choice(make_tuned, monkeypatch):
    job, sizes = make_tuned(), []
    monkeypatch.setattr(job.panel, "counts", lambda *_: pytest.fail("the test images were counted"))

    def score(model, size, check, mode="whole"):
        sizes.append((size, mode, model.config.scaling))
        del check
        return 0.0

    monkeypatch.setattr(job.panel, "score", score)
    train(job)
    assert len(sizes) <= 3 + 2 + 1 + 1  # plain, pi, auto, resized


def test_models_without_rope_are_skipped(make_tuned):
    result = train(make_tuned(embedding="ape"))
    assert "tuned" not in result
    assert result["scaled"] == {}


def test_a_choice_is_kept_when_other_sizes_are_added(make_tuned, monkeypatch):
    job = make_tuned(folder=None)
    first = train(job)
    more = make_tuned(settings={"test_sizes": (4, 8, 12, 16)}, folder=job.folder)
    prefer(monkeypatch, more.tuning, "ntk", "ntk")
    second = train(more)
    assert second["tuned"]["12"] == first["tuned"]["12"]
    assert second["tuned"]["16"]["scaling"] == "ntk"


def test_choices_are_named_by_size_and_seed():
    def runs(*tables):
        return [{"tuned": {size: {"scaling": name} for size, name in table.items()}} for table in tables]

    assert describe_choices(runs({"64": "pi", "96": "pi"}, {"64": "pi", "96": "pi"})) == "pi"
    assert describe_choices(runs({"64": "pi", "96": "ntk"}, {"64": "pi", "96": "log"})) == "64 px pi, 96 px log or ntk"
    assert describe_choices([{}]) is None


def test_the_curve_is_named_by_what_was_chosen(make_tuned, monkeypatch):
    job = make_tuned()
    prefer(monkeypatch, job.tuning, "ntk+log", "ntk+log")
    (panel,) = panel_results([train(job), train(make_tuned(embedding="ape"))])
    labels = [curve.label for curve in panel.curves]
    assert labels == ["RoPE-Mixed", "RoPE-Mixed, auto (ntk+log)", "RoPE-Mixed, pi", "absolute (APE)"]
    assert score_table(panel).columns[2].header == "RoPE-Mixed, auto (ntk+log)"


def test_the_report_tells_how_methods_were_chosen():
    data = {"train_images": 1, "test_images": 1, "classes": ["a"]}
    told = " ".join(describe_method(StudyConfig(scaling=("auto",)), {"data": data}))
    assert "a fifth of the training images was held out" in told
    assert "also evaluated with" not in told
    told = " ".join(describe_method(StudyConfig(scaling=("auto", "pi")), {"data": data}))
    assert "also evaluated with pi." in told


def test_auto_is_named_once_and_cannot_be_added_to_a_study(tmp_path):
    with pytest.raises(ValueError, match="got scaling methods auto, auto; name each once"):
        StudyConfig(scaling=("auto", "auto"))
    path = tmp_path / "config.json"
    path.write_text(json.dumps(StudyConfig(scaling=("pi",)).to_dict()))
    with pytest.raises(ValueError, match=r"other options \(scaling\): scaling was \['pi'\], now \['pi', 'auto'\]"):
        refuse_other_study(StudyConfig(scaling=("pi", "auto")), path)
    refuse_other_study(StudyConfig(scaling=("pi", "ntk")), path)


def test_a_study_chooses_and_goes_on(tmp_path, monkeypatch):
    data, test = noise(), noise(30, seed=1)
    monkeypatch.setattr("ropevit.study.runner.load_images", lambda *_: (data, test))
    options = {"panels": ("zoom",), "embeddings": ("rope_mixed",), "workers": 1, "out": tmp_path / "out"}
    options |= {"width": 16, "depth": 1, "heads": 2, "steps": 2, "batch_size": 4, "train_size": 8}
    config = StudyConfig(scaling=("auto",), test_sizes=(8, 16), **options)
    results = run_study(config, lambda _: None)
    (run,) = results["runs"]
    assert list(run["tuned"]) == ["16"]
    assert stored_result(config, config.runs()[0]) == run
    more = replace(config, test_sizes=(8, 12, 16), resume=True)
    assert stored_result(more, config.runs()[0]) is None
    (run,) = run_study(more, lambda _: None)["runs"]
    assert list(run["tuned"]) == ["12", "16"]
