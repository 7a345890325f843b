"""The tests of `benchmarks/evidence.py`: planned arms, corrected differences, and what a hostile reader would try."""

from functools import cache
from typing import NamedTuple

import evidence
import evidence_drawings as drawings
import evidence_familywise as familywise
import evidence_figure
import evidence_report as report
import numpy as np
import pytest
import torch

from ropevit.study.panels import FarPanel


class Cell(NamedTuple):
    panel: str
    arm: str
    mode: str
    size: int


def lines(change=lambda _: 0.0, arms=evidence.CORE, noise=1.0):
    """Results of every training of the plan, with made-up scores around 40."""
    random, found = np.random.default_rng(0), []
    for name, arm, seed, rerun in evidence.plan(arms, list(evidence.SIZES), rerun=False):
        common = {size: 40 + random.normal() for size in evidence.SIZES[name]}
        modes = ("whole", *evidence.SCALING[name]) if str(arm) in evidence.ROTATIONS else ("whole",)
        scores = {
            mode: {
                str(size): common[size] + noise * random.normal() + change(Cell(name, str(arm), mode, size))
                for size in evidence.SIZES[name]
            }
            for mode in modes
        }
        found.append(evidence.key(name, arm, seed, rerun) | {"scores": scores})
    return found


def verdicts(found):
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in report.test_table(found)[2:]]
    return {name: verdict == "holds" for name, verdict, *_ in rows if name}


@pytest.fixture
def three_seeds(monkeypatch):
    monkeypatch.setattr(report, "SEEDS", (1, 2, 3))


def test_equal_arms_hold_no_hypothesis():
    assert verdicts(lines()) == dict.fromkeys(("H1", "H2", "H3", "H4"), False)


@pytest.mark.parametrize(
    ("name", "better"),
    [
        ("H1", lambda at: 9.0 * (at.arm == "rope_mixed" and at.panel == "field" and at.mode == "whole")),
        ("H2", lambda at: 9.0 * (at.arm == "alibi_learned")),
        ("H3", lambda at: 9.0 * at.arm.endswith("sizes")),
        ("H4", lambda at: 9.0 * ("spiral" in at.arm)),
    ],
)
def test_a_large_planted_effect_holds(name, better):
    assert verdicts(lines(better))[name]


@pytest.mark.parametrize(
    ("name", "better"),
    [
        # at one of two sizes alone, in one of two panels alone, on upright canvases alone
        ("H1", lambda at: 9.0 * (at.arm == "rope_mixed" and at.size == 64)),
        ("H2", lambda at: 9.0 * (at.arm == "alibi_learned" and at.panel == "far")),
        ("H3", lambda at: 9.0 * (at.arm.endswith("sizes") and at.panel != "zoom")),
        ("H4", lambda at: 9.0 * (at.arm == "rope_spiral")),
        # a scaling method reaches the rival
        ("H2", lambda at: 9.0 * (at.arm == "alibi_learned" or at.mode == "log")),
    ],
)
def test_half_of_a_hypothesis_does_not_hold(name, better):
    assert not verdicts(lines(better))[name]


def test_holm_compares_the_smallest_p_with_the_strictest_threshold():
    assert report.holm({"a": 0.012, "b": 0.02, "c": 0.9, "d": 0.013}) == {"a": True, "d": True, "b": True, "c": False}
    assert report.holm({"a": 0.013, "b": 0.001, "c": 0.04, "d": 0.03}) == {"b": True, "a": True, "d": False, "c": False}


def test_a_difference_by_hand_is_corrected_for_its_candidates():
    curve = report.Curve("field", "rope_mixed")
    part = report.Difference(curve, curve, 64, (1.0, 2.0, 3.0), candidates=3)
    mean, half = report.interval(part.values)
    assert (mean, half) == pytest.approx((2.0, 4.303 / 3**0.5), abs=1e-3)
    assert part.p == pytest.approx(3 * 0.0742, abs=1e-3)
    assert report.Difference(curve, curve, 64, (-1.0, -2.0, -3.0)).p == 1
    low, high = report.bootstrap(part.values)
    assert 1 <= low < 2 < high <= 3


