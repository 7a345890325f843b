import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ropevit.models.dense import DenseViT, DenseViTConfig, PyramidConfig
from ropevit.tasks.segment.base import pixel_loss
from ropevit.tasks.segment.config import PROFILES, UperNetConfig
from ropevit.tasks.segment.inference import InferenceConfig, segment
from ropevit.tasks.segment.mean_iou import confusion, segmentation_scores
from ropevit.tasks.segment.neck import make_vit_backbone
from ropevit.tasks.segment.upernet import UperNet, upernet_losses
from tasks.segment.small import labeled_images, small_body, small_profile, small_upernet


def labeled(height=64, width=96):
    labels = torch.randint(0, 150, (2, height, width))
    labels[:, :5] = 255
    return torch.randn(2, 3, height, width), labels


@pytest.mark.parametrize("size", [(64, 96), (70, 101)])
def test_losses_are_finite_and_every_weight_learns(size):
    model = small_upernet()
    images, labels = labeled(*size)
    losses = upernet_losses(model(images), labels, model.config)
    assert list(losses) == ["loss_pixels", "loss_auxiliary"]
    sum(losses.values()).backward()
    lazy = [
        name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.isfinite().all()
    ]
    assert lazy == []


def test_images_without_labels_have_zero_loss_and_finite_gradients():
    model = small_upernet()
    images, labels = labeled()
    losses = upernet_losses(model(images), torch.full_like(labels, 255), model.config)
    sum(losses.values()).backward()
    assert [value.item() for value in losses.values()] == [0, 0]
    assert all(weight.grad is not None and not weight.grad.any() for weight in model.parameters())


def test_ignored_pixels_count_in_the_divisor_as_in_mmseg():
    logits, labels = torch.randn(1, 4, 2, 3), torch.tensor([[[0, 1, 255], [3, 255, 255]]])
    wanted = F.cross_entropy(logits, labels, ignore_index=255) * 3 / 6
    torch.testing.assert_close(pixel_loss(logits, labels.to(torch.uint8), 1), wanted)


def test_an_image_of_any_size_gives_the_scores_and_losses_of_one_padded_with_zeros():
    model = small_upernet(dropout=0.0)
    images, labels = torch.randn(2, 3, 70, 90), torch.randint(0, 150, (2, 70, 90))
    padded, beside = F.pad(images, (0, 6, 0, 26)), F.pad(labels, (0, 6, 0, 26), value=255)
    for name, value in upernet_losses(model(images), labels, model.config).items():
        wanted = upernet_losses(model(padded), beside, model.config)[name]
        torch.testing.assert_close(value * labels.numel(), wanted * beside.numel())
    model.eval()
    torch.testing.assert_close(model.logits(images), model.logits(padded)[:, :, :70, :90])


def test_the_auxiliary_loss_is_weighted_and_only_computed_in_training():
    model = small_upernet(auxiliary_weight=0.25, auxiliary_map=3)
    images, labels = labeled()
    output = model(images)
    assert output.auxiliary.shape == (2, 150, 2, 3)
    losses = upernet_losses(output, labels, model.config)
    torch.testing.assert_close(losses["loss_auxiliary"], 0.25 * pixel_loss(output.auxiliary, labels, 32))
    output = model.eval()(images)
    assert output.auxiliary is None
    assert output.logits.shape == (2, 150, 16, 24)
    with pytest.raises(ValueError, match=r"model.train\(\)"):
        upernet_losses(output, labels, model.config)


def test_heads_are_initialized_as_in_mmseg():
    model = small_upernet(channels=64)
    for head in (model.head, model.auxiliary_head):
        drop, classifier = head.classifier
        assert drop.p == 0.1
        assert classifier.weight.std().item() == pytest.approx(0.01, rel=0.1)
        assert not classifier.bias.any()
    conv = model.head.fpn_bottleneck.conv
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.05)


def test_whole_channels_are_dropped_in_training():
    model = small_upernet(dropout=0.9)
    seen = []
    model.head.classifier[1].register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    images, _ = labeled()
    model(images)
    model.eval()(images)
    empty = [(x.abs().amax((2, 3)) == 0).float().mean().item() for x in seen]
    assert empty[0] > 0.6 > empty[1]


