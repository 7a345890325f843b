"""A detector as one function of images; its files are tested in tests/cli/test_export_detector.py."""

from dataclasses import replace

import pytest
import torch

from ropevit.tasks.detect.export import DetectorExport
from ropevit.tasks.detect.model import Detector
from ropevit.tasks.detect.postprocess import to_detections
from ropevit.tasks.detect.recipes import find_recipe

SIZE = 37, 70


@pytest.fixture(scope="module")
def exported():
    torch.manual_seed(0)
    config = find_recipe("detect/dino_smoke").model
    model = Detector(replace(config, dino=replace(config.dino, queries=8)), 3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return DetectorExport(model, {"classes": ["a", "b", "c"]}).eval()


@pytest.fixture(scope="module")
def found(exported):
    """Images, and outputs with the decisions."""
    images = torch.randn(2, 3, *SIZE)
    exported.with_decisions = True
    with torch.no_grad():
        outputs = exported(images)
    exported.with_decisions = False
    return images, outputs


@torch.no_grad()
def test_its_outputs_are_the_detections_of_the_detector(exported, found):
    images, (boxes, scores, labels, *_) = found
    expected = to_detections(exported.model(images, [SIZE, SIZE]).layers[-1], [SIZE, SIZE], top=8)
    for i, each in enumerate(expected):
        inside = (boxes[i, :, 2:] > boxes[i, :, :2]).all(1)
        torch.testing.assert_close(boxes[i, inside], each.boxes)
        torch.testing.assert_close(scores[i, inside], each.scores)
        assert torch.equal(labels[i, inside], each.labels)
    assert len(exported(images)) == 3, "decisions are only for the comparison"


def test_a_file_with_the_same_outputs_agrees(exported, found):
    images, outputs = found
    assert exported.difference(images, outputs) == (0, 0)
    assert exported.difference(images, outputs[:3]) == (0, 0)


@pytest.mark.parametrize("which", range(5))
def test_each_output_and_decision_that_is_wrong_is_a_difference(exported, found, which):
    images, outputs = found
    wrong = list(outputs)
    wrong[which] = (outputs[which] + 1) % {2: 3, 4: 24}[which] if which in (2, 4) else outputs[which] + 1
    assert exported.difference(images, wrong)[1] > 1e-3


def test_tokens_whose_scores_are_equal_may_be_chosen_in_any_order(exported, found):
    images, _ = found
    module, swap = exported.model.dino.top_tokens, torch.tensor([1, 0, *range(2, 8)])

    def equal_scores(_module, inputs):
        return (inputs[0].round(decimals=0),)

    equal = module.register_forward_pre_hook(equal_scores)
    swapped = module.register_forward_hook(lambda _module, _inputs, tokens: tokens[:, swap])
    exported.with_decisions = True
    with torch.no_grad():
        outputs = exported(images)
    exported.with_decisions = False
    swapped.remove()
    assert exported.difference(images, outputs[:3])[1] > 1e-4
    assert exported.difference(images, outputs)[1] < 1e-6
    equal.remove()
