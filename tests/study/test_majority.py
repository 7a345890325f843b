"""The majority-class baseline of each panel, what counts above it, and the baseline of resizing or tiling."""

import pytest
import torch

from ropevit.data.canvas import CanvasSettings
from ropevit.models.vit import ViT
from ropevit.study.conclusions import NO_CONCLUSION, conclusions
from ropevit.study.config import StudyConfig
from ropevit.study.cost import quartiles, summarize_times
from ropevit.study.figure import draw_curves
from ropevit.study.majority import MajorityBaseline, compute_majority_baselines, read_majority_baseline
from ropevit.study.panels import predict_tiles
from ropevit.study.report import score_table
from ropevit.study.results import overall_summary, panel_results
from ropevit.study.train import train

DATA = {"test_images": 300, "classes": ["a", "b"]}


def never():
    """Go on."""


def says(model, panel, label):
    """Make a model say one thing of everything."""
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.zero_()
        outputs = model.head.bias.numel() // len(panel.labels)
        model.head.bias.unflatten(0, (len(panel.labels), outputs))[label] = 1
    return model.eval()


@pytest.mark.parametrize("name", ["field", "zoom"])
@pytest.mark.parametrize("size", [4, 8, 12])
def test_the_majority_class_is_what_a_model_that_learned_nothing_scores(make_job, name, size):
    panel = make_job(name, settings={"test_canvases": 7}).panel
    with torch.no_grad():
        scores = [
            panel.score(says(ViT(panel.model_config("none")), panel, label), size, never)
            for label in range(len(panel.labels))
        ]
    guess = panel.majority_score(size)
    assert guess.score == pytest.approx(scores[0] if name == "field" else max(scores), abs=1e-4)
    assert 0 < guess.error < 50


def test_the_majority_class_of_classes_that_are_not_balanced_is_the_largest_share(make_job):
    panel = make_job("zoom").panel
    panel.test.labels[:9] = 2
    assert panel.majority_score(8).score == pytest.approx(100 * 10 / 12)


def test_by_hand_a_tile_is_labeled_for_itself_and_the_last_one_wins():
    images = torch.arange(2 * 36.0).unflatten(0, (2, 1, 6, 6))
    corners = predict_tiles(images, 4, lambda tiles: tiles[:, 0, :1, :1].expand(-1, 4, 4).long())
    rows = [[0, 0, 2, 2, 2, 2]] * 2 + [[12, 12, 14, 14, 14, 14]] * 4
    assert corners.tolist() == [rows, (torch.tensor(rows) + 36).tolist()]
    whole = predict_tiles(images, 6, lambda tiles: tiles[:, 0].long())
    assert torch.equal(whole, images[:, 0].long())


@pytest.mark.parametrize(
    ("name", "mode"), [("field", "tiles"), ("field", "resize"), ("zoom", "resize"), ("far", "tiles")]
)
def test_the_baseline_never_shows_a_model_more_than_its_training_size(make_job, name, mode):
    sizes = {"train_size": 20, "test_sizes": (20, 32), "canvas": CanvasSettings(item_size=6)}
    panel = make_job(name, settings=sizes).panel
    model, seen = ViT(panel.model_config("ape")).eval(), set()
    model.register_forward_pre_hook(lambda _, inputs: seen.add(tuple(inputs[0].shape[2:])))
    embed = model.patch_embed.register_forward_pre_hook(lambda _, inputs: seen.add(tuple(inputs[0].shape[2:])))
    with torch.no_grad():
        assert 0 <= panel.score(model, 32, never, mode) <= 100
        assert seen == {(20, 20)}
        embed.remove()
        assert panel.score(model, 20, never, mode) == panel.score(model, 20, never)
    assert mode in panel.baselines


def run(embedding, scores, seed=0, **more):
    return {
        "panel": "field", "embedding": embedding, "seed": seed, "metric": "mean IoU (%)", "train_size": 32,
        "scores": dict(zip(("32", "64", "96"), scores, strict=True)), "parameters": 7, "step_ms": 1.0, **more,
    }  # fmt: skip


