import copy
import math

import pytest
import torch

from ropevit.tasks.detect.boxes import Predictions
from ropevit.tasks.detect.config import DinoConfig
from ropevit.tasks.detect.criterion import dino_losses
from ropevit.tasks.detect.dino import Dino
from ropevit.tasks.detect.levels import Levels, make_levels, padding_mask, propose_boxes
from tasks.detect.small import CHANNELS, objects, small_config, small_detector, small_maps


class Passing(torch.nn.Module):
    """A neck that gives on the maps of all levels as they are."""

    def forward(self, maps):
        return list(maps)


def maps_of_levels(images=1, shapes=((8, 8), (4, 4), (2, 2), (1, 1))):
    return [torch.randn(images, 32, h, w) for h, w in shapes]


def padded(maps, fill):
    """Put maps of 64 x 64 pixels in the corner of 128 x 192, the rest filled with noise of such a size."""
    wide = [fill * torch.randn(*x.shape[:2], 2 * x.shape[2], 3 * x.shape[3]) for x in maps]
    for x, whole in zip(maps, wide, strict=True):
        whole[:, :, : x.shape[2], : x.shape[3]] = x
    return wide


def assert_same(first, second, **tolerance):
    torch.testing.assert_close(first.logits, second.logits, **tolerance)
    torch.testing.assert_close(first.boxes, second.boxes, **tolerance)


@pytest.mark.parametrize(("fields", "channels", "millions"), [
    ({}, (256, 256, 256, 256), 18.8),
    ({}, (192, 384, 768), 20.7),
    ({}, (512, 1024, 2048), 24.2),
    ({"levels": 5}, (192, 384, 768, 1536), 23.1),
])  # fmt: skip
def test_published_detectors_have_the_expected_number_of_parameters(fields, channels, millions):
    with torch.device("meta"):
        model = Dino(DinoConfig(**fields), channels)
    assert round(sum(weight.numel() for weight in model.parameters()) / 1e6, 1) == millions


def test_initial_class_probability_is_0_01_and_boxes_are_not_refined():
    model = Dino(small_config(), CHANNELS).eval()
    for head in model.class_heads:
        torch.nn.init.zeros_(head.weight)
    output = model(small_maps())
    for layer in (*output.layers, output.encoder):
        torch.testing.assert_close(layer.logits.sigmoid(), torch.full_like(layer.logits, 0.01))
    torch.testing.assert_close(output.layers[0].boxes, output.encoder.boxes.clamp(1e-3, 1 - 1e-3), rtol=0, atol=1e-5)


def test_initial_sampling_points_surround_the_token():
    attention = Dino(small_config(), CHANNELS).encoder_layers[0].self_attn
    offsets = attention.sampling_offsets.bias.view(4, 4, 2, 2)  # heads, levels, points, (x, y)
    expected = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    torch.testing.assert_close(offsets[:, 3, 0], expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(offsets[:, 0, 1], 2 * expected, rtol=0, atol=1e-6)


def test_proposals_are_centered_on_tokens_and_double_with_each_level():
    shapes = ((20, 24), (2, 3))
    levels = make_levels([torch.zeros(1, 1, *shape) for shape in shapes], None)
    logits, usable = propose_boxes(levels)
    boxes = logits.sigmoid()[0]
    torch.testing.assert_close(boxes[24 + 2], torch.tensor([2.5 / 24, 1.5 / 20, 0.05, 0.05]))
    torch.testing.assert_close(boxes[-1], torch.tensor([2.5 / 3, 1.5 / 2, 0.1, 0.1]))
    assert usable.all()


def test_tokens_at_the_border_and_in_padding_have_no_proposal():
    mask = torch.ones(1, 2, 80, dtype=torch.bool)
    mask[:, :, 60:] = False
    logits, usable = propose_boxes(Levels(((2, 80),), (mask,)))
    expected = torch.zeros(80, dtype=torch.bool)
    expected[1:59] = True  # centers from 0.5 / 60, below 0.01, to 59.5 / 60, above 0.99
    assert usable[0, :80].tolist() == expected.tolist()
    assert torch.isposinf(logits[0, ~usable[0]]).all()


def test_values_in_padding_do_not_change_the_output():
    model, maps = small_detector().eval(), maps_of_levels()
    model.neck = Passing()
    padding = padding_mask([(64, 64)], 128, 192)
    outputs = []
    for fill in (0.0, 3.0):
        torch.manual_seed(1)
        outputs.append(model(padded(maps, fill), padding))
    for first, second in zip(outputs[0].layers, outputs[1].layers, strict=True):
        assert_same(first, second, rtol=0, atol=0)


def test_padded_image_gives_the_same_detections_as_unpadded():
    model, maps = small_detector(queries=8).eval(), maps_of_levels()
    model.neck = Passing()  # GroupNorm sees the padding, as in detrex
    last = model.decoder.reference_head.layers[-1]  # so does the embedding of boxes, as they are scaled by its share
    for unsure in (last.weight, last.bias, model.token_projection.bias, model.token_norm.bias):
        torch.nn.init.zeros_(unsure)  # and padding, which is like an unsure token, may be chosen before the unsurest
    whole, cornered = model(maps), model(padded(maps, 3.0), padding_mask([(64, 64)], 128, 192))
    assert_same(whole.encoder, cornered.encoder, rtol=1e-4, atol=1e-5)
    for first, second in zip(whole.layers, cornered.layers, strict=True):
        assert_same(first, second, rtol=1e-4, atol=1e-5)


def test_gradients_reach_the_box_head_of_the_previous_layer():
    model = small_detector(decoder_layers=3)
    output = model(small_maps())
    output.layers[2].boxes.sum().backward()
    reached = [head.layers[-1].weight.grad is not None for head in model.box_heads]
    assert reached == [False, True, True, False]  # twice, and no further; the last is the encoder's


@pytest.mark.parametrize("targets", [
    [objects(1, 2, 3), objects(4)],
    [objects(), objects(0, 1)],
    [objects(), objects()],
], ids=["objects in all images", "one image without", "none"])  # fmt: skip
def test_every_parameter_gets_a_gradient(targets):
    model = small_detector()
    losses = dino_losses(model(small_maps(), targets=targets), targets, model.config)
    sum(losses.values()).backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []
    assert all(weight.grad.isfinite().all() for weight in model.parameters())
    still = [name for name, weight in model.named_parameters() if not weight.grad.any()]
    with_objects = any(len(target.labels) for target in targets)
    assert [name for name in still if not name.endswith("k_proj.bias")] == [] or not with_objects


def test_denoising_queries_do_not_change_the_matching_queries():
    model, maps = small_detector(), small_maps()
    alone, together = model(maps), model(maps, targets=[objects(1, 2), objects(3)])
    assert together.groups.queries == together.denoising[0].logits.shape[1] == 12
    for first, second in zip(alone.layers, together.layers, strict=True):
        assert_same(first, second, rtol=1e-4, atol=1e-5)


def test_gradient_checkpointing_does_not_change_gradients():
    model, maps = small_detector(), small_maps()
    other = copy.deepcopy(model)
    other.set_grad_checkpointing()
    calls = []
    other.decoder.layers[0].mlp.register_forward_hook(lambda *_: calls.append(1))
    for each in (model, other):
        sum(layer.boxes.sum() + layer.logits.sum() for layer in each(maps).layers).backward()
    assert len(calls) == 2  # once more in the backward pass
    for first, second in zip(model.parameters(), other.parameters(), strict=True):
        if first.grad is not None:
            torch.testing.assert_close(first.grad, second.grad, rtol=1e-5, atol=1e-6)


def test_boxes_stay_float32_in_mixed_precision():
    model, maps, targets = small_detector(stir=0.02), small_maps(), [objects(1), objects(2)]
    with torch.autocast("cpu", torch.bfloat16):
        output = model(maps, targets=targets)
        losses = dino_losses(output, targets, model.config)
    assert {layer.boxes.dtype for layer in (*output.layers, output.encoder)} == {torch.float32}
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())


