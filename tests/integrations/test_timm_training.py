"""Our models in timm's training scripts: heads, parameter groups, checkpoints, EMA."""

import copy
from argparse import Namespace

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from timm.utils import CheckpointSaver, ModelEmaV3, unwrap_model
from torch.nn import functional as F
from torch.testing import assert_close

import ropevit
from integrations.timm_models import BOTH, MIXED, RPB, SWIN, VIT_SIZES, create, published, small
from ropevit.weights import WeightsError, convert, load_model, load_weights, save_model

AXIAL = "rope_axial_deit_small_patch16_LS"


@pytest.mark.parametrize("name", [BOTH, AXIAL, SWIN, RPB])
def test_timms_layer_groups_are_those_of_our_layer_decay(name):
    model = create(name)
    layers = timm.models.group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    assert layers == {parameter: model.layer_index(parameter) for parameter, _ in model.named_parameters()}
    modules = timm.models.group_modules(model, model.group_matcher(), reverse=True)
    assert modules["norm"] == modules["head"] == max(layers.values())
    for module, layer in modules.items():
        assert {layers[key] for key in layers if key.rpartition(".")[0] == module} == {layer}


def test_learned_frequencies_are_grouped_with_their_block_and_stage():
    layers = timm.models.group_parameters(create(), create().group_matcher(), reverse=True)
    assert [layers[f"blocks.{block}.attn.rope.freqs"] for block in (0, 1)] == [1, 2]
    swin = create(SWIN)
    fine, coarse = (timm.models.group_parameters(swin, swin.group_matcher(c), reverse=True) for c in (False, True))
    frequencies = [key for key in fine if key.endswith("freqs")]
    assert [fine[key] for key in frequencies] == [1, 2, 3, 4]
    assert [coarse[key] for key in frequencies] == [1, 1, 2, 2]
    assert coarse["layers.0.downsample.reduction.weight"] == 1
    assert (coarse["patch_embed.norm.weight"], coarse["norm.bias"], coarse["head.bias"]) == (0, 3, 3)


@pytest.mark.parametrize("name", [BOTH, RPB])
def test_layer_decay_and_weight_decay_agree_with_ours(name):
    model = create(name)
    ours = ropevit.parameter_groups(model, lr=1.0, weight_decay=0.05, layer_decay=0.5)
    expected = {id(p): (group["lr_scale"], group["weight_decay"]) for group in ours for p in group["params"]}
    kept = model.no_weight_decay()
    theirs = param_groups_layer_decay(model, weight_decay=0.05, layer_decay=0.5, no_weight_decay_list=kept)
    assert {id(p): (group["lr_scale"], group["weight_decay"]) for group in theirs for p in group["params"]} == expected
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1.0, weight_decay=0.05, layer_decay=0.5)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decay == {key: weight_decay for key, (_, weight_decay) in expected.items()}
    frequencies = [p for key, p in model.named_parameters() if key.endswith("freqs")]
    assert {decay[id(p)] for p in frequencies} == {0.0}


@pytest.mark.parametrize("name", [BOTH, RPB])
def test_heads_and_poolings_change_as_in_timm(name):
    model, images = create(name), torch.randn(2, 3, 48, 80)
    features = model.forward_features(images)
    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape == (2, model.num_features) == (2, model.head_hidden_size)
    assert torch.equal(model(images), model.get_classifier()(pooled))
    model.reset_classifier(0)
    assert torch.equal(model(images), pooled)
    model.reset_classifier(0, "")
    assert (model.num_classes, model.global_pool) == (0, "")
    assert torch.equal(model(images), features)
    model.reset_classifier(4, "avg")
    assert model.global_pool == "avg"
    tokens = features.flatten(1, 2) if "swin" in name else features[:, model.num_prefix_tokens :]
    assert_close(model(images), model.head(tokens.mean(1)))
    assert create(name, global_pool="", num_classes=0)(images).shape == features.shape
    with pytest.raises(ValueError, match="got global_pool='max'"):
        model.reset_classifier(4, "max")
    assert model.head.out_features == 4


def test_set_input_size_resizes_the_absolute_embedding():
    model, before = create(), create().state_dict()
    model.load_state_dict(before)
    model.pos_embed.requires_grad_(False)
    model.set_input_size((96, 48))
    assert model.config.img_size == (96, 48)
    assert model.pos_embed.shape == (1, 18, 96)
    assert not model.pos_embed.requires_grad
    resized = ropevit.models.build_model(model.config)
    load_weights(resized, before)
    assert_close(resized.pos_embed, model.pos_embed, rtol=0, atol=0)
    with pytest.raises(ValueError, match="use a height of 48 or 64 and a width of 48 or 64"):
        model.set_input_size(60)


@pytest.mark.parametrize("name", [RPB, RPB.replace("mixed", "axial")])
def test_set_input_size_gives_a_swin_the_window_size_of_the_paper(name):
    model, before = create(name), create(name).state_dict()
    model.load_state_dict(before)
    model.set_input_size(256)
    assert model.config.window_size == 8
    twin = create(name, img_size=256, window_size=8)
    load_weights(twin, before)
    images = torch.randn(1, 3, 96, 128)
    assert torch.equal(model(images), twin(images))
    model.set_input_size(256, window_size=5)
    assert model.layers[1].blocks[0].attn.relative_position_bias_table.shape == (81, 4)
    with pytest.raises(ValueError, match="got window_size=0; expected at least 1"):
        model.set_input_size(256, window_size=0)