def test_one_image_in_training_is_refused_unless_batch_norms_are_frozen():
    model = small_upernet()
    image = torch.randn(1, 3, 64, 64)
    with pytest.raises(ValueError, match="convert_sync_batchnorm"):
        model(image)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    assert model(image).logits.isfinite().all()


def test_a_backbone_with_other_strides_is_refused():
    backbone = DenseViT(DenseViTConfig(body=small_body(), pyramid=PyramidConfig(scales=(2, 1, 0.5), add_p6=True)))
    with pytest.raises(ValueError, match=r"\(8, 16, 32, 64\)"):
        UperNet(backbone, UperNetConfig())


def test_layer_decay_applies_to_the_backbone_of_a_segmenter():
    model = small_upernet()
    for name, _ in model.backbone.named_parameters():
        assert model.layer_index(f"backbone.{name}") == model.backbone.layer_index(name)
    assert model.layer_index("head.classifier.1.weight") == model.backbone.layer_index("pyramid.levels.0")
    assert model.no_weight_decay() <= {name for name, _ in model.named_parameters()}


def test_profiles_are_those_of_the_papers():
    rows = {
        name: (p.lr, p.weight_decay, p.layer_decay, p.drop_path, p.out_indices, p.head.auxiliary_map, p.head.channels)
        for name, p in PROFILES.items()
    }
    assert rows == {
        "beitv2": (5e-5, 0.05, 0.75, 0.15, (3, 5, 7, 11), 2, 768),
        "beitv2_large": (4e-5, 0.05, 0.9, 0.2, (7, 11, 15, 23), 2, 1024),
        "xcit": (6e-5, 0.01, None, 0.1, (7, 11, 15, 23), 2, 512),
        "mmseg": (6e-5, 0.01, None, 0.1, (2, 5, 8, 11), 3, 512),
    }
    windows = {name: profile.inference.window for name, profile in PROFILES.items()}
    assert windows == {"beitv2": 512, "beitv2_large": 512, "xcit": None, "mmseg": None}


@pytest.mark.parametrize("name", PROFILES)
def test_backbones_of_profiles_have_global_attention_and_four_maps(name):
    profile = replace(PROFILES[name], head=small_profile().head)
    body = replace(small_body(), depth=profile.out_indices[-1] + 1, width=16, heads=1)
    backbone = make_vit_backbone(body, profile)
    assert backbone.config.global_indices == set(range(body.depth))
    assert backbone.config.body.drop_path == profile.drop_path
    maps = UperNet(backbone, profile.head).backbone(torch.randn(1, 3, 64, 96)).features
    assert [tuple(x.shape[1:]) for x in maps] == [(16, 16, 24), (16, 8, 12), (16, 4, 6), (16, 2, 3)]
    with pytest.raises(ValueError, match="5 blocks"):
        make_vit_backbone(replace(body, depth=5), profile)


def test_every_weight_of_the_resized_neck_gets_a_gradient():
    profile = replace(small_profile(), neck="resized")
    model = UperNet(make_vit_backbone(small_body(), profile), profile.head)
    images, labels = labeled()
    sum(upernet_losses(model(images), labels, model.config).values()).backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in model.backbone.pyramid.parameters())


@pytest.mark.parametrize(
    "changes", [{"classes": 0}, {"pool_sizes": ()}, {"dropout": 1.0}, {"auxiliary_map": 4}, {"auxiliary_weight": 0.0}]
)
def test_options_out_of_range_are_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        UperNetConfig(**changes)


@pytest.mark.full
def test_three_images_are_overfitted(tmp_path):
    images, labels = labeled_images(tmp_path / "ade")
    model = small_upernet(width=64, dropout=0.0)
    steps = 110
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, steps, pct_start=0.2)
    for _ in range(steps):
        optimizer.zero_grad()
        sum(upernet_losses(model(images), labels, model.config).values()).backward()
        optimizer.step()
        schedule.step()
    found = segment(model.eval().logits, [images], (64, 64), InferenceConfig())
    assert segmentation_scores(confusion(found, labels, 150)).miou > 0.9
