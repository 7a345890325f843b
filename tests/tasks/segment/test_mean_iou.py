import math
from contextlib import nullcontext

import pytest
import torch

from ropevit.tasks.segment import confusion_matrix as module
from ropevit.tasks.segment.inference import InferenceConfig
from ropevit.tasks.segment.mean_iou import confusion, segmentation_scores
from tasks.segment.small import small_upernet


def test_scores_equal_hand_computed_ones():
    truth = torch.tensor([[0, 0, 0, 1], [1, 1, 255, 255]])
    predicted = torch.tensor([[0, 0, 1, 1], [1, 3, 2, 0]])  # 3 is predicted but never true, 2 only where none counts
    counts = confusion(predicted, truth, 5)
    assert counts.sum() == 6
    scores = segmentation_scores(counts)
    torch.testing.assert_close(
        scores.iou, torch.tensor([2 / 3, 2 / 4, math.nan, 0, math.nan], dtype=torch.float64), equal_nan=True
    )
    assert scores.miou == pytest.approx((2 / 3 + 2 / 4 + 0) / 3)
    assert scores.pixel_accuracy == pytest.approx(4 / 6)
    assert scores.class_accuracy == pytest.approx((2 / 3 + 2 / 3) / 2)


def test_scores_equal_those_of_torchmetrics_also_with_absent_classes():
    from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

    iou = MulticlassJaccardIndex(150, ignore_index=255, average="macro")
    accuracy = MulticlassAccuracy(150, ignore_index=255, average="micro")
    counts = torch.zeros(150, 150, dtype=torch.int64)
    for _ in range(3):
        truth = torch.randint(0, 40, (2, 17, 23))
        predicted = torch.where(torch.rand(truth.shape) < 0.6, truth, torch.randint(20, 60, truth.shape))
        truth[torch.rand(truth.shape) < 0.2] = 255
        counts += confusion(predicted, truth.to(torch.uint8), 150)
        for metric in (iou, accuracy):
            metric.update(predicted, truth)
    scores = segmentation_scores(counts)
    assert scores.miou == pytest.approx(iou.compute().item(), abs=1e-6)
    assert scores.pixel_accuracy == pytest.approx(accuracy.compute().item(), abs=1e-6)


def test_scores_without_labeled_pixels_are_nan():
    counts = confusion(torch.zeros(2, 3, dtype=torch.int64), torch.full((2, 3), 255), 4)
    assert counts.sum() == 0
    assert math.isnan(segmentation_scores(counts).miou)


@pytest.mark.parametrize(("predicted", "truth", "named"), [(4, 0, "predictions"), (0, 4, "labels"), (-1, 0, "pred")])
def test_classes_out_of_range_are_refused(predicted, truth, named):
    with pytest.raises(ValueError, match=named):
        confusion(torch.tensor([predicted]), torch.tensor([truth]), 4)


@pytest.mark.parametrize(("classes", "dtype"), [(4, torch.uint8), (256, torch.uint8), (257, torch.int16)])
def test_predicted_labels_are_copied_in_as_few_bytes_as_hold_them(classes, dtype, monkeypatch):
    copied, start = [], module.start_copy
    monkeypatch.setattr(module, "start_copy", lambda values: copied.append(values.dtype) or start(values))
    monkeypatch.setattr(module, "segment", lambda *_: torch.tensor([[[0, classes - 1]]]))
    settings = module.SegmenterSettings(
        short=8,
        long=8,
        mean=torch.zeros(3, 1, 1),
        std=torch.ones(3, 1, 1),
        workers=0,
        world=1,
        rank=0,
        autocast=nullcontext,
        inference=InferenceConfig(),
    )
    pixels, labels = torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.tensor([[1, 2]], dtype=torch.uint8)
    counts = module.count_pixels(small_upernet(), module.ImageViews([pixels], labels, []), settings, classes)
    assert copied == [dtype]
    assert (counts[1, 0], counts[2, classes - 1], counts.sum()) == (1, 1, 2)