STORED = {"field": {"name": "everything background", "scores": {"32": 13.0, "64": 13.0, "96": 14.0}, "errors": {
    "32": 0.1, "64": 0.1, "96": 8.0}}}  # fmt: skip


def test_the_bar_is_two_errors_and_a_tenth_of_the_way_to_100():
    majority = read_majority_baseline(STORED["field"])
    assert isinstance(majority, MajorityBaseline)
    assert majority.threshold(32) == pytest.approx(13 + 8.7)
    assert majority.threshold(96) == pytest.approx(14 + 16)
    assert majority.threshold(128) == float("-inf")
    assert read_majority_baseline(None) is None


def test_no_conclusion_is_drawn_from_models_at_the_majority_class():
    results = panel_results([run("ape", (15.5, 15.1, 16)), run("rope_mixed", (16.5, 15.9, 17))], STORED)
    told = conclusions(results, DATA)
    assert told[0] == NO_CONCLUSION
    assert "more --steps" in NO_CONCLUSION
    assert "absolute (APE) (15.5) and RoPE-Mixed (16.5) did not learn: not counted" in told[1]
    assert "The majority class, everything background, gives 13.0 at 32 px" in told[1]
    assert len(told) == 2
    table = score_table(results[0])
    assert not any(cell["best"] for row in table["rows"] for cell in row["cells"])
    assert all(cell["text"].endswith("°") for row in table["rows"] for cell in row["cells"])
    assert table["lines"][-1]["label"] == "majority class: everything background"
    assert table["lines"][-1]["cells"] == ["13.0", "13.0", "14.0"]
    assert conclusions(panel_results([run("ape", (15, 15, 16)), run("none", (16, 15, 17))]), DATA)[0] != NO_CONCLUSION


def test_a_model_that_did_not_learn_and_a_size_at_the_majority_class_are_left_out():
    runs = [run("ape", (15, 14, 15)), run("rope_axial", (40, 30, 16)), run("rope_mixed", (42, 25, 29))]
    told = " ".join(conclusions(panel_results(runs, STORED), DATA))
    assert "RoPE-Mixed and RoPE-Axial have the highest score in 1 of 2 measurements each" in told
    assert "field: absolute (APE) (15.0) did not learn: not counted" in told
    assert "at 96 px no score is above the majority-class baseline: not counted" in told
    assert "at 2x the training size (64 px) RoPE-Axial has the highest score, 30.0 (next: RoPE-Mixed, 25.0)" in told
    assert "APE" not in told.replace("absolute (APE) (15.0) did not learn", "")
    (result,) = panel_results([runs[0], runs[2]], STORED)
    told = " ".join(conclusions([result], DATA))
    assert "In short" not in told
    assert "only RoPE-Mixed has scores that count, so there is nothing to compare" in told


def test_a_curve_that_falls_to_the_majority_class_is_compared_where_another_does_not():
    (result,) = panel_results([run("ape", (40, 20, 15)), run("rope_mixed", (41, 40, 35))], STORED)
    assert "RoPE-Mixed has the highest score in 3 of 3 measurements" in overall_summary([result])
    assert not result.at_majority(result.curves[0], 32)
    assert result.at_majority(result.curves[0], 64)


def test_embeddings_that_are_level_are_all_named():
    (result,) = panel_results([run(name, (50, 50, 50)) for name in ("ape", "rope_axial", "rope_mixed")])
    assert (
        "absolute (APE), RoPE-Axial and RoPE-Mixed have the highest score in 3 of 3 measurements each"
        in overall_summary([result])
    )


