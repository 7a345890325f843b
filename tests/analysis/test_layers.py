import pytest
import torch
from torch import nn

from ropevit.analysis.layers import attention_layers, frequencies_at, rotated_layers, trained_grid
from ropevit.models import set_scaling
from ropevit.models.dense import DenseViT, DenseViTConfig
from ropevit.rope import axial_frequencies


def test_shared_frequencies_are_repeated_for_every_head_and_layer(vit):
    layers = attention_layers(vit("rope_axial"))
    assert [layer.name for layer in layers] == ["blocks.0.attn", "blocks.1.attn"]
    for layer in layers:
        assert layer.heads == 2
        torch.testing.assert_close(layer.frequencies, axial_frequencies(16).unsqueeze(1).expand(-1, 2, -1))


def test_every_layer_has_its_own_learned_frequencies(vit):
    model = vit("rope_mixed")
    for layer, block in zip(attention_layers(model), model.blocks, strict=True):
        torch.testing.assert_close(layer.frequencies, block.attn.rope.freqs.detach())


def test_rope_types_that_differ_by_head_keep_all_heads(vit):
    model = vit("rope_golden")
    for layer in attention_layers(model):
        torch.testing.assert_close(layer.frequencies, model.rope.frequencies())


def test_axial_frequencies_of_a_swin_are_shared_within_a_stage(swin):
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


def test_the_model_inside_a_backbone_is_found(vit):
    model = vit()
    backbone = DenseViT(DenseViTConfig(body=model.config, window=2))
    assert [layer.name for layer in attention_layers(backbone)] == ["body.blocks.0.attn", "body.blocks.1.attn"]


def test_layers_without_rope_are_listed_but_not_as_rotated(vit):
    model = vit("ape")
    assert [layer.frequencies for layer in attention_layers(model)] == [None, None]
    with pytest.raises(ValueError, match="no attention layer of the model has RoPE"):
        rotated_layers(model)


def test_modules_without_attention_layers_raise():
    with pytest.raises(ValueError, match="got Linear, which has no attention layer"):
        attention_layers(nn.Linear(2, 2))


def test_rope_scaling_changes_frequencies_on_larger_grids_only(vit):
    model = vit()
    before = [layer.frequencies for layer in rotated_layers(model)]
    set_scaling(model, "pi")
    for old, layer in zip(before, frequencies_at(model, (4, 6)), strict=True):
        assert torch.equal(layer.frequencies, old)
    for old, layer in zip(before, frequencies_at(model, (8, 18)), strict=True):
        torch.testing.assert_close(layer.frequencies, old / torch.tensor([3, 2])[:, None, None])


def test_the_trained_grid_is_that_of_the_config(vit, swin):
    assert trained_grid(vit()) == (4, 6)
    assert trained_grid(vit(trained_grid=(3, 5))) == (3, 5)
    assert trained_grid(swin()) == (4, 4)


def test_a_backbone_with_mixed_windows_has_no_single_trained_grid(vit):
    with pytest.raises(ValueError, match="use windows, others global attention"):
        trained_grid(DenseViT(DenseViTConfig(body=vit().config, window=2)))
