"""What timm's own test suite expects of a model beyond names, options and weights: signatures, formats, sizes."""

import inspect

import pytest
import timm
import torch
from timm.layers import resample_patch_embed
from torch.testing import assert_close

from integrations.timm_models import BOTH, MIXED, RPB, SWIN, create
from ropevit.models import build_model


def arguments(function):
    """Names of the arguments after the images."""
    return [*inspect.signature(function).parameters][1:]


@pytest.fixture(scope="module")
def theirs():
    """timm's own models."""
    vit = {"depth": 2, "embed_dim": 96, "num_heads": 3, "img_size": 64, "num_classes": 10}
    swin = {"depths": (2, 2), "embed_dim": 16, "num_heads": (2, 4), "img_size": 64, "window_size": 4}
    return {
        "vit": timm.create_model("vit_tiny_patch16_224", **vit).eval(),
        "swin": timm.create_model("swin_tiny_patch4_window7_224", **swin).eval(),
    }


@pytest.mark.parametrize("method", ["forward_intermediates", "forward_features", "prune_intermediate_layers"])
@pytest.mark.parametrize(("name", "kind"), [(MIXED, "vit"), (SWIN, "swin")])
def test_arguments_come_in_timms_order(method, name, kind, theirs):
    assert arguments(getattr(create(name), method)) == arguments(getattr(theirs[kind], method))


def test_set_input_size_takes_timms_arguments(theirs):
    assert arguments(create(MIXED).set_input_size) == arguments(theirs["vit"].set_input_size)
    assert arguments(create(SWIN).set_input_size) == arguments(theirs["swin"].set_input_size)


def test_a_swin_says_where_its_channels_are():
    model = create(SWIN)
    features = model.forward_features(torch.randn(1, 3, 64, 64))
    assert model.output_fmt == "NHWC"
    assert features.shape[3] == model.num_features
    full = timm.create_model(f"ropevit_{SWIN}")
    assert (
        full.default_cfg["pool_size"] == (7, 7) == tuple(full.forward_features(torch.zeros(1, 3, 224, 224)).shape[1:3])
    )


@pytest.mark.parametrize("name", [BOTH, SWIN])
def test_a_pruned_model_takes_a_new_head_in_the_mode_of_the_model(name):
    model = create(name)
    model.prune_intermediate_layers([0], prune_norm=True)
    model.reset_classifier(5, "avg")
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 5)
    assert not model.head.training


@pytest.mark.parametrize("name", [BOTH, SWIN])
def test_dropout_before_the_head_acts_in_training_alone(name):
    model, images = create(name, drop_rate=0.5), torch.randn(2, 3, 64, 64)
    plain = create(name)
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model(images), plain(images))
    model.train()
    features = model.forward_features(images)
    assert not torch.equal(model.forward_head(features), model.forward_head(features))
    assert torch.equal(model.forward_head(features, pre_logits=True), model.forward_head(features, pre_logits=True))


class TestAttentionMask:
    images = torch.randn(2, 3, 64, 64)
    tokens = 17

    def test_a_mask_of_ones_changes_nothing(self):
        model = create()
        for shape in ((17, 17), (2, 17, 17), (2, 1, 17, 17)):
            assert_close(model(self.images, torch.ones(shape, dtype=torch.bool)), model(self.images))
        assert not torch.allclose(model(self.images, torch.eye(17, dtype=torch.bool)), model(self.images), atol=1e-2)

    def test_tokens_do_not_see_what_the_mask_hides(self):
        model, mask = create(), torch.ones(17, 17, dtype=torch.bool)
        mask[:, -1] = False
        changed = self.images.clone()
        changed[:, :, 48:, 48:] += 1.0  # the last patch
        before, after = (model.forward_features(images, mask) for images in (self.images, changed))
        assert torch.equal(before[:, :-1], after[:, :-1])
        assert not torch.equal(*(model.forward_features(images)[:, :-1] for images in (self.images, changed)))

    def test_causal_tokens_see_none_behind_them(self):
        model, changed = create(), self.images.clone()
        changed[:, :, 48:, 48:] += 1.0
        _, before = model.forward_intermediates(self.images, is_causal=True, output_fmt="NLC")
        _, after = model.forward_intermediates(changed, is_causal=True, output_fmt="NLC")
        assert torch.equal(before[-1][:, :-1], after[-1][:, :-1])
        assert not torch.equal(before[-1], after[-1])

    @pytest.mark.parametrize("mask", [torch.zeros(17, 17), torch.ones(3, 17, 17, dtype=torch.bool)])
    def test_other_masks_are_refused(self, mask):
        with pytest.raises(ValueError, match=r"got attn_mask of shape .*; expected torch.bool, .* \(17, 17\)"):
            create()(self.images, attn_mask=mask)


