"""The tests of `benchmarks/evidence.py`: planned arms, corrected differences, and what a hostile reader would try."""

from functools import cache
from typing import NamedTuple

import evidence
import evidence_figure
import evidence_report as report
import numpy as np
import pytest
import torch


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
    return {text.split()[0]: "holds" in text for text in report.tests(found) if text.startswith("H")}


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
    some = lines()[:-1]
    (text,) = report.tests(some)
    assert text.startswith("The tests are open: 1 of the arms")
    assert "transposed" in text


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
    noise = list(report.noise([*found, *again]))
    assert noise[0] == "field at 1x, bfloat16: 2.00 points on average, at most 2.00"
    assert len(noise) == 12


@pytest.fixture(scope="module", autouse=True)
def few_drawings():
    """Train on a tenth of the drawings: what the panels prepare of all of them takes seconds a seed."""
    every = cache(evidence.load_emoji)
    tenth = {"train": slice(None, None, 10), "test": slice(None)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evidence, "load_emoji", lambda split, groups: every(split, groups=groups).subset(tenth[split]))
        yield


def test_every_seed_has_test_images_of_its_own_and_all_arms_of_a_seed_the_same():
    first, second, again = (evidence.panels(seed) for seed in (300, 301, 300))
    assert first["field"].test_name == again["field"].test_name == "emoji/test/300"
    assert not torch.equal(first["zoom"].test.labels, second["zoom"].test.labels)
    canvases = [next(panels["far"].canvases(48))[0] for panels in (first, second, again)]
    assert not torch.equal(canvases[0], canvases[1])
    assert torch.equal(canvases[0], canvases[2])


def test_transposed_canvases_are_those_of_field_transposed():
    panels = evidence.panels(300)
    for whole, transposed in zip(panels["field"].batch(300, 0), panels["transposed"].batch(300, 0), strict=True):
        assert torch.equal(whole.mT, transposed)


def test_the_figure_draws_every_line_that_has_scores():
    scores = report.gather(lines())
    found = evidence_figure.draw(scores)
    wanted = [line.label for line in evidence_figure.LINES if line.mode not in ("tiles", "resize")]  # not made up above
    for panel, axes in zip(evidence_figure.TITLES, found.axes, strict=True):
        drawn = {line.get_label(): line.get_ydata() for line in axes.get_lines()[1:]}
        assert list(drawn) == wanted
        heights = drawn["RoPE-Mixed, parts+log"]
        curve = scores[report.Curve(panel, "rope_mixed", evidence_figure.PARTS_LOG)]
        assert heights[1:] == pytest.approx([np.mean(list(curve[size].values())) for size in evidence.SIZES[panel][1:]])
