from itertools import permutations

import numpy as np
import pytest
import torch

from ropevit.tasks.dense.set_prediction import linear_sum_assignment
from ropevit.tasks.detect.boxes import Predictions
from ropevit.tasks.detect.matching import cost_matrix, match
from tasks.detect.small import objects, small_config


@pytest.mark.parametrize(("rows", "columns"), [(0, 4), (1, 1), (3, 3), (4, 6), (5, 5)])
@pytest.mark.parametrize("levels", [3, 1000])  # few different costs: many ties
def test_assignment_has_minimum_cost(rows, columns, levels):
    for seed in range(20):
        costs = np.random.default_rng(seed).integers(-levels, levels, (rows, columns)).astype(np.float32)
        chosen = linear_sum_assignment(costs)
        assert len(set(chosen.tolist())) == rows
        least = min(costs[range(rows), list(other)].sum() for other in permutations(range(columns), rows))
        assert costs[np.arange(rows), chosen].sum() == least


def test_each_object_is_matched_with_the_query_that_predicts_it():
    target = objects(1, 2, 3)
    boxes, logits = torch.full((6, 4), 0.9), torch.full((6, 5), -4.0)
    for query, number in [(4, 0), (0, 1), (5, 2)]:
        boxes[query], logits[query, target.labels[number]] = target.boxes[number], 4.0
    rolled = Predictions(logits.roll(1, 0).repeat(3, 1, 1), boxes.roll(1, 0).repeat(3, 1, 1))
    predictions = Predictions(logits.repeat(3, 1, 1), boxes.repeat(3, 1, 1))
    first, second = match([predictions, rolled], [target, objects(), target], small_config())
    assert first.images.tolist() == second.images.tolist() == [0, 0, 0, 2, 2, 2]
    assert first.objects.tolist() == second.objects.tolist() == [0, 1, 2, 3, 4, 5]
    assert first.queries.tolist() == [4, 0, 5, 4, 0, 5]
    assert second.queries.tolist() == [5, 1, 0, 5, 1, 0]


def test_cost_is_the_weighted_sum_of_focal_l1_and_giou_costs():
    target = objects(2)
    logits, box = torch.zeros(1, 5), target.boxes + torch.tensor([[0.1, 0.0, 0.0, 0.0]])
    cost = cost_matrix(logits, box, target, small_config())
    width = target.boxes[0, 2].item()
    focal = (0.25 - 0.75) * 0.25 * np.log(2)
    giou = (width - 0.1) / (width + 0.1)  # the smallest box around both is their union
    assert cost.item() == pytest.approx(2 * focal + 5 * 0.1 - 2 * giou, rel=1e-4)


def test_too_many_objects_and_nonfinite_predictions_are_refused():
    few = Predictions(torch.zeros(1, 2, 5), torch.full((1, 2, 4), 0.5))
    with pytest.raises(ValueError, match="got 3 objects in an image with 2 queries; use more queries"):
        match([few], [objects(1, 2, 3)], small_config())
    few.logits[0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="the training has diverged"):
        match([few], [objects(1)], small_config())
