"""Models of other families: features equal to the originals', and files that come back bit for bit."""

import json

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from marks import by_default
from ropevit.models.cost import count_parameters
from ropevit.models.registry import MODELS
from ropevit.models.vit.families import FAMILY_VARIANTS
from ropevit.rope import RopeConvention
from ropevit.weights import WeightsError, convert, create_model, load_model, load_weights, save_model
from weights.families import (
    DINOV3,
    EVA02,
    PE,
    SIZES,
    TIMM_ROPE,
    compare_dinov3_file,
    compare_with_timm,
    compare_with_transformers,
    dinov3_file,
    our_model,
    timm_model,
    transformers_model,
)

NAMES = [name for variant in FAMILY_VARIANTS.values() for name in variant.names.values()]


@pytest.mark.parametrize("name", DINOV3)
def test_features_of_dinov3_are_those_of_timm_and_transformers(name):
    assert compare_with_timm(name, pooling="avg") < 1e-5
    assert compare_with_transformers(name) < 1e-5


@pytest.mark.parametrize("name", [*EVA02, *TIMM_ROPE, *PE])
def test_features_of_other_families_are_those_of_timm(name):
    assert compare_with_timm(name) < 1e-5


@pytest.mark.parametrize("name", DINOV3[1:3])
def test_a_file_of_the_authors_has_the_features_that_timm_computes_from_it(name):
    assert compare_dinov3_file(name) < 1e-5


def assert_same(found: dict, wanted: dict) -> None:
    assert found.keys() == wanted.keys()
    assert [key for key in wanted if not torch.equal(found[key], wanted[key])] == []


