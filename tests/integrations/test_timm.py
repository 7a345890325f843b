"""Our models through timm's interface: names, options, weights, features, transforms."""

import importlib
import json
import sys
from dataclasses import replace

import pytest
import timm
import torch
from PIL import Image
from torch.testing import assert_close

import ropevit
from integrations.timm_models import BOTH, MIXED, RPB, SWIN, VIT_SIZES, create, fill_cache, published, small
from ropevit.data.imagenet import MEAN, STD
from ropevit.extras import MissingExtraError
from ropevit.integrations.timm import CLASHES, TimmSwin, TimmViT
from ropevit.integrations.timm.ropevit import NAMES, bare_names
from ropevit.models import MODELS
from ropevit.models.registry import PUBLISHED
from ropevit.models.vit.families import FAMILY_VARIANTS
from ropevit.weights import WeightsError


def test_timm_builds_every_model_of_the_registry():
    of_timm = {name for variant in FAMILY_VARIANTS.values() for name in variant.names.values()}  # timm has them itself
    names = [name for name in MODELS if name not in of_timm]
    assert set(timm.list_models("ropevit_*")) == {f"ropevit_{name}" for name in names}
    for name in names:
        for variant in {f"ropevit_{name}", *({name} - CLASHES)}:
            depth = {"depths": (1, 1, 1, 1)} if "swin" in name else {"depth": 1}
            with torch.device("meta"):
                model = timm.create_model(variant, **depth)
            assert model.config == replace(MODELS[name], **depth)
            assert isinstance(model, TimmSwin if "swin" in name else TimmViT)
            assert model.pretrained_cfg["architecture"] == variant


def test_clashes_lists_exactly_the_names_of_timms_own_models():
    theirs = {name for name in NAMES if timm.models.model_entrypoint(name).__module__.startswith("timm.")}
    assert theirs == CLASHES == {f"swin_{size}_patch4_window7_224" for size in ("tiny", "small", "base")}


def test_names_that_timm_already_has_are_not_overwritten_but_warned_about():
    with pytest.warns(
        UserWarning, match=r"already has other models named .* 33 more, which keep their names; use ropevit_NAME"
    ):
        assert bare_names() == []


def test_timm_lists_published_weights_with_their_tag():
    tagged = {f"ropevit_{name}.naver_in1k" for name, hub in PUBLISHED.items() if hub.startswith("naver-ai/")}
    assert set(timm.list_models("ropevit_*", pretrained=True)) == set(timm.list_pretrained("ropevit_*")) == tagged
    assert set(timm.list_models(module="ropevit")) == {*timm.list_models("ropevit_*"), *NAMES} - CLASHES
    assert timm.models.is_model_pretrained(f"{MIXED}.naver_in1k")
    assert not timm.models.is_model_pretrained("ropevit_swin_tiny_patch4_window7_224")


