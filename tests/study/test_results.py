import json

import pytest

from ropevit.drawing import save_figure
from ropevit.models.positions import position_label
from ropevit.study.figure import draw_curves
from ropevit.study.results import (
    format_score,
    make_curve,
    overall_summary,
    panel_results,
    panel_summary,
    paper_order_summary,
    read_results,
)


def runs(scores: dict[str, list[list[float]]], sizes=(32, 64, 96), panel="field") -> list[dict]:
    """Results of a study: embedding -> one row of scores a seed."""
    return [
        {
            "panel": panel,
            "embedding": embedding,
            "seed": seed,
            "metric": "mean IoU (%)",
            "train_size": 32,
            "scores": dict(zip(map(str, sizes), row, strict=True)),
            "parameters": 1000,
            "step_ms": 10.0 + seed,
        }
        for embedding, rows in scores.items()
        for seed, row in enumerate(rows)
    ]


APART = {
    "ape": [[30, 20, 10], [31, 21, 11], [32, 22, 12]],
    "rope_axial": [[40, 35, 20], [41, 36, 21], [42, 37, 22]],
    "rope_mixed": [[41, 40, 38], [43, 41, 39], [42, 42, 40]],
}


def test_mean_and_spread_over_seeds():
    curve = make_curve(runs(APART)[:3])
    assert curve.mean.tolist() == [31, 21, 11]
    assert curve.spread.tolist() == [1, 1, 1]
    assert format_score(curve, 32) == "31.0 ± 1.0"
    assert format_score(make_curve(runs(APART)[:1]), 32) == "30.0"
    assert curve.step_ms == 11


def test_a_lead_needs_every_seed_above_every_seed():
    (result,) = panel_results(runs(APART))
    ape, axial, mixed = result.curves
    assert mixed.leads(ape, 32)
    assert not mixed.leads(axial, 32)
    assert mixed.leads(axial, 96)


def test_the_conclusion_claims_a_lead_only_where_seeds_do_not_mix():
    (result,) = panel_results(runs(APART))
    sentence = panel_summary(result)
    at_training, at_largest = sentence.split("; ")
    assert "RoPE-Mixed has the highest mean, 42.0 ± 1.0, every seed above every seed of absolute (APE)" in at_training
    assert "but not apart from RoPE-Axial (41.0 ± 1.0)" in at_training
    assert "at 3x the training size (96 px) RoPE-Mixed" in at_largest
    assert "every seed of RoPE-Axial (21.0 ± 1.0) and absolute (APE) (11.0 ± 1.0)" in at_largest
    assert "chance" not in sentence


@pytest.mark.parametrize("count", [1, 2])
def test_with_few_seeds_the_conclusion_warns_and_claims_no_lead(count):
    (result,) = panel_results(runs({name: rows[:count] for name, rows in APART.items()}))
    sentence = panel_summary(result)
    assert f"with {count} seed" in sentence
    assert "--seeds 3" in sentence
    assert "every seed" not in sentence


def test_a_tie_is_called_a_tie():
    (result,) = panel_results(runs({"ape": [[50, 60, 40]], "rope_mixed": [[50.04, 60, 39]]}))
    sentence = panel_summary(result)
    assert "at the training size (32 px) RoPE-Mixed (50.0) and absolute (APE) (50.0) are level at the top" in sentence
    assert "absolute (APE) has the highest score, 40.0 (next: RoPE-Mixed, 39.0)" in sentence
    (result,) = panel_results(runs({"ape": [[50, 60, 40]] * 3, "rope_mixed": [[50, 60, 40]] * 3}))
    assert "does not show" in paper_order_summary(result)


def test_the_verdict_counts_and_is_sure_only_with_enough_seeds():
    panels = panel_results(runs(APART) + runs(APART, panel="zoom"))
    assert overall_summary(panels) == (
        "In short: at the training size and above, RoPE-Mixed has the highest mean in 6 of 6 measurements, in 4 of "
        "them with every seed above every seed of all others."
    )
    one = panel_results(runs({"ape": [[50, 60, 40]], "rope_mixed": [[10, 70, 41]]}, sizes=(16, 32, 64)))
    assert overall_summary(one) == (
        "In short: at the training size and above, RoPE-Mixed has the highest score in 2 of 2 measurements; below it, "
        "absolute (APE) has the highest score in 1 of 1 measurements; with 1 seed that is a hint and no proof."
    )