def test_tests_are_open_while_a_training_is_missing():
    *_, row = report.test_table(lines()[:-1])
    assert row.startswith(
        "| all | open | 1 of the arms that the tests need lack seeds, such as field rope_spiral trans"
    )


def test_the_tests_need_no_other_arms_than_those_that_run_first():
    every = lines()
    needed = [line for line in every if line["arm"] in evidence.TESTED[line["panel"]]]
    assert len(needed) == 21 * 8 < len(every)
    assert report.test_table(needed) == report.test_table(every)


def test_the_plan_goes_seed_by_seed_and_repeats_nothing():
    trainings = list(evidence.plan(evidence.GROUPS["all"], list(evidence.SIZES), rerun=False))
    seeds = [seed for _, _, seed, _ in trainings]
    assert seeds == sorted(seeds)
    assert set(seeds) == set(range(300, 308))
    assert len({(name, str(arm), seed) for name, arm, seed, _ in trainings}) == len(trainings)
    folders = [evidence.folder(*training) for training in trainings]
    assert len(set(folders)) == len(folders)


def test_a_rerun_takes_no_part_in_the_tests_and_its_noise_is_printed():
    found = lines(noise=0)
    again = [{**line, "rerun": "bfloat16"} for line in found if line["arm"] == "rope_axial" and line["seed"] == 300]
    for line in again:
        line["scores"] = {"whole": {size: score + 2 for size, score in line["scores"]["whole"].items()}}
    assert report.gather([*found, *again]) == report.gather(found)
    _, _, *rows = report.noise_table([*found, *again])
    assert rows[0] == "| `field`, bfloat16 | 2.0, 2.0 | 2.0, 2.0 | 2.0, 2.0 | 2.0, 2.0 |"
    assert len(rows) == 3


def test_reruns_are_told_apart_by_processor():
    first = [{**line, "environment": {"device": "cpu: one"}} for line in lines(noise=0)[:3]]
    again = [
        {**line, "rerun": "2 threads", "environment": {"device": device}}
        | {"scores": {"whole": {size: score + up for size, score in line["scores"]["whole"].items()}}}
        for line, device, up in zip(first, ("cpu: one", "cpu: two", "cpu: two"), (0.0, 0.1, -0.25), strict=True)
    ]
    assert report.processor_table([*first, *again])[2:] == [
        "| on the same kind of processor | 1 | 0.000 |",
        "| on a processor of another maker | 2 | 0.250 |",
    ]


def made_up():
    """Scores of two arms in three seeds."""
    return [
        evidence.key("field", arm, seed, "")
        | {"scores": {"whole": {"32": 40.0, "64": 30.0 + up * seed}, "tiles": {"64": 30.0 + up * seed / 2}}}
        for seed in (1, 2, 3)
        for arm, up in ((evidence.Arm("rope_mixed"), 0), (evidence.Arm("ape"), 1))
    ]


@pytest.mark.usefixtures("three_seeds")
def test_tables_of_differences_by_hand():
    """One arm is 1, 2 and 3 points above the other's tiles at 64 px, and half of that above its own, in three seeds."""
    scores = report.gather(made_up())
    mean, half = report.interval((1.0, 2.0, 3.0))
    assert half > mean  # not bold
    assert f"| `ape` |  | {mean:+.1f} ± {half:.1f} |  |  |" in report.difference_table(scores, "field")
    assert f"| `ape` | {mean / 2:+.1f} ± {half / 2:.1f} |  |  |" in report.baseline_table(scores, "field")
    assert f"| `ape` | **{mean - 10:+.1f} ± {half:.1f}** |  |  |" in report.kept_table(scores, "field")


@pytest.mark.usefixtures("three_seeds")
def test_pairs_of_arms_are_compared_once_both_have_every_seed(monkeypatch):
    """The third point up is where the arms differ; at 32 px they are equal, so that cell is empty."""
    monkeypatch.setattr(report, "PAIRS", (("position", "ape", "rope_mixed"), ("lacking", "ape", "rope_axial")))
    scores = report.gather(made_up())
    half = report.interval((1.0, 2.0, 3.0))[1]
    assert report.pair_table(scores, "field")[2:] == [
        f"| position | `ape` over `rope_mixed` |  | +2.0 ± {half:.1f} |  |  |"
    ]
    moved = report.gather([line | {"panel": "zoom"} for line in made_up()])
    assert report.pair_table(moved, "zoom")[2:] == report.pair_table(scores, "field")[2:]
    assert report.pair_table(moved, "field") == report.pair_table(scores, "far") == []