def test_options_have_timms_spelling():
    options = {"in_chans": 2, "drop_path_rate": 0.1, "global_pool": "avg", "reg_tokens": 3, "init_values": 1.0}
    config = create(**options, rope_temperature=20.0).config
    assert (config.in_channels, config.drop_path, config.pooling, config.num_registers) == (2, 0.1, "avg", 3)
    assert (config.layer_scale, config.rope_theta, config.img_size, config.num_classes) == (1, 20, (64, 64), 10)
    scripts = {"drop_rate": 0.0, "drop_path_rate": None, "drop_block_rate": None, "dynamic_img_size": True}
    assert create(**scripts, dtype=torch.bfloat16).head.weight.dtype == torch.bfloat16
    assert timm.create_model(f"ropevit_{SWIN}", img_size=384, depths=(1, 1, 1, 1)).config.window_size == 12


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            BOTH,
            {"drop_pth": 1},
            "no option named drop_pth for ropevit_rope_mixed_ape_.*; choose among ape_std, attn_norm, class",
        ),
        (BOTH, {"in_channels": 1, "pruned": True}, "no option named in_channels, pruned for .*, in_chans, init_values"),
        (BOTH, {"position": "ape"}, "no option named position"),
        (BOTH, {"pretrained_strict": False}, "no option named pretrained_strict"),
        (SWIN, {"reg_tokens": 1}, "no option named reg_tokens"),
        (BOTH, {"drop_rate": 1.0}, "got drop_rate=1.0; expected 0 to below 1"),
        (
            SWIN,
            {"proj_drop_rate": 0.1},
            "got proj_drop_rate=0.1; expected 0.0: these models have no dropout but before",
        ),
        (SWIN, {"window_size": (7, 8)}, r"got window_size=\(7, 8\); expected a square, such as 7"),
        (BOTH, {"strict_img_size": True}, "expected False: these models accept images of any size"),
        (BOTH, {"global_pool": "max"}, "got global_pool='max'; expected one of 'token', 'avg', ''"),
        (SWIN, {"global_pool": "token"}, "got global_pool='token'; expected one of 'avg', ''"),
        (BOTH, {"global_pool": "token", "class_token": False}, "got pooling='token' without a class token"),
        (BOTH, {"img_size": 60}, "use a height of 48 or 64 and a width of 48 or 64 "),
        (BOTH, {"out_indices": (1,)}, "got out_indices without features_only=True"),
        (
            BOTH,
            {"features_only": True, "out_indices": (2,)},
            r"got indices=\(2,\); expected layer indices from -2 to 1",
        ),
        (BOTH, {"features_only": True, "out_indices": 0}, "got indices=0; .* or a number of last layers from 1 to 2"),
        (BOTH, {"features_only": True, "feature_cls": "fx"}, "got feature_cls='fx'; expected 'getter' or 'hook'"),
        (BOTH, {"pretrained": True, "pretrained_cfg_overlay": {"url": "x"}}, "got url='x' .* give its path as file"),
        (BOTH, {"pretrained": True, "pretrained_cfg_overlay": {"label_offset": 1}}, "got label_offset=1"),
        (RPB, {"pretrained": True}, "no published weights for 'swin_rope_mixed_rpb_tiny_patch4_window7_224'"),
    ],
)
def test_invalid_options_are_refused_with_a_one_line_message(name, options, message):
    with pytest.raises((ValueError, TypeError), match=message) as refusal:
        create(name, **options)
    assert isinstance(refusal.value, TypeError) == message.startswith("no option")  # as Python refuses arguments
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", [MIXED, "rope_axial_ape_deit_small_patch16_LS", SWIN])
def test_pretrained_loads_the_published_weights(name, tmp_path):
    theirs = published(name)
    files = {"pytorch_model.bin": lambda path: torch.save({"model": theirs}, path)}
    folder = fill_cache(tmp_path, f"naver-ai/{name}", **files)
    model = timm.create_model(f"ropevit_{name}", pretrained=True, cache_dir=folder, **small(name))
    assert torch.equal(model.head.weight, theirs["head.weight"])
    if name == MIXED:
        assert torch.equal(model.blocks[1].attn.rope.freqs.flatten(1), theirs["freqs"][:, 1])
    fresh = timm.create_model(f"{name}.naver_in1k", True, cache_dir=folder, **(small(name) | {"num_classes": 3}))
    assert fresh.head.out_features == fresh.num_classes == 3
    assert torch.equal(fresh.norm.bias, theirs["norm.bias"])
    features = timm.create_model(f"ropevit_{name}", True, cache_dir=folder, features_only=True, **small(name))
    assert torch.equal(features.model.patch_embed.proj.weight, theirs["patch_embed.proj.weight"])