def test_invalid_input_is_refused():
    model, maps = small_detector(), small_maps()
    with pytest.raises(ValueError, match=r"expected \(B, c, h, w\) with c = \[8, 12, 16\]"):
        model(maps[::-1])
    with pytest.raises(ValueError, match="expected each to be half as large as the one before"):
        model([torch.randn(2, c, 4, 4) for c in CHANNELS])
    with pytest.raises(ValueError, match="got padding of 1 images with maps of 2"):
        model(maps, padding_mask([(64, 80)], 64, 80))
    with pytest.raises(ValueError, match="got targets of 1 images with maps of 2"):
        model(maps, targets=[objects(1)])
    with pytest.raises(ValueError, match=r"got 108 tokens for queries=200; use larger images or fewer queries"):
        small_detector(queries=200)(maps)
    with pytest.raises(ValueError, match="got 3 maps; expected 1 to levels=2"):
        small_detector(levels=2)
    with pytest.raises(ValueError, match=r"got an image of 70 x 80 pixels; expected 1 x 1 to the batch's 64 x 80"):
        padding_mask([(70, 80)], 64, 80)


@pytest.mark.parametrize(("field", "value"), [
    ("classes", 0), ("queries", 0), ("denoising", -1), ("box_noise", math.nan), ("width", 40), ("heads", 5),
    ("dropout", 1.0), ("label_noise", 2.5), ("focal_alpha", 1.5),
])  # fmt: skip
def test_config_field_out_of_range_is_refused(field, value):
    with pytest.raises(ValueError, match=field):
        small_config(**{field: value})


def test_split_keeps_the_order_of_predictions():
    whole = Predictions(torch.arange(12.0).view(1, 4, 3), torch.arange(16.0).view(1, 4, 4))
    first, rest = whole.split(1)
    assert_same(Predictions(torch.cat([first.logits, rest.logits], 1), torch.cat([first.boxes, rest.boxes], 1)), whole)
    assert first.logits.shape == (1, 1, 3)


def test_a_detector_is_pickled_and_copied_with_its_own_weights(tmp_path):
    detector, maps = small_detector().eval(), small_maps()
    torch.save(detector, tmp_path / "detector.pt")
    with torch.no_grad():
        before = detector(maps).layers[-1]
        for other in (copy.deepcopy(detector), torch.load(tmp_path / "detector.pt", weights_only=False)):
            assert_same(other(maps).layers[-1], before, atol=0, rtol=0)
            other.encoder_layers[0].final_layer_norm.weight.zero_()
            assert not torch.equal(other(maps).layers[-1].logits, before.logits)
        assert_same(detector(maps).layers[-1], before, atol=0, rtol=0)
