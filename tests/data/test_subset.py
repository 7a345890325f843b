"""Random subsets of a split."""

import pytest
import torch

from ropevit.data.subset import random_subset, stratified_subset


def test_a_stratified_subset_has_every_class_and_their_proportions():
    labels = torch.tensor([0] * 700 + [1] * 200 + [2] * 99 + [3])[torch.randperm(1000)]
    chosen = stratified_subset(labels, 100, "test")
    assert torch.equal(chosen, chosen.unique())
    counts = torch.bincount(labels[chosen], minlength=4).tolist()
    assert counts[3] == 1
    assert all(abs(count - share) <= 1 for count, share in zip(counts, (70, 20, 10, 1), strict=True))
    assert torch.bincount(labels[stratified_subset(labels, 4, "test")]).tolist() == [1, 1, 1, 1]
    assert torch.equal(chosen, stratified_subset(labels, 100, "test"))
    assert not torch.equal(chosen, stratified_subset(labels, 100, "other"))
    assert len(stratified_subset(labels, None)) == len(stratified_subset(labels, 2000)) == 1000


def test_classes_that_get_one_image_more_are_drawn_at_random():
    labels = torch.arange(100).repeat_interleave(10)
    more = torch.bincount(labels[stratified_subset(labels, 150, "test")])
    assert more.unique().tolist() == [1, 2]
    assert 10 < (more[:50] == 2).sum() < 40  # not those of the first classes


@pytest.mark.parametrize("most", [0, -3])
def test_a_subset_of_no_images_is_refused(most):
    assert len(random_subset(5, 1, "stream")) == 1
    with pytest.raises(ValueError, match=f"got a subset of at most {most} images; expected 1 or more"):
        random_subset(5, most, "stream")
    with pytest.raises(ValueError, match=f"got a subset of at most {most} images; expected 1 or more"):
        stratified_subset(torch.zeros(5, dtype=torch.int64), most, "stream")
