import pytest
import torch

from ropevit.tasks.detect.boxes import Predictions
from ropevit.tasks.detect.postprocess import to_detections

LOGITS = torch.tensor([[[2.0, -1.0], [0.0, 1.0], [-3.0, 3.0]]])
BOXES = torch.tensor([[[0.5, 0.5, 0.2, 0.4], [0.95, 0.5, 0.2, 1.0], [0.1, 0.2, 0.2, 0.2]]])


def test_highest_scoring_query_class_pairs_come_first_in_original_pixels():
    (found,) = to_detections(Predictions(LOGITS, BOXES), [(50, 200)], top=4)
    torch.testing.assert_close(found.scores, torch.tensor([3.0, 2.0, 1.0, 0.0]).sigmoid())
    assert found.labels.tolist() == [1, 0, 1, 0]  # the second query twice
    right = [170.0, 0.0, 200.0, 50.0]  # cut off at the edge
    expected = torch.tensor([[0.0, 5.0, 40.0, 15.0], [80.0, 15.0, 120.0, 35.0], right, right])
    torch.testing.assert_close(found.boxes, expected)


def test_detections_are_limited_to_the_pairs_and_have_an_area():
    boxes = BOXES.clone()
    boxes[0, 0, 2] = 0
    (found,) = to_detections(Predictions(LOGITS, boxes), [(50, 200)])
    assert len(found.scores) == len(found.labels) == len(found.boxes) == 4


def test_one_size_per_image_is_required():
    with pytest.raises(ValueError, match="got top=300 and sizes of 2 images with predictions of 1"):
        to_detections(Predictions(LOGITS, BOXES), [(50, 200)] * 2)
    with pytest.raises(ValueError, match="got top=0"):
        to_detections(Predictions(LOGITS, BOXES), [(50, 200)], top=0)
