"""Files of the authors of EVA-02 and Perception Encoder: timm's features, and back bit for bit."""

import pytest
import torch
from safetensors.torch import load_file

from ropevit.models.registry import MODELS
from ropevit.models.vit.families import FILE_NAMES
from ropevit.weights import WeightsError, convert, create_model, load_weights, save_model
from ropevit.weights.infer import claimed_name
from weights.authors import authors_file, compare_authors_file
from weights.families import EVA02, PE, SMALL, our_model

NAMES = [*EVA02, *PE]


def layout(name: str) -> str:
    return "pe" if name in PE else "eva02"


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_the_authors_has_the_features_that_timm_computes_from_it(name):
    assert compare_authors_file(name) < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_the_authors_comes_back_bit_for_bit(name, tmp_path):
    _, state = authors_file(name)
    convert(state, tmp_path / "ours.safetensors", model=our_model(name).config)
    report = convert(tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors", layout(name))
    found = load_file(tmp_path / "theirs.safetensors")
    assert found.keys() == state.keys()
    assert [key for key in state if not torch.equal(found[key], state[key])] == []
    assert report.written == len(state)


@pytest.mark.parametrize("name", [EVA02[2], PE[0]])
def test_of_a_clip_model_the_image_tower_alone_is_read(name):
    _, state = authors_file(name)
    text = {"logit_scale": torch.ones(()), "transformer.resblocks.0.ln_1.weight": torch.ones(5)}
    report = load_weights(our_model(name), state | text)
    assert {key: report.dropped.get(key) for key in text} == dict.fromkeys(
        text, "of a CLIP model beside the image tower"
    )


def test_a_tower_of_timm_inside_open_clip_is_read():
    theirs, _ = authors_file(EVA02[2])
    state = {f"visual.trunk.{key}": value for key, value in theirs.state_dict().items()} | {"text.a": torch.ones(1)}
    report = load_weights(our_model(EVA02[2]), state)
    assert (report.layout, [*report.dropped]) == ("timm", ["text.a"])


@pytest.mark.parametrize(
    ("name", "prefix", "other"),
    [
        (PE[0], "", "head.weight"),
        (PE[0], "", "logit_scale_of_another"),
        (EVA02[2], "visual.trunk.", "visual.head.proj.weight"),
    ],
)
def test_weights_beside_the_image_tower_that_no_text_tower_has_are_refused(name, prefix, other):
    theirs, state = authors_file(name)
    state = {f"{prefix}{key}": value for key, value in (theirs.state_dict() if prefix else state).items()}
    with pytest.raises(WeightsError, match=rf"beside 1 that are neither its nor the text tower's \({other}\); remove"):
        load_weights(our_model(name), state | {other: torch.ones(1), "logit_scale": torch.ones(()), "epoch": 3})


def test_a_stray_weight_under_visual_does_not_pass_for_a_clip_model():
    ours = our_model(PE[0])
    with pytest.raises(WeightsError, match=r"holds weights under visual\., as a CLIP model's image tower, beside"):
        load_weights(ours, ours.state_dict() | {"visual.extra": torch.ones(1)})


def test_what_pretraining_of_eva02_alone_needs_is_dropped_and_listed():
    _, state = authors_file("eva02_base_patch14_224")
    state = {key.replace("fc_norm", "norm"): value for key, value in state.items() if not key.startswith("head.")}
    state |= {"mask_token": torch.zeros(1, 1, 64), "lm_head.weight": torch.ones(4, 64), "lm_head.bias": torch.ones(4)}
    report = load_weights(our_model("eva02_base_patch14_224"), state)
    assert report.layout == "eva02"
    assert report.dropped["lm_head.bias"] == "for the features of masked patches in pre-training"
    assert report.dropped["mask_token"] == "for masked patches in pre-training; mask_token=True keeps it"
    assert report.dropped["blocks.1.attn.rope.freqs_sin"] == "computed from the config"
    kept = our_model("eva02_base_patch14_224", mask_token=True)
    load_weights(kept, state | {"mask_token": torch.full((1, 1, 64), 2.0)})
    assert kept.mask_token.unique().tolist() == [2.0]


def test_other_tables_than_the_models_are_refused_and_those_of_another_size_read():
    _, state = authors_file("eva02_base_patch14_224")
    with pytest.raises(WeightsError, match=r"holds other rope.freqs_cos than those of base 10000, which the model has"):
        load_weights(our_model("eva02_base_patch14_224"), state | {"rope.freqs_cos": state["rope.freqs_sin"]})
    with pytest.raises(WeightsError, match=r"holds other rope\.freqs_cos than"):
        load_weights(our_model("eva02_base_patch14_224"), state | {"rope.freqs_cos": torch.tensor(1.0)})
    larger = create_model("eva02_base_patch14_224", **SMALL | {"img_size": (96, 96)})
    report = load_weights(larger, state)
    assert report.resized == {"pos_embed": "from 8 x 8 to 12 x 12 patches"}


def test_an_image_embedding_with_a_bias_is_not_stored_in_the_authors_layout(tmp_path):
    ours = our_model(PE[0])
    torch.nn.init.ones_(ours.head.bias)
    file = save_model(tmp_path / "ours.safetensors", ours)
    with pytest.raises(WeightsError, match=r"holds a head\.bias other than 0, which the pe layout cannot store"):
        convert(file, tmp_path / "theirs.pt", "pe")


@pytest.mark.parametrize("name", [EVA02[1], PE[0], PE[2]])
def test_a_file_of_the_authors_is_converted_by_name_alone(name, tmp_path):
    theirs, state = authors_file(name)
    for given in (state, theirs.state_dict()):
        with pytest.raises(WeightsError, match="these do not determine which; name the model"):
            convert(given, tmp_path / "ours.safetensors")


def test_the_authors_names_of_files_and_repositories_tell_the_model():
    assert set(FILE_NAMES.values()) <= set(MODELS)
    assert claimed_name("facebook/PE-Core-B16-224") == "vit_pe_core_base_patch16_224"
    assert claimed_name("files/PE-Spatial-G14-448.pt") == "vit_pe_spatial_gigantic_patch14_448"
    assert claimed_name("EVA02_CLIP_L_336_psz14_s6B.pt") == "eva02_large_patch14_clip_336"
    for source in ("dinov3_vits16.pth", "d/dinov3_vits16_pretrain_lvd1689m-08c60483.pth", "a/dinov3-vits16-pretrain-x"):
        assert claimed_name(source) == "vit_small_patch16_dinov3_qkvb"
    assert claimed_name("dinov3_vits16plus_pretrain_lvd1689m-4057cbaa.pth") == "vit_small_plus_patch16_dinov3_qkvb"
    assert claimed_name("deit_small.pth") is None, "of any position embedding"