@pytest.mark.parametrize("name", [BOTH, RPB])
def test_a_timm_training_loop_saves_and_resumes(name, tmp_path):
    """Follow the calls of timm's train.py and validate.py."""
    model = create(name, drop_rate=0.0, drop_path_rate=0.1, num_classes=5).train()
    model.set_grad_checkpointing(enable=True)
    data = timm.data.resolve_data_config({"img_size": 64}, model=model)
    assert model.num_classes == 5
    options = {"opt": "adamw", "lr": 1e-2, "weight_decay": 0.05, "layer_decay": 0.75}
    optimizer, average = create_optimizer_v2(model, **options), ModelEmaV3(model, decay=0.5)
    images = torch.randn(4, *data["input_size"])
    for _ in range(2):
        F.cross_entropy(model(images), torch.arange(4)).backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update(model)
    args = Namespace(model=f"ropevit_{name}")
    saver = CheckpointSaver(model, optimizer, args, average, checkpoint_dir=tmp_path, recovery_dir=tmp_path)
    saver.save_checkpoint(epoch=3, metric=50.0)
    file = str(tmp_path / "last.pth.tar")

    resumed = create(name, num_classes=5)
    other = create_optimizer_v2(resumed, **options)
    assert timm.models.resume_checkpoint(resumed, file, other) == 4
    assert_same(resumed, model)
    assert other.state_dict()["state"].keys() == optimizer.state_dict()["state"].keys()

    options = small(name) | {"num_classes": 5, "checkpoint_path": file}
    assert_same(timm.create_model(f"ropevit_{name}", **options), average.module)  # timm prefers the average
    assert_same(create_by_ours(model, file), model)
    assert_same(create_by_ours(model, file, ema=True), average.module)
    assert not torch.equal(average.module.head.weight, model.head.weight)


def assert_same(one: torch.nn.Module, two: torch.nn.Module) -> None:
    assert_close(dict(one.state_dict()), dict(unwrap_model(two).state_dict()), rtol=0, atol=0)


def create_by_ours(like, file: str, **options) -> torch.nn.Module:
    built = ropevit.models.build_model(like.config)
    load_weights(built, file, **options)
    return built


@pytest.mark.parametrize("name", [BOTH, AXIAL, SWIN, "swin_rope_axial_tiny_patch4_window7_224"])
def test_timms_load_checkpoint_reads_a_published_file(name, tmp_path):
    torch.save({"model": published(name)}, tmp_path / "theirs.bin")
    model = create(name)
    timm.models.load_checkpoint(model, str(tmp_path / "theirs.bin"))
    assert_same(model, create_by_ours(model, str(tmp_path / "theirs.bin")))
    partly = create(name)
    missing = partly.load_state_dict({k: v for k, v in published(name).items() if "head" not in k}, strict=False)
    assert (missing.missing_keys, missing.unexpected_keys) == (["head.weight", "head.bias"], [])
    assert_close(partly.norm.weight, model.norm.weight)


def test_weights_convert_to_timms_own_model_and_back(tmp_path):
    model, images = create(MIXED, embed_dim=384, num_heads=6), torch.randn(2, 3, 64, 64)
    save_model(tmp_path / "ours.safetensors", model)
    assert_same(load_model(tmp_path / "ours.safetensors")[0], model)
    convert(tmp_path / "ours.safetensors", tmp_path / "timm.safetensors", "timm")
    options = {"depth": 2, "num_classes": 10, "img_size": 64, "checkpoint_path": str(tmp_path / "timm.safetensors")}
    theirs = timm.create_model("vit_small_patch16_rope_mixed_224", **options).eval()
    assert_close(theirs(images), model(images), rtol=1e-4, atol=1e-4)
    back = create(MIXED, embed_dim=384, num_heads=6)
    back.load_state_dict(theirs.state_dict())
    assert_same(back, model)


@pytest.mark.parametrize(
    ("name", "state", "message"),
    [
        (
            BOTH,
            lambda: create(RPB).state_dict(),
            "looks like a Swin with position rope_mixed_rpb, while the model is a",
        ),
        (AXIAL, lambda: create(MIXED).state_dict(), "position rope_mixed, while the model has position rope_axial"),
        (BOTH, lambda: create(num_classes=3).state_dict(), "only the head differs"),
        (BOTH, lambda: create(img_size=(96, 64)).state_dict(), r"pos_embed \(1, 24, 96\) instead of \(1, 16, 96\)"),
        (
            SWIN,
            lambda: published("swin_rope_axial_tiny_patch4_window7_224"),
            "position rope_axial, while the model has",
        ),
    ],
)
def test_weights_of_another_model_are_refused_with_a_one_line_message(name, state, message):
    model = create(name)
    before = copy.deepcopy(model)
    with pytest.raises(WeightsError, match=message) as refusal:
        model.load_state_dict(state())
    assert "\n" not in str(refusal.value)
    assert_same(model, before)


def test_our_functions_accept_models_built_by_timm():
    model = timm.create_model(f"ropevit_{BOTH}", **VIT_SIZES, global_pool="avg")
    assert load_weights(model, published(), replace_head=True).head_replaced
    assert model.config.pooling == "avg"


def test_a_feature_extractor_gets_our_parameter_groups():
    extractor = create(features_only=True, out_indices=(0,))
    assert extractor.model.config.depth == len(extractor.feature_info) == 1
    groups = ropevit.parameter_groups(extractor.model, lr=1.0, weight_decay=0.05, layer_decay=0.5)
    names = {name: (group["lr_scale"], group["weight_decay"]) for group in groups for name in group["names"]}
    assert names["blocks.0.attn.rope.freqs"] == (1.0, 0.0)
    assert names["patch_embed.proj.weight"] == (0.5, 0.05)
