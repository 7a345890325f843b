"""The search for a scaling method: what it finds, what it looks at, and how sure its gain is."""

import pytest
import torch

from ropevit.data.rng import make_generator
from ropevit.rope.scaling import parse_scaling
from ropevit.tasks.evaluation.scaling_search import (
    MIN_IMAGES,
    Candidate,
    accuracy,
    coarse_grid,
    paired_gain,
    search_scaling,
    split_images,
)

NAMES = [each.name for each in coarse_grid()]


def counts_of(right):
    """Return correct and all predictions of images."""
    return torch.stack([right, torch.ones_like(right)], -1)


class Planted:
    """Images of which a method gets a fraction right: the more, the nearer it is to an optimum in each half."""

    def __init__(self, value, count=1000):
        self.value, self.count, self.calls = value, count, []

    def __call__(self, scalings, half):
        self.calls += [(half, name) for name in scalings]
        chances = torch.tensor([self.value(name, half) for name in scalings])
        places = (torch.arange(self.count) + 0.5) / self.count
        return counts_of((places[None] < chances[:, None]).long())


def closeness(best):
    """Return a function that is largest where the options of the method are those of the best one."""

    def value(name, half):
        del half
        power = (
            next((part.power for part in parse_scaling(name, (1, 1)).methods if part.name == "log"), 0.0)
            if (name != "none")
            else 0.0
        )
        parts = [part for part in parse_scaling(name, (1, 1)).methods if part.name == "parts"] if name != "none" else []
        far = abs(power - best.power) + (
            abs(parts[0].slow - best.slow) + abs(parts[0].fast - best.fast) if parts else 2.0
        )
        return 0.9 - 0.1 * far

    return value


@pytest.mark.parametrize(
    "best",
    [
        Candidate(method="parts", slow=0.5, fast=1.0, power=1.0),  # in the grid
        Candidate(method="parts", slow=0.25, fast=1.5, power=0.75),  # between its points, in all three options
        Candidate(method="parts", slow=0.75, fast=3.0, power=1.5),  # outside of it
    ],
)
def test_a_planted_optimum_is_found(best):
    images = Planted(closeness(best))
    found = search_scaling(images, accuracy)
    assert found.chosen == best.name
    assert found.recommended == best.name
    assert len({name for half, name in images.calls if half == "choose"}) == len(found.trials) <= 27
    assert [half for half, _ in images.calls].count("report") == 2
    assert found.gain.low > 0


@pytest.mark.parametrize("name", ["pi", "ntk", "ntk+log", "log"])
def test_methods_without_bounds_in_rotations_are_found(name):
    found = search_scaling(Planted(lambda each, _: 0.8 if each == name else 0.3), accuracy)
    assert found.chosen == name


def test_the_other_half_has_no_say_in_the_choice():
    def value(name, half):
        return {("choose", "pi"): 0.9, ("report", "ntk"): 0.9}.get((half, name), 0.5)

    images = Planted(value)
    found = search_scaling(images, accuracy)
    assert found.chosen == "pi"
    assert [call for call in images.calls if call[0] == "report"] == [("report", "none"), ("report", "pi")]
    assert found.gain.points == 0
    assert found.recommended == "none"


def test_nothing_is_chosen_where_all_are_level():
    images = Planted(lambda *_: 0.5)
    found = search_scaling(images, accuracy)
    assert (found.chosen, found.recommended) == ("none", "none")
    assert (found.gain.low, found.gain.high) == (0, 0)
    assert not found.gain.shown
    own = search_scaling(images, accuracy, baseline="normalize")
    assert (own.chosen, own.trials[0].scaling) == ("normalize", "normalize")


def test_names_are_those_that_scaling_reads():
    assert len(set(NAMES)) == len(NAMES) == 18
    assert NAMES[:3] == ["none", "pi", "ntk"]
    for name in NAMES[1:]:
        parse_scaling(name, (7, 7))
    assert Candidate(method="parts", slow=0.25, fast=1, power=0.75).name == "parts(slow=0.25,fast=1)+log(power=0.75)"


@pytest.mark.parametrize(
    ("count", "gained", "lost"),
    [(30, 0.05, 0.05), pytest.param(100, 0.1, 0.02, marks=pytest.mark.full), (40, 0.2, 0.0)],
)
def test_the_interval_covers_the_true_gain_in_95_of_100_draws(count, gained, lost):
    generator, covered, draws = make_generator("coverage", count), 0, 1000
    for _ in range(draws):
        luck = torch.rand(count, generator=generator)
        before = ((luck >= gained) & (luck < 0.6)).long()
        after = ((luck < gained) | (luck >= gained + lost) & (luck < 0.6)).long()
        gain = paired_gain(counts_of(before), counts_of(after), accuracy)
        covered += gain.low <= 100 * (gained - lost) <= gain.high
    assert covered >= 0.93 * draws


def test_the_interval_of_paired_correctness_is_that_of_bonett_and_price():
    before, after = torch.tensor([1] * 10 + [0] * 20), torch.tensor([1] * 8 + [0] * 2 + [1] * 9 + [0] * 11)
    gain = paired_gain(counts_of(before), counts_of(after), accuracy)
    gained, lost, count = (9 + 1) / 32, (2 + 1) / 32, 32
    error = ((gained + lost - (gained - lost) ** 2) / count) ** 0.5
    expected = 100 * (gained - lost - 1.96 * error), 100 * (gained - lost + 1.96 * error)
    assert (gain.low, gain.high) == pytest.approx(expected)
    assert gain.points == pytest.approx(100 * 7 / 30)


def test_images_that_could_not_be_read_do_not_count():
    before, after = torch.tensor([1, 0] * 20), torch.tensor([1, 1] * 20)
    gain = paired_gain(counts_of(before), counts_of(after), accuracy)
    empty = torch.zeros(7, 2, dtype=torch.long)
    same = paired_gain(torch.cat([counts_of(before), empty]), torch.cat([counts_of(after), empty]), accuracy)
    assert (same.low, same.high, same.points) == pytest.approx((gain.low, gain.high, gain.points))
    with pytest.raises(ValueError, match="got 0 images that could be read"):
        paired_gain(empty, empty, accuracy)


def test_accuracies_of_several_sizes_are_averaged():
    counts = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    assert accuracy(counts).tolist() == [62.5]


def test_halves_share_no_image_and_depend_on_their_name():
    halves = split_images(101, "here")
    chosen, reported = halves["choose"].tolist(), halves["report"].tolist()
    assert sorted([*chosen, *reported]) == list(range(101))
    assert (len(chosen), len(reported)) == (50, 51)
    assert split_images(101, "here")["choose"].tolist() == chosen
    assert split_images(101, "there")["choose"].tolist() != chosen
    with pytest.raises(ValueError, match=f"got 39 images .*expected at least {2 * MIN_IMAGES}"):
        split_images(39, "here")