def test_the_baseline_of_the_best_embedding_is_a_line_and_a_sentence():
    tiles = {"64": 42.0, "96": 41.0}
    runs = [run("ape", (40, 30, 20), baseline={"64": 1.0, "96": 1.0}), run("rope_mixed", (42, 43, 35), baseline=tiles)]
    (result,) = panel_results(runs, STORED)
    assert result.baselines[0].label == "RoPE-Mixed, in tiles of 32 px"
    told = " ".join(conclusions([result], DATA))
    assert "baseline at 96 px, RoPE-Mixed, in tiles of 32 px, scores 41.0, more than the best" in told
    assert score_table(result)["lines"][0]["cells"] == ["", "42.0", "41.0"]
    figure = draw_curves([result])
    (axes,) = figure.axes
    drawn = {tuple(line.get_ydata()) for line in axes.lines if line.is_dashed()}
    assert {(13, 13, 14), (42, 42, 41)} <= drawn
    legend = axes.get_legend()
    majority = "majority class (a model that learned nothing): everything background"
    assert [text.get_text() for text in legend.get_texts()] == [majority, "RoPE-Mixed, in tiles of 32 px"]
    figure.draw_without_rendering()
    assert legend.get_window_extent().y1 < axes.xaxis.label.get_window_extent().y0, "no label covers a curve"
    assert axes.get_ylim()[0] == 0
    del runs[1]["baseline"]
    assert panel_results(runs, STORED)[0].baselines == ()


def test_few_test_images_are_named_with_the_majority_class_of_the_panel_not_with_the_number_of_classes():
    emoji = {"test_images": 182, "classes": [*map(str, range(182))], "name": "emoji"}
    guess = {"zoom": {"name": "always the most frequent class", **{k: {"32": 30.5} for k in ("scores", "errors")}}}
    runs = [run(name, (50, 50, 50)) | {"panel": "zoom"} for name in ("ape", "rope_mixed")]
    told = conclusions(panel_results(runs, guess), emoji)[1]
    assert told == (
        "zoom: with 182 test images one image is 0.5 points, and a model that learned nothing has 30.5 % (always the "
        "most frequent class); differences of a few points are not meaningful."
    )
    told = conclusions(panel_results(runs), emoji | {"name": "photos"})[1]
    assert told.endswith("one image is 0.5 points; differences of a few points are not meaningful: use more images.")
    assert not any("one image is" in line for line in conclusions(panel_results(runs, guess), DATA))


def test_a_run_evaluates_the_baseline_above_its_training_size_once(make_job, monkeypatch):
    job = make_job()
    result = train(job)
    assert {mode: list(scores) for mode, scores in result["baselines"].items()} == {"resize": ["12"]}
    monkeypatch.setattr(job.panel, "score", lambda *_: pytest.fail("it is known"))
    assert train(job)["baselines"] == result["baselines"]


def test_majority_baselines_are_measured_for_each_panel_and_size(images):
    sizes = {"patch_size": 4, "train_size": 8, "test_sizes": (8, 12), "width": 16, "heads": 2}
    levels = compute_majority_baselines(StudyConfig(**sizes), images)
    assert set(levels) == {"field", "zoom"}
    assert all(list(majority["scores"]) == ["8", "12"] for majority in levels.values())
    assert levels["zoom"]["scores"]["8"] == pytest.approx(100 / 3, abs=1e-3)


def test_times_are_compared_within_a_round():
    found = summarize_times({"ape": [10.0, 20.0, 30.0], "rope_mixed": [11.0, 22.0, 36.0]})
    assert found["ratio"]["ape"] == [1, 1, 1]
    assert found["ratio"]["rope_mixed"] == [1.1, 1.1, 1.15]
    assert found["ms"]["rope_mixed"][1] == 22
    assert (found["rounds"], quartiles([1, 2, 3, 4, 5])) == (3, [2, 3, 4])
    (result,) = panel_results([run("ape", (40, 30, 20)), run("rope_mixed", (42, 43, 35))])
    table = score_table(result, found)
    assert [row["ratio"] for row in table["costs"]] == ["1.00 (1.00 to 1.00)", "1.10 (1.10 to 1.15)"]
    assert not score_table(result)["timed"], "times from trainings that shared the machine are not shown"