@pytest.mark.parametrize("channels", [1, 5])
def test_the_first_convolution_is_adapted_to_other_channels_as_timm_does(channels, tmp_path):
    kernel = published()["patch_embed.proj.weight"]
    torch.save({"model": published()}, tmp_path / "theirs.pth")
    given = {"pretrained": True, "in_chans": channels}
    model = timm.create_model(
        f"ropevit_{BOTH}", pretrained_cfg_overlay={"file": tmp_path / "theirs.pth"}, **VIT_SIZES, **given
    )
    expected = kernel.sum(1, keepdim=True) if channels == 1 else kernel[:, [0, 1, 2, 0, 1]] * 3 / 5
    assert_close(model.patch_embed.proj.weight, expected)
    assert model(torch.randn(1, channels, 64, 64)).shape == (1, 10)
    ropevit.save_model(tmp_path / "ours.safetensors", model)
    with pytest.raises(
        WeightsError, match=f"for images of {channels} channels, the model for 2; .* in_chans={channels}"
    ):
        create(pretrained=True, in_chans=2, pretrained_cfg_overlay={"file": tmp_path / "ours.safetensors"})


def test_a_file_of_save_model_is_adapted_to_other_channels_too(tmp_path):
    ropevit.save_model(tmp_path / "ours.safetensors", create())
    overlay = {"file": str(tmp_path / "ours.safetensors")}
    assert create(pretrained=True, in_chans=1, pretrained_cfg_overlay=overlay).in_chans == 1


def test_weights_are_read_from_the_sources_of_pretrained_cfg(tmp_path):
    model = create(num_classes=7)
    ropevit.save_model(tmp_path / "model.safetensors", model)
    file = {"file": str(tmp_path / "model.safetensors")}
    options = VIT_SIZES | {"num_classes": 7, "pretrained": True}
    for overlay in (file, {"state_dict": model.state_dict()}):
        built = timm.create_model(f"ropevit_{BOTH}", pretrained_cfg_overlay=overlay, **options)
        assert torch.equal(built.head.weight, model.head.weight)
    forced = timm.create_model(f"ropevit_{BOTH}", pretrained_cfg_overlay=file | {"num_classes": -1}, **options)
    assert not torch.equal(forced.head.weight, model.head.weight), "timm's scripts ask so for a new head"
    assert torch.equal(forced.norm.weight, model.norm.weight)
    del options["num_classes"]
    with pytest.raises(WeightsError, match=r"build the model with num_classes=7 \[2 of the wrong shape"):
        timm.create_model(f"ropevit_{BOTH}", pretrained_cfg_overlay=file, **options)


@pytest.mark.parametrize("name", [BOTH, RPB])
def test_a_folder_of_save_for_hf_loads_again(name, tmp_path):
    model = create(name, img_size=(64, 96))
    model.set_input_size((96, 128))
    model.reset_classifier(4, "avg")
    timm.models.save_for_hf(model, tmp_path / "saved", safe_serialization=True)
    files = {file: (tmp_path / "saved" / file).read_bytes() for file in ("config.json", "model.safetensors")}
    assert json.loads(files["config.json"])["architecture"] == f"ropevit_{name}"
    folder = fill_cache(
        tmp_path / "cache",
        "me/mine",
        "v1",
        **{file: lambda path, data=data: path.write_bytes(data) for file, data in files.items()},
    )
    images = torch.randn(2, 3, 96, 128)
    for source in (f"local-dir:{tmp_path / 'saved'}", "hf-hub:me/mine@v1"):
        twin = timm.create_model(source, pretrained=True, cache_dir=folder).eval()
        assert twin.config == model.config
        assert torch.equal(twin(images), model(images))
    (tmp_path / "saved" / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"holds no model.safetensors or pytorch_model.bin; give a folder"):
        timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 80)])
