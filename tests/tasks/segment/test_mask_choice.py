"""Attention masks of a Mask2Former, and the comparison of an export; its files: tests/cli/test_export_dense.py."""

import math

import pytest
import torch
from torch.nn import functional as F

from ropevit.tasks.segment.export import SegmenterExport
from ropevit.tasks.segment.mask_choice import MaskChoice, mask_shapes
from tasks.segment.small import small_mask2former, small_upernet

MAPS = ((2, 3), (3, 5), (5, 9), (2, 3))  # to which the layers attend, for images of 37 x 70 pixels


@pytest.fixture(scope="module")
def exported():
    torch.manual_seed(0)
    model = small_mask2former(classes=5, decoder_layers=4)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return SegmenterExport(model, {"classes": list("abcde")}).eval()


@pytest.fixture(scope="module")
def found(exported):
    """Images, and outputs with the decisions."""
    images = torch.randn(2, 3, 37, 70)
    exported.with_decisions = True
    with torch.no_grad():
        outputs = exported(images)
    exported.with_decisions = False
    return images, outputs


@torch.no_grad()
def test_its_outputs_are_the_scores_of_the_model_and_the_masks_of_each_layer(exported, found):
    images, (labels, logits, *masks) = found
    expected = exported.model.logits(images)
    assert torch.equal(logits, expected)
    assert torch.equal(labels, expected.argmax(1))
    assert [mask.shape for mask in masks] == [(2, 12, rows * columns) for rows, columns in MAPS]
    assert list(exported.decisions.values()) == [("batch", 12, f"cells_{number}") for number in (0, 1, 2, 0)]
    assert len(exported(images)) == 2, "decisions are only for the comparison"
    assert mask_shapes(small_upernet()) == {}


def test_a_file_with_the_same_outputs_agrees(exported, found):
    images, outputs = found
    assert exported.difference(images, outputs) == (0, 0)
    assert exported.difference(images, outputs[:2]) == (0, 0)


@torch.no_grad()
@pytest.mark.parametrize("layer", range(4))
def test_a_cell_may_be_chosen_otherwise_only_where_the_mask_is_nearly_zero(exported, found, layer):
    images, (_, _, *masks) = found
    predicted = exported.model(images)[layer].masks
    values = F.interpolate(predicted, size=MAPS[layer], mode="bilinear").flatten(2)
    for cell in (values.abs().argmin(), values.abs().argmax()):
        given = [mask.clone() for mask in masks]
        given[layer].view(-1)[cell] ^= True
        for later in range(layer + 1, 5):  # the layers behind choose for themselves
            with MaskChoice(exported.model, given) as choice:
                logits = exported.model.logits(images)
            given[later:] = choice.masks[later:]
        absolute, relative = exported.difference(images, (logits.argmax(1), logits, *given))
        expected = values.flatten()[cell].abs()
        assert absolute == pytest.approx(expected.item(), rel=1e-4, abs=1e-6)
        assert relative == pytest.approx((expected / values.abs().max()).item(), rel=1e-4, abs=1e-6)
        assert exported.difference(images, (logits.argmax(1), logits, *masks))[1] > 1e-6, "the model follows masks"


@pytest.mark.parametrize("which", range(2))
def test_each_output_that_is_wrong_is_a_difference(exported, found, which):
    images, outputs = found
    wrong = list(outputs)
    wrong[which] = (outputs[0] + 1) % 5 if which == 0 else outputs[1] + 1
    assert exported.difference(images, wrong)[1] > 1e-3


def test_a_single_value_that_is_no_number_makes_the_difference_none(exported, found):
    images, (labels, logits, *masks) = found
    logits = logits.clone()
    logits[1, 2, 3, 4] = torch.nan
    assert all(map(math.isnan, exported.difference(images, (labels, logits, *masks))))


def test_the_model_that_is_exported_stays_as_it_is():
    model = small_mask2former(classes=5, decoder_layers=4)
    hooks = [len(module._forward_pre_hooks) for module in model.modules()]
    SegmenterExport(model, {"classes": list("abcde")})
    assert [len(module._forward_pre_hooks) for module in model.modules()] == hooks