@pytest.mark.usefixtures("three_seeds")
def test_arms_with_scaling_are_compared_with_themselves_and_with_the_reference():
    """With scaling the arm is 1 point above its own weights and, as above, 1, 2, 3 points above the other's tiles."""
    arm = evidence.SCALED_ARMS[0]
    again = [
        evidence.key("field", arm, seed, evidence.WITH_SCALING)
        | {"scores": {"whole": {"64": 29.0 + 1.5 * seed}, "log": {"64": 30.0 + 1.5 * seed}}}
        for seed in (1, 2, 3)
    ]
    found = [*made_up(), *again]
    for line in found:  # every size is there
        for scores in line["scores"].values():
            scores |= dict.fromkeys(("96", "128"), scores["64"])
    rows = report.scaled_table(found, "field")
    assert rows[0] == "| field: with scaling | 64 | 96 | 128 |"
    half = report.interval((1.5, 3.0, 4.5))[1]
    cell = f"+3.0 ± {half:.1f}"
    assert rows[2:] == [
        "| `rope_mixed_decay`, `log` | 33.0 (1.5) | 33.0 (1.5) | 33.0 (1.5) |",
        "| over itself without scaling | **+1.0 ± 0.0** | **+1.0 ± 0.0** | **+1.0 ± 0.0** |",
        f"| over `rope_mixed`, in tiles | {cell} | {cell} | {cell} |",
    ]
    assert report.scaled_table(found[:-1], "field") == []


def scaled_lines(first, better):
    """Random sizes trained again and evaluated with scaling: the scores of RoPE-Mixed with it, and more."""
    random = np.random.default_rng(1)
    return [
        {**line, "arm": "rope_mixed sizes", "rerun": evidence.WITH_SCALING}
        | {
            "scores": {
                how: {size: found[size] + better(line["panel"], int(size)) + random.normal(0, 0.1) for size in found}
            }
        }
        for line in first
        if line["arm"] == "rope_mixed"
        for how, found in [(evidence.SCALING[line["panel"]][-1], line["scores"][evidence.SCALING[line["panel"]][-1]])]
    ]


def test_options_that_do_not_go_together_are_refused(monkeypatch, capsys):
    for options, message in (
        (["--scaled", "--rerun"], "got --rerun and --scaled; give one of them"),
        (["--scaled", "--arms", "ape"], "got no arm for --scaled; choose from rope_mixed_decay"),
    ):
        monkeypatch.setattr("sys.argv", ["evidence.py", *options])
        with pytest.raises(SystemExit):
            evidence.main()
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("better", "verdict"),
    [
        (lambda *_: 9.0, "holds"),
        (lambda panel, size: 9.0 * (panel == "far" or size != 128), "not shown"),
        (lambda panel, _: 9.0 * (panel == "field"), "not shown"),
    ],
)
def test_the_fifth_hypothesis_needs_both_sizes_of_both_panels(better, verdict):
    first = lines()
    again = scaled_lines(first, better)
    rows = report.fifth_table([*first, *again])[2:]
    assert rows[0].startswith(f"| {verdict} | `field` at 96 px: `rope_mixed sizes`, `parts(slow=0.5,fast=1)+log` over")
    assert len(rows) == 4
    known = [line for line in again if line["seed"] != 300]
    assert report.fifth_table([*first, *known])[2:] == rows  # seed 300 was known and takes no part
    assert report.fifth_table([*first, *known[:-1]]) == []


def test_trainings_with_scaling_take_no_part_in_the_tests_and_evaluate_every_method(first_panels, monkeypatch):
    jobs = []
    monkeypatch.setattr(
        evidence, "train", lambda job: jobs.append(job) or {"scores": {}, "scaled": {}, "baselines": {}}
    )
    name, arm, seed, how = next(evidence.plan_scaled(evidence.SCALED_ARMS, ["far"]))
    line = evidence.do(first_panels[name], name, arm, seed, how)
    evidence.do(first_panels[name], name, arm, seed, "")
    assert [job.scaling for job in jobs] == [evidence.SCALING["far"], ()]
    assert jobs[0].run == jobs[1].run
    assert jobs[0].folder != jobs[1].folder
    assert report.gather([line]) == {}


