"""The two probes, and their intervals, on features whose accuracy is known."""

import math

import pytest
import torch

from ropevit.tasks.probe import knn_predict, linear_probe
from ropevit.tasks.probe.intervals import accuracy_difference, accuracy_interval
from ropevit.tasks.probe.linear import ITERATIONS, hold_out


def labels_of(count, num_classes=4, seed=0):
    return torch.randint(num_classes, (count,), generator=torch.Generator().manual_seed(seed))


def both(features, labels, train=200):
    """Return the accuracy of each probe in percent, fitted to the first images and measured on the others."""
    known, asked, classes = features[:train], features[train:], int(labels.max()) + 1
    guesses = {
        "knn": knn_predict(known, labels[:train], asked, classes),
        "linear": linear_probe(known, labels[:train], classes).predict(asked),
    }
    return {name: 100 * (guess == labels[train:]).float().mean().item() for name, guess in guesses.items()}


def test_features_that_are_the_label_give_everything():
    labels = labels_of(400)
    assert both(torch.eye(4)[labels], labels) == {"knn": 100, "linear": 100}


def test_shuffled_labels_give_chance():
    labels = labels_of(1200)
    scores = both(torch.eye(4)[labels], labels_of(1200, seed=1), train=400)
    assert all(abs(score - 25) < 5 * 100 * math.sqrt(0.25 * 0.75 / 800) for score in scores.values())


def test_neighbors_vote_with_the_exponential_of_their_similarity():
    angle = torch.tensor([0.0, 0.5, 0.6, 3.0])
    train, labels = 7 * torch.stack([angle.cos(), angle.sin()], 1), torch.tensor([0, 1, 1, 2])
    ask = torch.tensor([[2.0, 0.0]])
    near, far = 1.0, math.exp((math.cos(0.5) - 1) / 0.07) + math.exp((math.cos(0.6) - 1) / 0.07)
    assert near > far
    assert knn_predict(train, labels, ask, 3, neighbors=3).tolist() == [0]
    assert knn_predict(train, labels, ask, 3, neighbors=3, temperature=1.0).tolist() == [1]  # two votes beat one
    assert knn_predict(train, labels, ask, 3, neighbors=1, temperature=1.0).tolist() == [0]
    assert knn_predict(train, labels, ask, 3, neighbors=100).tolist() == [0]  # as many as there are
    with pytest.raises(ValueError, match="got 0 training images"):
        knn_predict(train[:0], labels[:0], ask, 3)


def test_the_linear_probe_ignores_the_scale_of_features():
    labels = labels_of(400)
    features = torch.eye(4)[labels] + 0.8 * torch.randn(400, 4, generator=torch.Generator().manual_seed(0))
    scale = torch.tensor([1e-3, 1.0, 10.0, 1e3])
    one, other = (linear_probe(each[:200], labels[:200], 4) for each in (features, features * scale))
    assert one.penalty == other.penalty
    assert (one.predict(features) == other.predict(features * scale)).float().mean() > 0.99


def test_a_penalty_is_chosen_against_overfitting():
    noise = torch.Generator().manual_seed(0)
    labels = labels_of(60)
    features = torch.cat([torch.eye(4)[labels], torch.randn(60, 100, generator=noise)], 1)
    assert linear_probe(features, labels, 4).penalty >= 0.1
    assert linear_probe(torch.eye(4)[labels], labels, 4).penalty < 10


def test_a_fit_tells_whether_it_converged(monkeypatch):
    labels = labels_of(100)
    features = torch.eye(4)[labels] + 0.8 * torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    found = linear_probe(features, labels, 4)
    assert found.converged
    assert 0 < found.iterations < ITERATIONS
    monkeypatch.setattr("ropevit.tasks.probe.linear.ITERATIONS", 2)
    stopped = linear_probe(features, labels, 4)
    assert not stopped.converged
    assert stopped.iterations == 2


def test_a_fifth_of_each_class_is_held_out():
    labels = torch.tensor([0] * 20 + [1] * 5 + [2] * 2 + [3])
    held = hold_out(labels, 4, seed=0)
    assert [int(held[labels == label].sum()) for label in range(4)] == [4, 1, 1, 0]
    assert not torch.equal(held, hold_out(labels, 4, seed=1))
    with pytest.raises(ValueError, match="none with two images; a linear probe needs at least two of a class"):
        linear_probe(torch.eye(3), torch.arange(3), 3)


def counts(right, seen=None):
    right = torch.tensor(right)
    return torch.stack([right, torch.ones_like(right) if seen is None else torch.tensor(seen)], 1)


def test_intervals_of_accuracies_are_wilsons():
    found = accuracy_interval(counts([1] * 8 + [0] * 2 + [0], [1] * 10 + [0]))
    assert found.value == 80
    assert (found.low, found.high) == pytest.approx((49.0, 94.3), abs=0.1)
    assert accuracy_interval(counts([1] * 10)).low == pytest.approx(72.2, abs=0.1)
    with pytest.raises(ValueError, match="no test image could be read"):
        accuracy_interval(counts([0], [0]))


def test_a_few_gained_images_show_no_difference():
    right = [0] * 500 + [1] * 500
    for gained, is_shown in ((0, False), (4, False), (30, True)):
        found = accuracy_difference(counts(right), counts([1] * gained + right[gained:]))
        assert found.value == pytest.approx(gained / 10)
        assert found.is_shown == is_shown
    lost = accuracy_difference(counts([1] * 30 + right[30:]), counts(right))
    assert lost.is_shown
    assert lost.high < 0


def test_unread_images_are_in_no_difference():
    before, after = counts([1, 0, 0, 1], [1, 0, 1, 1]), counts([1, 1, 1, 0], [1, 1, 1, 0])
    assert accuracy_difference(before, after).value == 50
    with pytest.raises(ValueError, match="got 0 images that could be read"):
        accuracy_difference(before[1:2], after[1:2])
