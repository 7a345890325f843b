"""The numbers of detrex's DINO, with its weights: losses, gradients and detections."""

import pytest
import torch
from tasks.detect.golden import ARRAYS, CASES, SIZES, detector, feature_maps, targets

from ropevit.tasks.detect.criterion import dino_losses
from ropevit.tasks.detect.layout import to_detrex
from ropevit.tasks.detect.levels import padding_mask
from ropevit.tasks.detect.postprocess import detections


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_losses_and_gradients_are_those_of_detrex(case):
    model = detector(case).train()
    losses = dino_losses(
        model(feature_maps(case), padding_mask(SIZES, 144, 160), targets()), targets(), model.config
    )
    assert losses.keys() == case["losses"].keys()
    for name, value in case["losses"].items():
        torch.testing.assert_close(losses[name].item(), value, rtol=1e-4, atol=0, msg=lambda text: f"{name}: {text}")
    total = sum(losses.values())
    torch.testing.assert_close(total.item(), case["total"], rtol=1e-4, atol=0)
    total.backward()
    theirs = to_detrex({name: weight.grad for name, weight in model.named_parameters()})
    for name, norm in case["gradient_norms"].items():
        torch.testing.assert_close(
            theirs[name].norm().item(), norm, rtol=1e-4, atol=0, msg=lambda text: f"{name}: {text}"
        )


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_detections_are_those_of_detrex(case):
    model = detector(case).eval()
    maps = [x[:1] for x in feature_maps(case, height=120)]
    with torch.inference_mode():
        (found,) = detections(model(maps).layers[-1], SIZES[:1])
    scores, labels, boxes = (torch.from_numpy(ARRAYS[f"{case['case']}.{x}"]) for x in ("scores", "labels", "boxes"))
    torch.testing.assert_close(found.scores[:50], scores, rtol=0, atol=5e-5)
    assert found.labels[:50].tolist() == labels.tolist()
    torch.testing.assert_close(found.boxes[:50], boxes, rtol=0, atol=0.02)
