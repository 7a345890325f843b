"""Gradient checkpointing of the transformers models: that of transformers, in the blocks."""

import copy
import io

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoBackbone, AutoModel
from transformers.modeling_layers import GradientCheckpointingLayer

from ropevit.integrations.transformers import from_ropevit
from ropevit.models import SwinConfig, ViTConfig, build_model
from ropevit.models.layers import Block
from ropevit.models.swin.model import SwinBlock

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")

VIT = ViTConfig(
    position="rope_mixed", width=32, depth=3, heads=2, patch_size=8, img_size=(32, 32), drop_path=0.3, layer_scale=None,
    num_classes=5,
)  # fmt: skip
SWIN = SwinConfig(
    position="rope_mixed_rpb", width=16, depths=(2, 1), heads=(2, 4), window_size=4, img_size=(32, 32), drop_path=0.3,
    num_classes=5,
)  # fmt: skip
BOTH = pytest.mark.parametrize(("config", "block"), [(VIT, Block), (SWIN, SwinBlock)], ids=["vit", "swin"])


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32)


def blocks(model, kind):
    return [module for module in model.modules() if isinstance(module, kind)]


def gradients(model, images):
    torch.manual_seed(0)  # of stochastic depth
    model(images, labels=torch.tensor([0, 3])).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@BOTH
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradients_are_those_without_checkpointing(config, block, use_reentrant, images):
    model = from_ropevit(build_model(config)).train()
    expected = gradients(copy.deepcopy(model), images)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": use_reentrant})
    runs = []
    for layer in blocks(model, block):
        assert isinstance(layer, GradientCheckpointingLayer)
        layer.norm1.register_forward_hook(lambda *_: runs.append(1))
    found = gradients(model, images)
    assert len(runs) == 2 * len(blocks(model, block))
    assert found["ropevit.patch_embed.proj.weight"].any()
    assert_close(found, expected)
    model.gradient_checkpointing_disable()
    runs.clear()
    gradients(model, images)
    assert len(runs) == len(blocks(model, block))


@BOTH
@pytest.mark.parametrize("auto", [AutoModel, AutoBackbone])
def test_a_converted_model_keeps_checkpointing_both_ways(config, block, auto):
    model = build_model(config)
    assert not from_ropevit(model, auto).is_activation_checkpointing
    model.set_grad_checkpointing()
    converted = from_ropevit(model, auto)
    assert all(layer.gradient_checkpointing for layer in blocks(converted, block))
    assert not converted.ropevit.grad_checkpointing  # once, not twice
    assert {type(layer) for layer in blocks(model, block)} == {block}  # it was a copy
    if auto is AutoModel:
        back = converted.to_ropevit()
        assert back.grad_checkpointing
        assert {type(layer) for layer in blocks(back, block)} == {block}
        assert not any("checkpointing" in name for layer in blocks(back, block) for name in vars(layer))
        assert blocks(converted, GradientCheckpointingLayer)


def test_a_pickled_model_is_read_again(images):
    model = from_ropevit(build_model(VIT)).eval()
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    assert_close(torch.load(file, weights_only=False)(images).logits, model(images).logits, rtol=0, atol=0)


def test_gradient_checkpointing_keeps_fewer_activations(images):
    def kept(model):
        count = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: count.append(x.numel()) or x, lambda x: x):
            model(images, labels=torch.tensor([0, 3]))
        return sum(count)

    model = from_ropevit(build_model(VIT)).train()
    everything = kept(model)
    model.gradient_checkpointing_enable()
    assert kept(model) < everything / 3