@pytest.mark.parametrize(
    ("name", "indices", "channels", "strides", "modules"),
    [
        (BOTH, None, [96, 96], [16, 16], ["blocks.0", "blocks.1"]),
        (MIXED, 1, [96], [16], ["blocks.1"]),
        (BOTH, (-2,), [96], [16], ["blocks.0"]),
        (SWIN, None, [16, 32, 64, 128], [4, 8, 16, 32], [f"layers.{stage}" for stage in range(4)]),
        (RPB, (2, 0), [64, 16], [16, 4], ["layers.2", "layers.0"]),
    ],
)
def test_feature_maps_have_the_channels_and_strides_of_feature_info(
    name, indices, channels, strides, modules, height, width
):
    options = {"depths": (1, 1, 1, 1), "num_heads": (2,) * 4} if "swin" in name else {}
    options |= {} if indices is None else {"out_indices": indices}
    extractor = create(name, features_only=True, **options)
    info = extractor.feature_info
    assert (info.channels(), info.reduction(), info.module_name()) == (channels, strides, modules)
    maps = extractor(torch.randn(2, 3, height, width))
    sizes = [(2, c, -(-height // s), -(-width // s)) for c, s in zip(channels, strides, strict=True)]
    assert [tuple(m.shape) for m in maps] == sizes
    sum(m.square().sum() for m in maps).backward()
    assert all(parameter.grad is not None for parameter in extractor.parameters()), "nothing is left that is not needed"
    assert dict(extractor.named_modules())[f"model.{modules[0]}"]


@pytest.mark.parametrize("name", [BOTH, SWIN, RPB])
def test_features_equal_those_of_our_own_model(name):
    model, images = create(name), torch.randn(2, 3, 48, 80)
    ours = ropevit.models.build_model(model.config).eval()
    ropevit.load_weights(ours, model.state_dict())
    assert torch.equal(model(images), ours(images))
    expected = ours.forward_intermediates(images, indices=[1, 0])
    final, maps = model.forward_intermediates(images, [1, 0])
    for one, two in zip(maps, expected, strict=True):
        assert torch.equal(one, two)
    assert torch.equal(final, ours.forward_features(images))
    assert len(model.forward_intermediates(images, intermediates_only=True)) == 2
    (last,) = model.forward_intermediates(images, 1, norm=True, intermediates_only=True)
    assert torch.equal(last.flatten(2).mT, final.flatten(1, -2)[:, -last[0, 0].numel() :])
    early, _ = model.forward_intermediates(images, [0], stop_early=True)
    assert early.shape != final.shape if "swin" in name else not torch.allclose(early, final)
    with pytest.raises(ValueError, match="got output_fmt='NCL'; expected NCHW"):
        model.forward_intermediates(images, output_fmt="NCL")


def test_return_prefix_tokens_returns_class_and_register_tokens():
    model, images = create(reg_tokens=2), torch.randn(2, 3, 48, 80)
    options = {"return_prefix_tokens": True, "output_fmt": "NLC", "norm": True, "intermediates_only": True}
    patches, prefix = model.forward_intermediates(images, [-1], **options)[0]
    assert torch.equal(torch.cat([prefix, patches], dim=1), model.forward_features(images))
    assert prefix.shape[1] == model.num_prefix_tokens == 3


def test_timms_transforms_are_those_of_the_papers_evaluation():
    for name, crop in ((BOTH, 1.0), (RPB, 0.875)):
        data = timm.data.resolve_data_config({}, model=create(name))
        assert data == timm.data.resolve_model_data_config(create(name))
        assert data["input_size"] == (3, 224, 224)
        assert (data["interpolation"], data["crop_pct"], data["mean"], data["std"]) == ("bicubic", crop, MEAN, STD)
    transform = timm.data.create_transform(**data, is_training=False)
    assert transform(Image.new("RGB", (500, 300))).shape == (3, 224, 224)


def test_pretrained_cfg_names_weights_head_and_first_convolution():
    cfg = create(MIXED).default_cfg
    assert cfg["hf_hub_id"] == f"naver-ai/{MIXED}"
    assert (cfg["license"], cfg["num_classes"], cfg["tag"]) == ("bsd-3-clause", 1000, "naver_in1k")
    model = create(MIXED)
    assert model.get_submodule(cfg["classifier"]) is model.get_classifier()
    assert model.get_submodule(cfg["first_conv"]) is model.patch_embed.proj
    assert "hf_hub_id" not in create(RPB).pretrained_cfg


def test_without_timm_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm.models", None)
    monkeypatch.delitem(sys.modules, "ropevit.integrations.timm.pretrained")
    with pytest.raises(MissingExtraError, match=r'timm is not installed; .* pip install "[.]\[train\]"'):
        importlib.import_module("ropevit.integrations.timm.pretrained")