def there_and_back(state, layout, config, tmp_path) -> dict:
    convert(state, tmp_path / "ours.safetensors", model=config)
    convert(tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors", layout)
    return load_file(tmp_path / "theirs.safetensors")


@pytest.mark.parametrize("name", [*DINOV3, *EVA02, *TIMM_ROPE, *PE])
def test_timms_weights_come_back_bit_for_bit(name, tmp_path):
    state = timm_model(name).state_dict()
    assert_same(there_and_back(state, "timm", our_model(name).config, tmp_path), state)


@pytest.mark.parametrize("name", DINOV3)
def test_the_authors_file_comes_back_bit_for_bit(name, tmp_path):
    state = dinov3_file(name)
    assert_same(there_and_back(state, "dinov3", our_model(name, mask_token=True).config, tmp_path), state)


@pytest.mark.parametrize("name", DINOV3[1:])
def test_a_file_of_transformers_comes_back_bit_for_bit(name, tmp_path):
    ours = our_model(name, mask_token=True)
    transformers_model(ours).save_pretrained(tmp_path / "hf")
    state = load_file(tmp_path / "hf" / "model.safetensors")
    assert_same(there_and_back(state, "transformers", ours.config, tmp_path), state)


def test_the_config_of_a_file_of_the_authors_or_of_transformers_is_told_by_its_names(tmp_path):
    sizes = {"width": 384, "depth": 1, "heads": 6}
    ours = create_model("dinov3_vits16plus", mask_token=True, **sizes)
    save_model(tmp_path / "ours.safetensors", ours)
    for layout in ("dinov3", "transformers"):
        convert(tmp_path / "ours.safetensors", tmp_path / f"{layout}.safetensors", layout)
        convert(tmp_path / f"{layout}.safetensors", tmp_path / "again.safetensors", overwrite=True)
        again, info = load_model(tmp_path / "again.safetensors")
        differing = {name for name, value in vars(info.config).items() if value != getattr(ours.config, name)}
        assert differing <= {"img_size", "layer_scale", "rope_theta"}
        assert_same(again.state_dict(), ours.state_dict())


@pytest.mark.parametrize("name", [*DINOV3[:2], *TIMM_ROPE])
def test_a_file_that_does_not_determine_its_family_is_converted_by_name_alone(name, tmp_path):
    torch.save(timm_model(name).state_dict(), tmp_path / "model.pth")
    with pytest.raises(WeightsError, match="these do not determine which; name the model"):
        convert(tmp_path / "model.pth", tmp_path / "ours.safetensors")


def test_a_converted_file_has_the_image_size_and_the_name_of_its_model(tmp_path):
    config = MODELS["vit_small_patch16_dinov3"]
    assert config.img_size == (256, 256)  # which no table of such a file determines
    with torch.device("meta"):
        shapes = {
            name: value.shape for name, value in timm.create_model("vit_small_patch16_dinov3").state_dict().items()
        }
    state = {name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
    report = convert(state, tmp_path / "ours.safetensors", model="vit_small_patch16_dinov3")
    assert "model: vit_small_patch16_dinov3, position rope_axial" in str(report)
    assert "images of 256 x 256 pixels" in str(report)
    assert report.config.img_size == config.img_size


def test_weights_with_biases_that_the_model_lacks_are_refused_with_the_name_of_the_one_that_has_them():
    with torch.device("meta"):
        state = timm.create_model("vit_small_patch16_dinov3_qkvb").state_dict()
        model = create_model("vit_small_patch16_dinov3")
    with pytest.raises(WeightsError, match="or of another with these sizes: vit_small_patch16_dinov3_qkvb"):
        load_weights(model, state)


def test_a_raw_state_dict_of_ours_with_register_tokens_is_converted_by_name_alone(tmp_path):
    ours = create_model("vit_small_patch16_dinov3_qkvb", depth=1)  # the width of a model of the paper's authors
    torch.save(ours.state_dict(), tmp_path / "model.pth")
    with pytest.raises(WeightsError, match=r"with register tokens, .* these do not determine which; name the model"):
        convert(tmp_path / "model.pth", tmp_path / "ours.safetensors")
    convert(tmp_path / "model.pth", tmp_path / "ours.safetensors", model=ours.config)


def test_what_pretraining_alone_needs_is_dropped_and_listed():
    state = dinov3_file("vit_small_patch16_dinov3_qkvb")
    report = load_weights(our_model("dinov3_vits16"), state | {"local_cls_norm.weight": torch.ones(64)})
    assert report.layout == "dinov3"
    assert report.dropped["mask_token"] == "for masked patches in pre-training; mask_token=True keeps it"
    assert report.dropped["local_cls_norm.weight"] == "for local crops in pre-training"
    assert report.dropped["rope_embed.periods"] == "computed from the config"


def test_periods_in_bfloat16_are_accepted_and_other_ones_refused():
    state, ours = dinov3_file("vit_small_patch16_dinov3_qkvb"), our_model("dinov3_vits16")
    load_weights(ours, state | {"rope_embed.periods": state["rope_embed.periods"].bfloat16()})
    with pytest.raises(
        WeightsError, match=r"holds other rope_embed.periods than those of base 100, which the model has"
    ):
        load_weights(ours, state | {"rope_embed.periods": state["rope_embed.periods"] * 2})


def test_a_file_of_another_width_is_told_by_its_width_and_not_by_its_mask():
    model = create_model("dinov3_vits16", width=128, depth=2, heads=8, patch_size=8)
    with pytest.raises(WeightsError, match=r"width 64.*while the model has .*width 128"):
        load_weights(model, dinov3_file("vit_small_patch16_dinov3_qkvb"))


def test_weights_of_dinov3_are_refused_by_a_model_with_another_convention():
    state = dinov3_file("vit_small_patch16_dinov3_qkvb")
    for given in (state, transformers_model(our_model("dinov3_vits16")).state_dict()):
        other = our_model("dinov3_vits16", rope_convention=RopeConvention())
        with pytest.raises(
            WeightsError,
            match="the rotation of another family of models, while the model has",
        ):
            load_weights(other, given)


def test_a_file_named_like_dinov3_is_refused_by_a_model_with_another_convention(tmp_path):
    torch.save(timm_model("vit_small_patch16_dinov3").state_dict(), tmp_path / "vit_small_patch16_dinov3.pth")
    other = our_model("vit_small_patch16_dinov3", rope_convention=RopeConvention())
    with pytest.raises(WeightsError, match="is named like vit_small_patch16_dinov3 with RopeConvention"):
        load_weights(other, tmp_path / "vit_small_patch16_dinov3.pth")


def test_a_layout_does_not_hold_models_of_another_family(tmp_path):
    save_model(tmp_path / "a.safetensors", our_model("deit_small"))
    for layout in ("dinov3", "transformers"):
        with pytest.raises(WeightsError, match=f"which the {layout} layout cannot store"):
            convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", layout)


def test_the_bias_of_the_keys_is_ignored():
    ours, images = our_model("dinov3_vits16"), torch.randn(1, 3, 24, 16)
    before = ours.forward_features(images)
    for block in ours.blocks:
        torch.nn.init.normal_(block.attn.qkv.bias[64:128])
    assert torch.equal(ours.forward_features(images), before)
    for block in ours.blocks:
        torch.nn.init.normal_(block.attn.qkv.bias[:64])
    assert not torch.equal(ours.forward_features(images), before)


@pytest.mark.parametrize("name", [*EVA02, *PE])
@torch.no_grad()
def test_packed_images_have_the_output_of_each_alone(name):
    ours = our_model(name)
    images = [torch.randn(3, *size) for size in SIZES]
    found = ours.forward_packed(ours.pack(images))
    torch.testing.assert_close(found, torch.cat([ours(image[None]) for image in images]), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_packed_features_of_attention_pooling_are_those_of_each_image():
    ours = our_model(PE[0])
    images = [torch.randn(3, *size) for size in SIZES[:2]]
    packed = ours.pack(images)
    for found, image in zip(packed.split(ours.forward_packed_features(packed)), images, strict=True):
        torch.testing.assert_close(found, ours.forward_features(image[None])[0], rtol=1e-4, atol=1e-5)


def test_heads_of_attention_pooling_divide_the_width():
    with pytest.raises(ValueError, match="got pool_heads=7; expected a divisor of the width 64"):
        our_model(PE[0], pool_heads=7)


def test_a_pooled_norm_needs_a_final_one():
    with pytest.raises(ValueError, match="got pooled_norm=True without a final norm; leave out final_norm=False"):
        our_model(EVA02[0], final_norm=False)


@torch.no_grad()
def test_a_model_without_a_final_norm_takes_a_head_and_has_no_norm_in_its_maps():
    ours, images = our_model(PE[-1]), torch.randn(1, 3, 24, 16)
    plain, normed = (ours.forward_intermediates(images, [-1], norm=norm)[0] for norm in (False, True))
    assert torch.equal(plain, normed)
    ours.reset_classifier(7)
    assert ours(images).shape == (1, 7)
    torch.testing.assert_close(ours(images), ours.head(plain.flatten(2).mean(2)))


def test_timms_layout_does_not_hold_another_pooling_of_these_models(tmp_path):
    for name, pooling in ((EVA02[2], "avg"), (PE[3], "token")):
        file = save_model(tmp_path / f"{name}.safetensors", our_model(name, pooling=pooling))
        with pytest.raises(WeightsError, match=f"has pooling={pooling}, which the timm layout cannot store"):
            convert(file, tmp_path / "timm.safetensors", "timm")


def test_an_embedding_of_prefix_tokens_needs_an_absolute_one():
    with pytest.raises(
        ValueError, match="got embed_prefix=True for rope_axial; expected an absolute embedding and prefix tokens"
    ):
        our_model("dinov3_vits16", embed_prefix=True)


#: The sizes whose modules take longest to make.
LARGEST = ("vit_large", "vit_huge", "vit_7b", "eva02_large", "vit_pe_core_gigantic", "vit_pe_lang", "vit_pe_spatial")


@pytest.mark.parametrize("name", by_default([name for name in NAMES if not name.startswith(LARGEST)], NAMES))
def test_full_sizes_have_the_parameters_of_timm(name):
    with torch.device("meta"):
        theirs = sum(parameter.numel() for parameter in timm.create_model(name).parameters())
    config = MODELS[name]
    unused = 0 if config.key_bias else config.depth * config.width  # timm does not store biases of keys
    assert count_parameters(config) - unused == theirs


def test_a_file_holds_the_options_of_the_family(tmp_path):
    save_model(tmp_path / "a.safetensors", our_model("dinov3_vits16plus"))
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        stored = json.loads(file.metadata()["config"])
    assert {"mlp", "norm_eps", "key_bias", "rope_convention"} <= stored.keys()
    assert not {"qkv_bias", "mask_token"} & stored.keys()