def test_the_verdict_names_all_where_none_is_ahead():
    shared = {"ape": [[50, 60, 40]] * 3, "rope_mixed": [[60, 50, 40.5], [60, 50, 40], [60, 50, 40]]}
    assert "in 2 of 3 measurements, in 1 of them with every seed" in overall_summary(panel_results(runs(shared)))
    even = panel_results(runs({"ape": [[50, 60]], "rope_mixed": [[60, 50]]}, sizes=(32, 64)))
    assert "RoPE-Mixed and absolute (APE) have the highest score in 1 of 2 measurements each" in overall_summary(even)
    mixed = {"ape": [[50, 1], [70, 1], [50, 1]], "rope_mixed": [[60, 2], [60, 2], [60, 0]]}
    unsure = panel_results(runs(mixed, sizes=(32, 64)))
    assert "RoPE-Mixed has the highest mean in 2 of 2 measurements, in none of them with every seed" in overall_summary(
        unsure
    )


def test_one_embedding_gives_nothing_to_compare():
    (result,) = panel_results(runs({"ape": APART["ape"]}))
    assert "nothing to compare" in panel_summary(result)


def test_the_papers_order_is_reported_where_it_shows_and_where_it_does_not():
    (result,) = panel_results(runs(APART))
    assert "shows in the means at every size" in paper_order_summary(result)
    (result,) = panel_results(runs(APART | {"ape": [[0, 99, 99]] * 3}))
    assert "does not show at any size" in paper_order_summary(result)
    (result,) = panel_results(runs(APART | {"ape": [[0, 0, 99]] * 3}))
    assert "shows in the means at 64 px only" in paper_order_summary(result)
    (result,) = panel_results(runs({"none": [[1, 2, 3]], "ape": [[1, 2, 3]]}))
    assert paper_order_summary(result) == ""


@pytest.mark.parametrize("count", [1, 2])
def test_nothing_is_said_of_the_papers_order_with_seeds_too_few_to_show_it(count):
    (result,) = panel_results(runs({name: rows[:count] for name, rows in APART.items()}))
    assert paper_order_summary(result) == ""


def test_an_unfinished_study_compares_only_common_seeds():
    part = [run for run in runs(APART) if run["embedding"] != "rope_mixed" or run["seed"] == 1]
    (result,) = panel_results(part)
    assert result.seeds == (1,)
    assert [curve.scores for curve in result.curves] == [((31, 21, 11),), ((41, 36, 21),), ((43, 41, 39),)]
    assert (
        panel_results([run for run in part if (run["embedding"], run["seed"]) in (("ape", 0), ("rope_mixed", 1))]) == []
    )


def test_results_that_are_missing_or_broken_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no results.json in .*; expected the directory of a study"):
        read_results(tmp_path)
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(ValueError, match=r"is not readable JSON .*; delete it, and --resume writes it again"):
        read_results(tmp_path)
    (tmp_path / "results.json").write_text(json.dumps({"runs": []}))
    with pytest.raises(ValueError, match="lacks complete, config, environment"):
        read_results(tmp_path)


@pytest.mark.usefixtures("rendered")
def test_the_figure_holds_every_curve_and_is_the_same_every_time(tmp_path):
    results = panel_results(runs(APART) + runs(APART, panel="zoom"))
    first, second = (save_figure(draw_curves(results), tmp_path / name) for name in ("one", "two"))
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes()
    drawn = draw_curves(results)
    assert [axes.get_xlabel() for axes in drawn.axes] == ["test size (pixels)"] * 2
    for axes in drawn.axes:
        heights = {tuple(line.get_ydata()) for line in axes.lines if len(line.get_ydata()) == 3}
        assert heights == {(31, 21, 11), (41, 36, 21), (42, 41, 39)}
    svg = first[1].read_text()
    assert "RoPE-Mixed" in svg
    with pytest.raises(ValueError, match="no panel with results"):
        draw_curves([])


def test_a_model_without_a_position_embedding_is_drawn_dashed():
    names = list(APART)
    (result,) = panel_results(runs({"none": APART[names[0]], **{name: APART[name] for name in names[1:]}}))
    (axes,) = draw_curves([result]).axes
    styles = {line.get_label(): line.get_linestyle() for line in axes.lines if line.get_marker() not in ("", "None")}
    assert styles == {position_label(name): "--" if name == "none" else "-" for name in ("none", *names[1:])}
