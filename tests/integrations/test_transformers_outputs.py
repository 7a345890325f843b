"""What models of transformers ask of a vision model beyond its features: attention weights, single layers, tokens."""

import pytest
import torch
from torch.testing import assert_close
from transformers import (
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    DPTConfig,
    DPTForDepthEstimation,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from ropevit.integrations.transformers import (
    RopeSwinBackbone,
    RopeSwinConfig,
    RopeSwinForImageClassification,
    RopeSwinModel,
    RopeViTBackbone,
    RopeViTConfig,
    RopeViTForImageClassification,
    RopeViTModel,
)
from ropevit.models import MODELS
from ropevit.models.positions import VIT_EMBEDDINGS

#: Without LayerScale, so that attention shows in every output.
VIT = {
    "layer_scale": None,
    "width": 32,
    "depth": 4,
    "heads": 2,
    "img_size": 64,
    "position": "rope_mixed",
    "num_labels": 4,
}
SWIN = {
    "width": 16, "depths": (2, 1), "heads": (2, 4), "img_size": 64, "position": "rope_mixed_rpb", "window_size": 4,
}  # fmt: skip
CLASSES = {
    "vit": [RopeViTModel, RopeViTForImageClassification, RopeViTBackbone],
    "swin": [RopeSwinModel, RopeSwinForImageClassification, RopeSwinBackbone],
}
#: Shapes of the attention weights of two images of 64 px.
SHAPES = {"vit": [(2, 2, 17, 17)] * 4, "swin": [(2 * 16, 2, 16, 16), (2 * 4, 4, 16, 16)]}


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def sharpened(model):
    """Make attention far from uniform."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "qkv.weight" in name:
                parameter.mul_(15)
            if "relative_position_bias_table" in name:
                parameter.normal_()
    return model.eval()


def configs(kind, **fields):
    return RopeViTConfig(**VIT, **fields) if kind == "vit" else RopeSwinConfig(**SWIN, **fields)


@pytest.mark.parametrize(("kind", "place"), [(kind, place) for kind in CLASSES for place in range(3)])
def test_attention_weights_are_returned_and_change_nothing(kind, place, images):
    fields = {"out_indices": list(range(len(SHAPES[kind]) + 1))} if place == 2 else {}
    model = sharpened(CLASSES[kind][place](configs(kind, **fields)))
    output, plain = model(images, output_attentions=True), model(images)
    assert [tuple(weights.shape) for weights in output.attentions] == SHAPES[kind]
    assert plain.attentions is None
    for weights in output.attentions:
        assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    assert_close(*(found[0] if place < 2 else found[0][-1] for found in (output, plain)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("position", ["rope_mixed_decay", "rope_mixed_gaussian", "alibi"])
def test_distance_biases_take_part_in_the_weights(position, images):
    model = sharpened(RopeViTModel(RopeViTConfig(**(VIT | {"position": position}))))
    output = model(images, output_attentions=True)
    assert_close(output.last_hidden_state, model(images).last_hidden_state, rtol=1e-4, atol=1e-5)
    without = sharpened(RopeViTModel(RopeViTConfig(**(VIT | {"position": "rope_mixed"}))))
    without.load_state_dict(model.state_dict(), strict=False)
    weights = without(images, output_attentions=True).attentions[0]
    assert (weights - output.attentions[0]).abs().max() > 0.01


def test_attention_pooling_is_no_block(images):
    model = RopeViTModel(RopeViTConfig(**VIT, pooling="map", pool_heads=4)).eval()
    assert [tuple(weights.shape) for weights in model(images, output_attentions=True).attentions] == SHAPES["vit"]


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
def test_attention_weights_with_gradient_checkpointing_are_refused_in_training(images):
    model = RopeViTModel(configs("vit")).train()
    model.gradient_checkpointing_enable()
    with pytest.raises(ValueError, match="got output_attentions=True with gradient checkpointing"):
        model(images, output_attentions=True)
    assert model.eval()(images, output_attentions=True).attentions


def test_weights_have_gradients(images):
    for kind in CLASSES:
        output = CLASSES[kind][0](configs(kind))(images, output_attentions=True)
        for weights in output.attentions:
            weights.retain_grad()
        output.pooler_output.square().sum().backward()
        assert all(weights.grad.abs().sum() > 0 for weights in output.attentions)


@pytest.mark.parametrize(("kind", "place"), [(kind, place) for kind in CLASSES for place in range(3)])
def test_gradients_flow_through_the_hidden_states(kind, place, images):
    model = CLASSES[kind][place](configs(kind))
    output = model(images, output_hidden_states=True)
    for state in output.hidden_states:
        state.retain_grad()
    last = output.feature_maps[0] if place == 2 else output[0]
    last.square().sum().backward()
    assert all(state.grad.abs().sum() > 0 for state in output.hidden_states)


def test_a_backbone_returns_the_weights_of_all_stages_whatever_its_maps(images):
    for kind, shapes in SHAPES.items():
        model = CLASSES[kind][2](configs(kind, out_indices=[1], output_attentions=True))
        assert [tuple(weights.shape) for weights in model(images).attentions] == shapes


def test_weights_are_those_of_the_layer_itself(images):
    """The attention weights of the last block, applied to its values, give what its projection receives."""
    model = RopeViTModel(configs("vit")).eval()
    last, seen = model.ropevit.blocks[-1].attn, {}
    last.qkv.register_forward_hook(lambda _, __, out: seen.update(v=out.unflatten(-1, (3, 2, 16))[:, :, 2].clone()))
    last.proj.register_forward_pre_hook(lambda _, given: seen.update(mixed=given[0]))
    weights = model(images, output_attentions=True).attentions[-1]
    assert_close((weights @ seen["v"].transpose(1, 2)).transpose(1, 2).flatten(2), seen["mixed"])


def test_the_config_can_ask_for_attention_weights(images):
    model = RopeViTModel(configs("vit", output_attentions=True, attn_implementation="eager")).eval()
    assert len(model(images).attentions) == 4
    assert model(images, output_attentions=False).attentions is None


def test_attributes_set_on_a_config_do_not_hinder_loading_it(tmp_path):
    config = configs("vit")
    config.norm_epsilon = 1.0  # of transformers' own test suite; close to our norm_eps
    config.save_pretrained(tmp_path)
    assert RopeViTConfig.from_pretrained(tmp_path).norm_epsilon == 1.0
    with pytest.raises(ValueError, match="no field named 'norm_epsilon'; did you mean norm_eps"):
        configs("vit", norm_epsilon=1.0)


def test_a_backbone_without_reshaping_returns_the_tokens_of_its_states(images):
    model = RopeViTBackbone(configs("vit", reshape_hidden_states=False, out_indices=[1, 3])).eval()
    output = model(images, output_hidden_states=True)
    for tokens, index in zip(output.feature_maps, (1, 3), strict=True):
        assert torch.equal(tokens, output.hidden_states[index])
    assert RopeViTConfig.from_dict(model.config.to_dict()).reshape_hidden_states is False


@pytest.mark.parametrize("head", ["dpt", "depth_anything"])
def test_heads_for_depth_take_our_tokens(head, images):
    backbone = configs("vit", reshape_hidden_states=False, out_indices=[1, 2, 3, 4])
    sizes = {"neck_hidden_sizes": [8, 8, 16, 16], "fusion_hidden_size": 8}
    if head == "dpt":
        model = DPTForDepthEstimation(DPTConfig(backbone_config=backbone, hidden_size=32, image_size=64, **sizes))
    else:
        more = {"reassemble_hidden_size": 32, "patch_size": 16, "head_in_channels": 8, "head_hidden_size": 8}
        model = DepthAnythingForDepthEstimation(DepthAnythingConfig(backbone_config=backbone, **more, **sizes))
    depth = model.eval()(images).predicted_depth
    assert depth.shape == (2, 64, 64)
    depth.sum().backward()
    assert model.backbone.ropevit.blocks[0].attn.rope.freqs.grad.abs().sum() > 0


def test_llava_reads_the_layer_that_it_asks_for(images):
    text = LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, vocab_size=100)
    config = LlavaConfig(
        vision_config=configs("vit").to_dict(), text_config=text, image_token_index=99, vision_feature_layer=-2
    )
    model = LlavaForConditionalGeneration(config).eval()
    tower = model.model.vision_tower
    tokens = tower(images[:1], output_hidden_states=True).hidden_states[-2][:, 1:]
    seen = []
    model.model.multi_modal_projector.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    ids = torch.tensor([[1, *[99] * 16, 2]])
    assert model(input_ids=ids, pixel_values=images[:1]).logits.shape == (1, 18, 100)
    assert torch.equal(seen[0].reshape(tokens.shape), tokens)


@pytest.mark.parametrize(
    "position", [name for name in VIT_EMBEDDINGS if "_" not in name or name.startswith("rope_")][:12]
)
def test_what_stays_float32_exists_in_the_model(position):
    model = RopeViTModel(RopeViTConfig(**(VIT | {"position": position})))
    names = [name for name, _ in model.named_parameters()]
    for ending in model._keep_in_fp32_modules_strict:
        assert any(name.endswith(ending) for name in names), ending
    learned = MODELS["rope_mixed_deit_small_patch16_LS"]  # a learned rotation keeps its frequencies
    if position == learned.position:
        assert model._keep_in_fp32_modules_strict == {"rope.freqs"}