@pytest.mark.usefixtures("three_seeds")
def test_an_arm_without_every_seed_is_compared_apart():
    scores = report.gather([line for line in made_up() if (line["arm"], line["seed"]) != ("ape", 3)])
    half = report.interval((1.0, 2.0))[1]
    assert not any("ape" in row for row in report.difference_table(scores, "field"))
    assert not any("ape" in row for row in report.score_table(scores, "field"))
    rows = report.difference_table(scores, "field", whole=False)
    assert rows[0].startswith("| field, fewer seeds: over `rope_mixed`, in tiles | seeds | 32 |")
    assert f"| `ape` | 2 |  | +1.5 ± {half:.1f} |  |  |" in rows


def test_a_training_that_is_there_twice_raises():
    with pytest.raises(ValueError, match="got two lines of field rope_mixed seed 1"):
        report.gather([*made_up(), made_up()[0]])


def test_a_part_below_zero_beyond_chance_is_named_reversed():
    worse = lines(lambda at: -9.0 * (at.arm in evidence.BIASES and at.panel == "far"))
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in report.test_table(worse)]
    verdict = {row[2].split()[0]: row[1] for row in rows if "alibi" in row[2] or "decay" in row[2] or "gauss" in row[2]}
    assert "reversed" in verdict["`far`"]
    assert "reversed" not in verdict["`field`"]


def test_no_lead_makes_the_fourth_hypothesis_void():
    rows = report.test_table(lines(lambda at: -9.0 * (at.arm == "rope_spiral")))
    assert any(row.startswith("| H4 | void, reversed |") for row in rows)


