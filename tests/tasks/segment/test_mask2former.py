import copy
import json

import pytest
import torch
from torch.nn import functional as F

from ropevit.tasks.segment import criterion
from ropevit.tasks.segment.base import present_classes
from ropevit.tasks.segment.config import Mask2FormerConfig
from ropevit.tasks.segment.criterion import choose_points, layer_losses, make_truth, mask_losses, match_masks
from ropevit.tasks.segment.inference import InferenceConfig, segment
from ropevit.tasks.segment.mask2former import Masks, semantic_scores
from tasks.segment import ranks
from tasks.segment.small import small_mask2former


def halves(first=3, second=140, height=64, width=96):
    """Label the left and right halves of two images, the top row ignored."""
    labels = torch.full((2, height, width), first)
    labels[:, :, width // 2 :] = second
    labels[:, 0] = 255
    return labels


@pytest.fixture(scope="module")
def seen(run_command, tmp_path_factory):
    """Let two processes train together, with three masks and one."""
    directory = tmp_path_factory.mktemp("ranks")
    result = run_command(directory, [directory], script=ranks.__file__)
    assert result.code == 0, result.errors[-3000:]
    return [json.loads((directory / f"{rank}.json").read_text()) for rank in range(2)]


def test_two_processes_train_as_one_with_all_images(seen, monkeypatch):
    for name in ("choose_points", "match_masks"):
        monkeypatch.setattr(criterion, name, getattr(criterion, name))  # put back afterwards: `step` replaces them
    norms, losses = ranks.step([0, 1])
    for each in seen:
        assert each["norms"] == pytest.approx(norms, rel=1e-3, abs=1e-5)
    found = {name: sum(each["losses"][name] for each in seen) / 2 for name in losses}
    assert found == pytest.approx(losses, rel=1e-4)  # in each layer: all are divided by the mean number of masks
    assert losses["loss_mask_0"] > losses["loss_class"] == 0


def test_counts_of_processes_add_up(seen):
    right, labeled = 20 * 64 * 2, 20 * 64 * 4
    assert [each["accuracy"] for each in seen] == [right / labeled] * 2


@pytest.mark.parametrize("size", [(64, 96), (70, 101)])
def test_losses_of_all_layers_are_finite_and_every_weight_learns(size):
    model = small_mask2former()
    losses = mask_losses(model(torch.randn(2, 3, *size)), halves(height=size[0], width=size[1]), model.config)
    suffixes = ["_0", "_1", "_2", ""]
    assert list(losses) == [f"loss_{name}{suffix}" for suffix in suffixes for name in ("class", "mask", "dice")]
    sum(losses.values()).backward()
    lazy = [
        name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.isfinite().all()
    ]
    assert lazy == []


def test_images_without_labels_train_the_class_no_object():
    model = small_mask2former()
    labels = halves()
    for ignored in (labels.index_fill(0, torch.tensor([1]), 255), torch.full_like(labels, 255)):
        losses = mask_losses(model(torch.randn(2, 3, 64, 96)), ignored, model.config)
        sum(losses.values()).backward()
        assert all(value.isfinite() for value in losses.values())
        assert all(weight.grad is not None for weight in model.parameters())
    assert losses["loss_mask"] == losses["loss_dice"] == 0 < losses["loss_class"]


def test_labels_become_one_mask_per_class():
    for dtype in (torch.uint8, torch.int64):
        labels = torch.tensor([[[255, 255, 255], [255] * 3], [[5, 255, 2], [2, 5, 5]]], dtype=dtype)
        truth = make_truth(labels, [present_classes(each) for each in labels])
        assert (truth.counts, truth.images.tolist(), truth.classes.tolist()) == ((0, 2), [1, 1], [2, 5])
        assert truth.masks.tolist() == [[[0, 0, 1], [1, 0, 0]], [[1, 0, 0], [0, 1, 1]]]


def test_each_layer_is_matched_by_its_own_predictions():
    labels = halves()
    labels[1, :, 48:] = 255
    truth = make_truth(labels, [present_classes(each) for each in labels])
    masks, classes = torch.full((2, 4, 64, 96), -30.0), torch.zeros(2, 4, 151)
    for number, query in enumerate((3, 1, 2)):
        masks[truth.images[number], query] = truth.masks[number] * 60 - 30
    first = Masks(classes, masks)
    second = Masks(classes, masks.roll(1, 1))
    matched = match_masks([first, second], truth, Mask2FormerConfig(points=64))
    assert [queries.tolist() for queries in matched] == [[3, 1, 2], [0, 2, 3]]


def test_correct_predictions_have_a_small_loss_in_any_order_of_queries():
    labels = halves()
    truth = make_truth(labels, [present_classes(each) for each in labels])
    order = torch.tensor([2, 0])  # queries of the two classes; query 1 is for nothing
    masks = torch.full((2, 3, 64, 96), -30.0)
    classes = torch.zeros(2, 3, 151)
    for image in range(2):
        masks[image, order] = truth.masks[truth.images == image] * 60 - 30
        classes[image, order, truth.classes[truth.images == image]] = 40
        classes[image, 1, 150] = 40
    config = Mask2FormerConfig(points=256, uncertain_share=0.0)
    found = Masks(classes, masks)
    (queries,) = match_masks([found], truth, config)
    losses = layer_losses(found, truth, queries, torch.tensor(4.0), config)
    assert losses["class"] < 1e-5
    assert losses["mask"] < 1  # some points lie on an edge
    assert losses["dice"] < 0.05
    found = Masks(classes.roll(1, 2), torch.full_like(masks, -30.0))
    wrong = layer_losses(found, truth, queries, torch.tensor(4.0), config)
    assert wrong["class"] > 10
    assert wrong["mask"] > 50
    assert wrong["dice"] > 3


def test_points_are_mostly_sampled_where_masks_are_uncertain():
    masks = torch.linspace(-1, 1, 64).expand(2, 64, 64)  # uncertain in the middle column
    points = choose_points(masks, Mask2FormerConfig(points=400))
    assert points.shape == (2, 400, 2)
    middle = (points[..., 0] - 0.5).abs()
    assert middle[:, :300].max() < 0.2
    assert middle[:, 300:].max() > 0.4


def test_semantic_scores_leave_out_no_object_and_resize_masks_before_the_sum():
    classes = torch.tensor([[[2.0, 0.0, 9.0], [0.0, 3.0, -9.0]]])
    masks = torch.tensor([[[[-4.0, 8.0]], [[2.0, -2.0]]]])
    scores = semantic_scores(Masks(classes, masks), (3, 7))
    resized = F.interpolate(masks, (4, 8), mode="bilinear")[0, :, 0, :7]
    wanted = torch.einsum("qk,qw->kw", classes[0].softmax(-1)[:, :2], resized.sigmoid())
    torch.testing.assert_close(scores[0, :, 0], wanted)


def test_an_image_of_any_size_gives_the_scores_and_losses_of_one_padded_with_zeros():
    model = small_mask2former()
    images, labels = torch.randn(2, 3, 70, 90), halves(height=70, width=90)
    padded, beside = F.pad(images, (0, 2, 0, 2)), F.pad(labels, (0, 2, 0, 2), value=255)  # to whole patches
    losses = []
    for image, label in ((images, labels), (padded, beside)):
        torch.manual_seed(0)  # the points that are compared
        losses.append(mask_losses(model(image), label, model.config))
    torch.testing.assert_close(*losses)
    model.eval()
    torch.testing.assert_close(model.logits(images), model.logits(padded)[:, :, :70, :90])


def test_images_are_segmented_at_their_original_size():
    model = small_mask2former().eval()
    found = segment(model.logits, [torch.randn(1, 3, 70, 96)], (45, 77), InferenceConfig(probabilities=False))
    assert found.shape == (1, 45, 77)
    assert found.max() < 150


def test_initialization_is_that_of_the_official_code():
    model = small_mask2former(queries=64)
    assert model.pixel_decoder.level_embed.std() > 0.8
    offsets = model.pixel_decoder.encoder.layers[0].self_attn.sampling_offsets
    assert not offsets.weight.any()
    assert offsets.bias.abs().max() == 4  # as far as there are points
    assert model.decoder.queries_features.weight.std().item() == pytest.approx(1, rel=0.1)
    assert len(model.decoder.decoder.layers) == 3
    convolution, projection = model.pixel_decoder.layer_1[0].weight, model.pixel_decoder.input_projections[0][0].weight
    assert convolution.std().item() == pytest.approx((32 * 9) ** -0.5, rel=0.05)  # of uniform numbers to sqrt(3 / fan)
    assert projection.std().item() == pytest.approx((2 / (128 + 32)) ** 0.5, rel=0.05)
    assert model.pixel_decoder.encoder.layers[0].fc1.weight.std().item() == pytest.approx(32**-0.5, rel=0.1)


def test_attention_and_mlps_of_the_decoder_are_initialized_as_in_the_official_code():
    model = small_mask2former(width=96, heads=3, decoder_mlp_width=128, encoder_mlp_width=64)
    layers = model.decoder.decoder.layers
    attention = [layer.self_attn for layer in layers]
    joint = (6 / (4 * 96)) ** 0.5  # Xavier's bound of a matrix of 3 C x C
    for name in ("q_proj", "k_proj", "v_proj"):
        weight = torch.stack([getattr(each, name).weight for each in attention])
        assert weight.abs().max().item() == pytest.approx(joint, rel=1e-2)
        assert weight.std().item() == pytest.approx(joint / 3**0.5, rel=2e-2)
    crossing = torch.stack([layer.cross_attn.in_proj_weight for layer in layers])
    assert crossing.abs().max().item() == pytest.approx(joint, rel=1e-2)
    single = torch.stack([each.out_proj.weight for each in attention])
    assert single.abs().max().item() == pytest.approx((6 / (2 * 96)) ** 0.5, rel=1e-2)
    zeros = [each.out_proj.bias for each in attention] + [each.q_proj.bias for each in attention]
    assert not torch.cat(zeros).any()
    for parts in (layers, model.pixel_decoder.encoder.layers):
        for name in ("fc1", "fc2"):
            linears = [getattr(layer, name) for layer in parts]
            biases, bound = torch.cat([each.bias for each in linears]), linears[0].in_features ** -0.5
            assert 0.85 * bound < biases.abs().max() <= bound
            assert biases.std().item() == pytest.approx(bound / 3**0.5, rel=0.2)


def test_too_many_classes_labels_out_of_range_and_nan_are_refused():
    model = small_mask2former(queries=1)
    output = model(torch.randn(2, 3, 64, 96))
    with pytest.raises(ValueError, match="more queries"):
        mask_losses(output, halves(), model.config)
    with pytest.raises(ValueError, match="0 to 149"):
        mask_losses(output, halves(150, 150), model.config)
    with pytest.raises(ValueError, match="diverged"):
        mask_losses([Masks(x.classes, x.masks * float("nan")) for x in output], halves(3, 3), model.config)


@pytest.mark.parametrize("changes", [{"queries": 0}, {"width": 48}, {"dice_weight": -1.0}, {"uncertain_share": 1.5}])
def test_options_out_of_range_are_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        Mask2FormerConfig(**changes)


def test_a_mask2former_is_pickled_and_copied_with_its_own_weights(tmp_path):
    model, images = small_mask2former().eval(), torch.randn(1, 3, 64, 64)
    torch.save(model, tmp_path / "model.pt")
    with torch.no_grad():
        before = model.logits(images)
        for other in (copy.deepcopy(model), torch.load(tmp_path / "model.pt", weights_only=False)):
            assert torch.equal(other.logits(images), before)
            other.pixel_decoder.encoder.layers[0].final_layer_norm.weight.zero_()
            assert not torch.equal(other.logits(images), before)
        assert torch.equal(model.logits(images), before)