@pytest.mark.parametrize("options", [{}, {"return_prefix_tokens": True}, {"intermediates_only": True}])
def test_intermediates_as_a_dictionary_have_timms_keys(options, theirs):
    images = torch.randn(1, 3, 64, 64)
    found, expected = (
        model.forward_intermediates(images, 1, output_dict=True, **options) for model in (create(MIXED), theirs["vit"])
    )
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        shapes = [[part.shape for part in given[key]] for given in (found, expected)]
        assert shapes[0] == shapes[1], (key, value)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of timm's own Swin
@pytest.mark.parametrize(("name", "kind"), [(BOTH, "vit"), (RPB, "swin")])
def test_sizes_of_patches_are_read_where_timm_has_them(name, kind, theirs):
    model = create(name)
    for sizes in ({}, {"img_size": (128, 64)}):
        for each in (model, theirs[kind]) if sizes else ():
            each.set_input_size(**sizes)
        for attribute in ("img_size", "patch_size", "grid_size", "num_patches"):
            got, expected = (getattr(each.patch_embed, attribute) for each in (model, theirs[kind]))
            assert got == expected, attribute


@pytest.mark.parametrize(("name", "patch"), [(BOTH, 8), (RPB, 2)])
def test_another_patch_size_resamples_the_patch_embedding_as_timm_does(name, patch):
    model = create(name)
    before = model.patch_embed.proj.weight.detach().clone()
    model.set_input_size(img_size=32, patch_size=(patch, patch))
    assert_close(model.patch_embed.proj.weight.detach(), resample_patch_embed(before, [patch, patch]))
    assert model.feature_info[0]["reduction"] == patch
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 10)
    with pytest.raises(ValueError, match=r"got patch_size=\(8, 4\); expected a square, such as 8"):
        model.set_input_size(patch_size=(8, 4))


def test_sizes_that_patches_do_not_tile_change_nothing():
    model, images = create(), torch.randn(1, 3, 64, 64)
    before = model(images)
    for sizes in ({"img_size": 65}, {"patch_size": 12}, {"img_size": 60, "patch_size": 8}):
        with pytest.raises(ValueError, match="do not tile"):
            model.set_input_size(**sizes)
        assert torch.equal(model(images), before)
    model.set_input_size(60, patch_size=15)  # valid together, though patches of 15 do not tile the size before
    assert (model.config.grid, model.patch_embed.grid_size) == ((4, 4), (4, 4))
    assert model(torch.randn(1, 3, 60, 60)).shape == (1, 10)


@pytest.mark.parametrize("name", [MIXED, SWIN])
def test_rope_scaling_keeps_its_grid_when_the_input_size_changes(name):
    model = create(name, scaling="pi", **({"init_values": None} if name == MIXED else {}))
    model.set_input_size(128)
    rebuilt = build_model(model.config).eval()
    rebuilt.load_state_dict(model.state_dict())
    images = torch.randn(1, 3, 128, 128)
    assert_close(model(images), rebuilt(images))
    assert model.config.trained_grid == (4, 4)


def test_a_norm_behind_the_pooling_is_applied_as_in_our_own_model():
    model = create(MIXED, pooled_norm=True, global_pool="avg")
    own = build_model(model.config).eval()
    own.load_state_dict(model.state_dict())
    images = torch.randn(1, 3, 64, 64)
    assert_close(model(images), own(images))
    final, maps = model.forward_intermediates(images, [1], norm=True)
    assert_close(maps[0], own.forward_intermediates(images, [1], norm=True)[0])
    assert_close(final, own.forward_features(images))


def test_windows_follow_a_ratio_or_a_square():
    model = create(RPB)
    model.set_input_size(img_size=128, window_ratio=4)
    assert model.config.window_size == model.layers[1].blocks[0].attn.window == 8
    model.set_input_size(window_size=(5, 5))
    assert (model.config.window_size, model.config.img_size) == (5, (128, 128))
    assert model(torch.randn(1, 3, 128, 128)).shape == (1, 10)
    with pytest.raises(ValueError, match="got always_partition=True; expected False"):
        model.set_input_size(always_partition=True)


@pytest.mark.parametrize(("name", "kind"), [(BOTH, "vit"), (SWIN, "swin")])
def test_features_by_hooks_are_those_of_each_block_or_stage(name, kind):
    options = {"features_only": True, "feature_cls": "hook", "out_indices": (0, 1)}
    model, images = create(name, **options), torch.randn(1, 3, 64, 64)
    shapes = {"vit": [(1, 17, 96)] * 2, "swin": [(1, 16, 16, 16), (1, 8, 8, 32)]}
    assert [tuple(each.shape) for each in model(images)] == shapes[kind]