def test_a_page_gets_the_new_rows_of_its_tables(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a\n\n| one | x |\n| --- | --- |\n| old | 1 |\n\nb\n\n| two | x |\n")
    report.update(page, [["| one | y |", "| --- | --- |", "| new | 2 |", "| more | 3 |"]])
    assert page.read_text() == ("a\n\n| one | y |\n| --- | --- |\n| new | 2 |\n| more | 3 |\n\nb\n\n| two | x |\n")
    with pytest.raises(ValueError, match=r"page\.md: got no table that begins with \| three \|"):
        report.update(page, [["| three | y |"]])


def test_the_floor_is_that_of_the_test_images_of_a_seed(first_panels, monkeypatch):
    panel = first_panels["far"]
    monkeypatch.setattr(evidence, "SIZES", {"far": (48, 96)})
    line = evidence.floors(panel, "far", 300)
    assert (line["panel"], line["arm"], line["seed"]) == ("far", "floor", 300)
    assert list(line["scores"]["whole"]) == ["48", "96"]
    assert all(20 <= score < 40 for score in line["scores"]["whole"].values())  # the most frequent of five labels


@pytest.fixture(scope="module", autouse=True)
def few_drawings():
    """Train on a tenth of the drawings: what the panels prepare of all of them takes seconds a seed."""
    every = cache(evidence.load_emoji)
    tenth = {"train": slice(None, None, 10), "test": slice(None)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evidence, "load_emoji", lambda split, groups: every(split, groups=groups).subset(tenth[split]))
        yield


@pytest.fixture(scope="module")
def first_panels(few_drawings):  # noqa: ARG001
    """The panels of the first seed, which tests only read."""
    return evidence.panels(300)


@pytest.mark.full  # it renders the drawings of two more seeds
def test_every_seed_has_test_images_of_its_own_and_all_arms_of_a_seed_the_same(first_panels):
    first, second, again = first_panels, *(evidence.panels(seed) for seed in (301, 300))
    assert first["field"].test_name == again["field"].test_name == "emoji/test/300"
    assert not torch.equal(first["zoom"].test.labels, second["zoom"].test.labels)
    canvases = [next(panels["far"].canvases(48))[0] for panels in (first, second, again)]
    kept = first["far"].canvases(48)
    assert torch.equal(next(kept)[0], next(FarPanel.canvases(first["far"], 48))[0])
    assert not torch.equal(canvases[0], canvases[1])
    assert torch.equal(canvases[0], canvases[2])


def test_transposed_canvases_are_those_of_field_transposed(first_panels):
    batches = (first_panels[name].batch(300, 0) for name in ("field", "transposed"))
    for whole, transposed in zip(*batches, strict=True):
        assert torch.equal(whole.mT, transposed)


def test_the_figure_draws_every_line_that_has_every_seed():
    floor = [
        evidence.key(name, evidence.Arm(evidence.FLOOR), seed, "") | {"scores": {"whole": dict.fromkeys(sizes, 20.0)}}
        for name, sizes in evidence.SIZES.items()
        for seed in evidence.SEEDS
    ]
    partial = [line for line in lines() if (line["panel"], line["arm"], line["seed"]) != ("far", "ape", 301)]
    again = scaled_lines(partial, lambda *_: 1.0)
    found = evidence_figure.draw(report.gather_scaled([*partial, *floor, *again]))
    for panel, axes in zip(evidence_figure.TITLES, found.axes, strict=True):
        modes = ("whole", *evidence.SCALING[panel])  # tiles and resizing are not made up above
        wanted = [line.label for line in evidence_figure.LINES if line.mode in modes]
        drawn = [line.get_label() for line in axes.get_lines()[1:]]
        assert drawn == [label for label in wanted if (panel, label) != ("far", "absolute (APE)")]


def test_the_whole_procedure_rarely_finds_what_is_not_there(monkeypatch):
    scores = report.gather(lines())
    assert familywise.rates(scores, rounds=60)["any"] <= 0.05
    monkeypatch.setattr(familywise, "holm", lambda values: {name: p < 0.5 for name, p in values.items()})
    assert familywise.rates(scores, rounds=40)["any"] > 0.5


def test_simulated_scores_keep_what_the_arms_of_a_seed_share():
    shared = dict(zip(evidence.SEEDS, np.random.default_rng(0).normal(size=8).tolist(), strict=True))
    curves = [report.Curve("field", name) for name in evidence.ROTATIONS]
    columns, rest = familywise.residuals({curve: {64: shared} for curve in curves})
    axial, mixed = (
        list(familywise.without_effect(columns, rest, np.random.default_rng(0))[curve][64].values()) for curve in curves
    )
    assert axial == mixed
    assert np.std(axial) > 0.3


def drawing_lines(part, values):
    """Results of samples of drawings in which a difference has these values."""
    return [
        {
            "resample": number,
            "scores": [
                {**curve._asdict(), "size": part.size, "score": score}
                for curve, score in ((part.above, 10.0 + value), (part.below, 10.0))
            ],
        }
        for number, value in enumerate(values)
    ]


def test_an_interval_over_drawings_by_hand():
    curves = report.Curve("field", "rope_mixed"), report.Curve("field", "rope_axial")
    part = report.Difference(*curves, 64, (1.0, 2.0, 3.0))
    samples = drawing_lines(part, (1.0, 3.0))
    assert drawings.spread(part, samples) == pytest.approx(2**0.5)
    assert drawings.both(part, samples) == pytest.approx(4.303 * (1 / 3 + 2) ** 0.5, abs=1e-3)


def test_only_missing_samples_of_drawings_are_evaluated(tmp_path, monkeypatch):
    monkeypatch.setattr(drawings, "RESULTS", tmp_path / "drawings.jsonl")
    monkeypatch.setattr(drawings, "RESAMPLES", range(1000, 1003))
    asked = []
    monkeypatch.setattr(drawings, "score", lambda *which: asked.append(which[-1]) or 1.0)
    monkeypatch.setattr(drawings, "trained", lambda *_: None)
    curves = [(report.Curve("field", "rope_mixed"), 64)]
    drawings.evaluate_missing(curves)
    drawings.evaluate_missing(curves)
    assert asked == [1000, 1001, 1002]
    curves.append((report.Curve("field", "ape"), 64))  # another curve became the best
    drawings.evaluate_missing(curves)
    assert asked[3:] == [1000, 1000, 1001, 1001, 1002, 1002]
    assert len(drawings.whole(evidence.read(drawings.RESULTS), curves)) == 3
    asked = asked[:3] * 2
    assert [line["resample"] for line in evidence.read(drawings.RESULTS)] == asked
