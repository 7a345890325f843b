import pytest
import torch
from torch import nn

from ropevit.analysis.layers import attention_layers, frequencies_at, rotated_layers, trained_grid
from ropevit.models import set_scaling
from ropevit.models.dense import DenseViT, DenseViTConfig
from ropevit.rope import axial_frequencies


def test_what_heads_and_layers_share_is_repeated_for_each(vit):
    layers = attention_layers(vit("rope_axial"))
    assert [layer.name for layer in layers] == ["blocks.0.attn", "blocks.1.attn"]
    for layer in layers:
        assert layer.heads == 2
        torch.testing.assert_close(layer.frequencies, axial_frequencies(16).unsqueeze(1).expand(-1, 2, -1))


def test_learned_frequencies_are_those_of_each_layer(vit):
    model = vit("rope_mixed")
    for layer, block in zip(attention_layers(model), model.blocks, strict=True):
        torch.testing.assert_close(layer.frequencies, block.attn.rope.freqs.detach())


def test_families_that_differ_by_head_keep_their_heads_apart(vit):
    model = vit("rope_golden")
    for layer in attention_layers(model):
        torch.testing.assert_close(layer.frequencies, model.rope.frequencies())


def test_a_swin_shares_axial_frequencies_out_stage_by_stage(swin):
    layers = attention_layers(swin("rope_axial"))
    assert [layer.name for layer in layers] == [
        "layers.0.blocks.0.attn",
        "layers.1.blocks.0.attn",
        "layers.1.blocks.1.attn",
    ]
    assert [layer.heads for layer in layers] == [2, 4, 4]
    for layer in layers:
        expected = axial_frequencies(8, theta=50).unsqueeze(1).expand(-1, layer.heads, -1)
        torch.testing.assert_close(layer.frequencies, expected)


def test_a_backbone_is_looked_into(vit):
    model = vit()
    backbone = DenseViT(DenseViTConfig(body=model.config, window=2))
    assert [layer.name for layer in attention_layers(backbone)] == ["body.blocks.0.attn", "body.blocks.1.attn"]


def test_layers_without_rotation_are_listed_but_not_as_rotated(vit):
    model = vit("ape")
    assert [layer.frequencies for layer in attention_layers(model)] == [None, None]
    with pytest.raises(ValueError, match="no attention layer of the model has RoPE"):
        rotated_layers(model)


def test_what_has_no_attention_of_ours_is_refused():
    with pytest.raises(ValueError, match="got Linear, which has no attention layer"):
        attention_layers(nn.Linear(2, 2))


def test_the_rules_of_the_config_change_frequencies_on_larger_grids_alone(vit):
    model = vit()
    before = [layer.frequencies for layer in rotated_layers(model)]
    set_scaling(model, "pi")
    for old, layer in zip(before, frequencies_at(model, (4, 6)), strict=True):
        assert torch.equal(layer.frequencies, old)
    for old, layer in zip(before, frequencies_at(model, (8, 18)), strict=True):
        torch.testing.assert_close(layer.frequencies, old / torch.tensor([3, 2])[:, None, None])


def test_the_trained_grid_is_what_the_config_says(vit, swin):
    assert trained_grid(vit()) == (4, 6)
    assert trained_grid(vit(trained_grid=(3, 5))) == (3, 5)
    assert trained_grid(swin()) == (4, 4)


def test_a_backbone_with_windows_in_some_layers_has_no_one_trained_grid(vit):
    with pytest.raises(ValueError, match="use windows, others global attention"):
        trained_grid(DenseViT(DenseViTConfig(body=vit().config, window=2)))
