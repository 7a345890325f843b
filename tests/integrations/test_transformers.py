import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.testing import assert_close
from transformers import (
    AttentionInterface,
    AutoBackbone,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForObjectDetection,
    DetrConfig,
    DetrModel,
    Mask2FormerConfig,
    Mask2FormerModel,
    UperNetConfig,
    UperNetForSemanticSegmentation,
    pipeline,
)

import ropevit
from ropevit.data.imagenet import MEAN, STD, imagenet_classes
from ropevit.data.images import resize_to, to_tensor
from ropevit.integrations.transformers import (
    RopeSwinBackbone,
    RopeSwinConfig,
    RopeViTBackbone,
    RopeViTConfig,
    from_published,
    from_ropevit,
    image_processor,
)
from ropevit.models import MODELS, SwinConfig, ViTConfig, build_model
from ropevit.rope import MixedRope
from ropevit.weights import create, read_checkpoint

VIT = ViTConfig(
    position="rope_mixed_ape",
    width=32,
    depth=3,
    heads=2,
    patch_size=8,
    img_size=(32, 64),
    num_registers=2,
    num_classes=5,
)
SWIN = SwinConfig(
    position="rope_mixed_rpb",
    width=16,
    depths=(2, 1, 1, 1),
    heads=(2, 4, 4, 4),
    window_size=4,
    img_size=(64, 64),
    num_classes=5,
)
BOTH = pytest.mark.parametrize("config", [VIT, SWIN], ids=["vit", "swin"])
CONFIGS = {ViTConfig: RopeViTConfig, SwinConfig: RopeSwinConfig}
BACKBONES = {ViTConfig: RopeViTBackbone, SwinConfig: RopeSwinBackbone}


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 48)


def build(config):
    """Build a model whose parts all matter: with LayerScale at its start the blocks would hardly show."""
    model = build_model(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("gamma_1", "gamma_2", "head.weight", "head.bias")):
                parameter.normal_()
    return model


def saved(config, folder, **fields):
    model = from_ropevit(build(config), **fields)
    model.save_pretrained(folder)
    return model


def describe(config, **fields):
    return from_ropevit(build(config), AutoBackbone, **fields).config


def same_weights(one, other):
    state = other.state_dict()
    assert list(one.state_dict()) == list(state)
    return all(torch.equal(value, state[name]) for name, value in one.state_dict().items())


# Configs


@BOTH
def test_a_config_converts_to_transformers_and_back(config, tmp_path):
    theirs = describe(config)
    assert theirs.to_ropevit() == config
    theirs.save_pretrained(tmp_path)
    back = AutoConfig.from_pretrained(tmp_path)
    assert type(back) is CONFIGS[type(config)]
    assert back.to_ropevit() == config
    assert copy.deepcopy(back).to_dict() == back.to_dict()


@pytest.mark.parametrize("classes", [0, 1, 2, 3])
def test_a_folder_keeps_the_number_of_classes(classes, tmp_path):
    """Two unnamed labels are the default of transformers, which it leaves out of the file."""
    RopeViTConfig(num_labels=classes).save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).to_ropevit().num_classes == classes


def test_labels_and_their_number_stay_consistent(tmp_path):
    config = RopeViTConfig(id2label={"0": "cat", "1": "dog"})
    assert (config.num_labels, config.num_classes, config.label2id) == (2, 2, {"cat": 0, "dog": 1})
    assert RopeViTConfig(label2id={"dog": 1, "cat": 0}).id2label == {0: "cat", 1: "dog"}
    assert RopeViTConfig(num_classes=3).num_labels == 3
    config.num_labels = 4
    assert (len(config.label2id), config.to_ropevit().num_classes) == (4, 4)
    config.id2label = {0: "bird", 1: "cat", 2: "dog"}
    assert config.label2id == {"bird": 0, "cat": 1, "dog": 2}
    config.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).id2label == {0: "bird", 1: "cat", 2: "dog"}
    assert AutoConfig.from_pretrained(tmp_path, num_labels=2).id2label == {0: "LABEL_0", 1: "LABEL_1"}


def test_transformers_names_of_fields_are_accepted():
    config = RopeViTConfig(position="ape", hidden_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=48)
    assert (config.to_ropevit().width, config.depth, config.heads, config.img_size) == (32, 3, 2, (48, 48))
    assert describe(SWIN).hidden_size == 128


def test_a_config_without_fields_is_that_of_a_published_model():
    assert RopeViTConfig().to_ropevit() == MODELS["rope_mixed_deit_small_patch16_LS"]
    assert RopeSwinConfig().to_ropevit() == MODELS["swin_rope_mixed_tiny_patch4_window7_224"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"positon": "ape"}, "no field named 'positon'; did you mean position"),
        ({"position": "ape"}, "depth, heads, width missing; a RopeViTConfig with any of its fields needs at least"),
        ({"position": "nope", "width": 32, "depth": 1, "heads": 2}, "got position='nope'; expected one of none, ape"),
        ({"position": "ape", "width": "32", "depth": 1, "heads": 2}, "expected a whole number"),
        ({"width": 32, "hidden_size": 64}, "got width=32 and hidden_size=64, which name the same field"),
        ({"id2label": {1: "a", 2: "b"}}, "got id2label for 1, 2; expected a label for each of 0, 1"),
        ({"id2label": {0: "a", 1: "b"}, "label2id": {"a": 1, "b": 0}}, "contradict each other"),
        ({"id2label": {0: "a"}, "num_labels": 2}, "got num_labels=2 and 1 labels"),
        ({"out_features": ["stage13"]}, "must be a subset of stage_names"),
        ({"convention": {"pairs": "halves"}}, "follows another convention"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_an_invalid_config_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        RopeViTConfig(**fields)


def test_unrelated_fields_in_a_config_are_kept(tmp_path):
    config = RopeViTConfig()
    config.use_cache, config.dataset = False, "birds"  # the first is a trainer's
    config.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).dataset == "birds"


# Classifiers and features


@BOTH
def test_a_converted_model_has_the_same_outputs(config, images):
    model = build(config)
    classifier = from_ropevit(model, classes=list("abcde"))
    assert not classifier.training
    assert classifier.config.id2label[4] == "e"
    assert_close(classifier(images).logits, model(images), rtol=0, atol=0)
    assert classifier.to_ropevit().config == config
    assert same_weights(classifier.to_ropevit(), model)
    with torch.no_grad():
        model.head.weight.zero_()
    assert classifier.ropevit.head.weight.any()  # it was a copy


@BOTH
def test_save_pretrained_and_from_pretrained_are_lossless_also_with_shards(config, images, tmp_path):
    model = saved(config, tmp_path, classes=list("abcde"))
    pieces = tmp_path / "pieces"
    model.save_pretrained(pieces, max_shard_size="30KB")
    assert len(list(pieces.glob("*.safetensors"))) > 2
    for folder in (tmp_path, pieces):
        back = AutoModelForImageClassification.from_pretrained(folder)
        assert type(back) is type(model)
        assert not any(parameter.is_meta for parameter in back.parameters())
        assert same_weights(model, back)
        assert_close(back(images).logits, model(images).logits, rtol=0, atol=0)


@BOTH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_learned_frequencies_stay_float32(config, dtype, images, tmp_path):
    model = saved(config, tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path, dtype=dtype)
    loaded.save_pretrained(tmp_path / "short")
    made = AutoModelForImageClassification.from_config(model.config, dtype=dtype)
    again = AutoModelForImageClassification.from_pretrained(tmp_path / "short")
    exact = dict(model.named_parameters())
    for short in (loaded, again, made, copy.deepcopy(model).to(dtype)):
        kinds = {name: parameter.dtype for name, parameter in short.named_parameters()}
        assert {kinds[name] for name in kinds if name.endswith("freqs")} == {torch.float32}
        assert {kinds[name] for name in kinds if not name.endswith("freqs")} == {dtype}
        assert short(images).logits.dtype == dtype  # float32 images are cast
    for name, parameter in again.named_parameters():
        assert not name.endswith("freqs") or torch.equal(parameter, exact[name])


@BOTH
def test_features_and_hidden_states_equal_those_of_our_model(config, images, tmp_path):
    saved(config, tmp_path)
    model = AutoModel.from_pretrained(tmp_path)
    output = model(images, output_hidden_states=True)
    inner = model.to_ropevit()
    features = inner.forward_features(images)
    tokens = features if config is VIT else features.flatten(1, 2)
    assert_close(output.last_hidden_state, tokens, rtol=0, atol=0)
    assert_close(output.last_hidden_state, model(images).last_hidden_state, rtol=0, atol=0)
    assert_close(output.pooler_output, tokens[:, 0] if config is VIT else tokens.mean(1))
    assert_close(inner.norm(output.hidden_states[-1]), tokens)
    assert len(output.hidden_states) == len(model.config.stage_names)
    assert model(images).hidden_states is None
    assert isinstance(model(images, return_dict=False), tuple)
    assert not [name for name, _ in model.named_parameters() if "head" in name]


@BOTH
def test_a_training_step_reaches_every_weight(config, images):
    model = from_ropevit(build(config)).train()
    plain = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(ropevit.parameter_groups(model.ropevit, lr=0.1, weight_decay=0.05, layer_decay=0.75))
    labels = torch.tensor([0, 3])
    loss = model(pixel_values=images, labels=labels).loss
    assert_close(loss, torch.nn.functional.cross_entropy(plain(images).logits, labels))
    loss.backward()
    optimizer.step()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]
    changed = dict(model.named_parameters())
    assert not [name for name, parameter in plain.named_parameters() if torch.equal(parameter, changed[name])]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"pixel_values": torch.zeros(1, 3, 64, 96, dtype=torch.uint8)},
            "expected floats, as an image processor returns them",
        ),
        ({"pixel_values": torch.zeros(3, 64, 96)}, "expected .B, 3, H, W."),
        ({"pixel_values": torch.zeros(1, 3, 65, 96)}, "which patches of 8 do not tile"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_invalid_inputs_are_refused(arguments, message, images):
    with pytest.raises(ValueError, match=message):
        from_ropevit(build(VIT))(**{"pixel_values": images} | arguments)


def test_another_attention_and_a_classifier_without_labels_are_refused():
    AttentionInterface.register("another", lambda *_: None)
    with pytest.raises(ValueError, match="use scaled_dot_product_attention: leave it out, or pass 'sdpa' or 'eager'"):
        AutoModel.from_config(describe(VIT), attn_implementation="another")
    with pytest.raises(ValueError, match="got a config without labels"):
        AutoModelForImageClassification.from_config(RopeViTConfig(num_labels=0))


# Loading


@BOTH
def test_num_labels_replaces_the_head(config, images, tmp_path):
    model = saved(config, tmp_path)
    new = AutoModelForImageClassification.from_pretrained(tmp_path, num_labels=3, ignore_mismatched_sizes=True)
    assert new(images).logits.shape == (2, 3)
    state, head = model.state_dict(), {"ropevit.head.weight", "ropevit.head.bias"}
    assert all(torch.equal(value, state[name]) for name, value in new.state_dict().items() if name not in head)
    assert 0.01 < new.ropevit.head.weight.std() < 0.03  # a fresh one: the saved has a standard deviation of 1
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        AutoModelForImageClassification.from_pretrained(tmp_path, num_labels=3)


def test_a_classifier_from_features_gets_a_head(tmp_path):
    from_ropevit(build(VIT), AutoModel).save_pretrained(tmp_path)
    model, info = AutoModelForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == {"ropevit.head.weight", "ropevit.head.bias"}
    assert 0.01 < model.ropevit.head.weight.std() < 0.03


def test_who_requests_the_loading_info_gets_it_instead_of_an_error(tmp_path):
    saved(VIT, tmp_path)
    save_file({"other": torch.zeros(2)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model, info = AutoModelForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == {name for name, _ in model.named_parameters()}
    assert set(info["unexpected_keys"]) == {"other"}
    with pytest.raises(ropevit.WeightsError, match="do not fit the model"):
        AutoModelForImageClassification.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depth": 4}, "1[0-9] missing: ropevit.blocks.3"),
        ({"depth": 2}, "1[0-9] unexpected: ropevit.blocks.2"),
        ({"img_size": (64, 64), "ignore_mismatched_sizes": True}, "1 of the wrong shape: ropevit.pos_embed"),
    ],
)
def test_missing_unexpected_and_mismatched_weights_are_refused(fields, message, tmp_path):
    saved(VIT, tmp_path)
    with pytest.raises(ropevit.WeightsError, match=message):
        AutoModelForImageClassification.from_pretrained(tmp_path, **fields)


def test_damaged_configs_are_refused(tmp_path):
    saved(VIT, tmp_path)
    path = tmp_path / "config.json"
    good = json.loads(path.read_text())
    for change, message in [
        ({"model_type": "ropevit_swin"}, "no field named 'depth'; did you mean depths"),
        ({"convention": good["convention"] | {"pairs": "halves"}}, "pairs: 'halves' instead of"),
        ({"heads": 3}, "the width must be a multiple of the heads"),
    ]:
        path.write_text(json.dumps(good | change))
        with pytest.raises(ValueError, match=message):
            AutoModelForImageClassification.from_pretrained(tmp_path)


def test_a_file_of_save_model_loads_with_a_config_beside_it(images, tmp_path):
    model = build(VIT)
    from_ropevit(model).config.save_pretrained(tmp_path)
    ropevit.save_model(tmp_path / "model.safetensors", model)
    assert_close(AutoModelForImageClassification.from_pretrained(tmp_path)(images).logits, model(images))


# Conversion


def test_published_weights_have_the_class_names_of_imagenet(monkeypatch):
    name = "rope_axial_deit_small_patch16_LS"
    monkeypatch.setitem(MODELS, name, replace(MODELS[name], depth=4))  # for speed
    state = ropevit.create_model(name).state_dict()
    monkeypatch.setattr(create, "read_checkpoint", lambda source: read_checkpoint(state) if name in source else None)
    model = from_published(name)
    assert tuple(model.config.id2label.values()) == imagenet_classes()
    assert all(torch.equal(value, state[key]) for key, value in model.to_ropevit().state_dict().items())
    assert from_published(name, AutoBackbone, out_indices=[2, 4]).channels == [384, 384]


def test_invalid_conversions_are_refused():
    model = build(VIT)
    for auto, fields, message in [
        (AutoModelForImageClassification, {"classes": ["a"]}, "got 1 class names for a model with 5 classes"),
        (AutoModelForImageClassification, {"drop_path": 0.1}, "got drop_path, which the model determines"),
        (AutoModelForObjectDetection, {}, "expected one of AutoModel, AutoModelForImageClassification, AutoBackbone"),
    ]:
        with pytest.raises(ValueError, match=message):
            from_ropevit(model, auto, **fields)
    with pytest.raises(ValueError, match="got Linear; expected a model of"):
        from_ropevit(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="got a backbone, which has no final norm"):
        from_ropevit(model, AutoBackbone).to_ropevit()
    with pytest.raises(ValueError, match="got a Swin, but the config is that of a ViT"):
        from_ropevit(model).adopt(build(SWIN))
    with pytest.raises(ValueError, match="depth: 3 instead of 2"):
        from_ropevit(build(ViTConfig(position="ape", width=32, depth=2, heads=2))).adopt(model)


# Backbones


@BOTH
def test_a_backbone_returns_the_feature_maps_of_our_model(config, images, tmp_path):
    model = saved(config, tmp_path).to_ropevit()
    backbone = BACKBONES[type(config)].from_pretrained(tmp_path, out_features=["stem", "stage1", "stage3"])
    stem, *maps = backbone(images).feature_maps
    assert_close(maps, model.forward_intermediates(images, indices=[0, 2]), rtol=0, atol=0)
    assert stem.shape == maps[0].shape
    assert [each.shape[1] for each in (stem, *maps)] == backbone.channels
    assert backbone.config.out_indices == [0, 1, 3]
    assert len(backbone(images, output_hidden_states=True).hidden_states) == len(backbone.stage_names)
    last = AutoBackbone.from_config(model_config := describe(config))
    assert last.out_features == [model_config.stage_names[-1]]
    assert not [name for name, _ in backbone.named_parameters() if "head" in name or name == "ropevit.norm.weight"]


def test_a_backbone_runs_no_block_after_the_last_chosen_one(images):
    backbone = from_ropevit(build(VIT), AutoBackbone, out_indices=[1])
    ran = []
    for index, block in enumerate(backbone.ropevit.blocks):
        block.register_forward_hook(lambda *_, index=index: ran.append(index))
    backbone(images)
    assert ran == [0]


@BOTH
def test_upernet_trains_on_a_backbone_and_loads_again_unchanged(config, images, tmp_path):
    """In a model of transformers' own, weights that were loaded are not protected as in ours."""
    dense = describe(config, out_indices=[-3, -2, -1])
    model = UperNetForSemanticSegmentation(
        UperNetConfig(backbone_config=dense, hidden_size=16, num_labels=3, auxiliary_channels=8)
    )
    model.backbone.adopt(build(config))
    output = model.train()(images, labels=torch.randint(3, (2, 32, 48)))
    assert output.logits.shape == (2, 3, 32, 48)
    output.loss.backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]
    model.save_pretrained(tmp_path)
    back = UperNetForSemanticSegmentation.from_pretrained(tmp_path)
    assert back.config.backbone_config.to_ropevit() == config
    assert same_weights(model, back)
    short = UperNetForSemanticSegmentation.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {m.freqs.dtype for m in short.modules() if isinstance(m, MixedRope)} == {torch.float32}


@BOTH
def test_weights_missing_from_a_dense_model_are_initialized_as_ours(config):
    dense = describe(config, out_indices=[-2, -1])
    whole = UperNetForSemanticSegmentation(
        UperNetConfig(backbone_config=dense, hidden_size=16, use_auxiliary_head=False)
    )
    start = "backbone.ropevit.blocks.1." if config is VIT else "backbone.ropevit.layers.1."
    state = {name: value.clone() for name, value in whole.state_dict().items() if not name.startswith(start)}
    model = UperNetForSemanticSegmentation.from_pretrained(None, config=whole.config, state_dict=state)
    fresh = dict(build_model(config).named_parameters())
    for name, value in model.state_dict().items():
        if not name.startswith(start):
            assert torch.equal(value, whole.state_dict()[name])
        else:
            like = fresh[name.removeprefix("backbone.ropevit.")]
            assert_close(value.std(), like.std(), rtol=0.4, atol=1e-8)
            assert_close(value.abs().max(), like.abs().max(), rtol=0.4, atol=1e-8)


def test_mask2former_runs_on_a_swin_backbone(images, tmp_path):
    config = Mask2FormerConfig(
        backbone_config=describe(SWIN, out_indices=[1, 2, 3, 4]),
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        num_attention_heads=2,
        encoder_feedforward_dim=16,
        dim_feedforward=16,
        encoder_layers=1,
        decoder_layers=2,
        num_queries=4,
    )
    model = Mask2FormerModel(config).eval()
    masks = model(images).masks_queries_logits[-1]
    assert masks.shape == (2, 4, 8, 12)
    model.save_pretrained(tmp_path)
    assert_close(Mask2FormerModel.from_pretrained(tmp_path)(images).masks_queries_logits[-1], masks, rtol=0, atol=0)


def test_detr_runs_on_a_vit_backbone(images):
    config = DetrConfig(
        backbone_config=describe(VIT), use_timm_backbone=False, d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_queries=5,
    )  # fmt: skip
    assert DetrModel(config)(images).last_hidden_state.shape == (2, 5, 16)


# Images


def sample_image():
    pixels = np.random.default_rng(0).integers(0, 255, (50, 75, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((300, 200), Image.Resampling.BICUBIC)


def test_the_processor_in_a_folder_prepares_images_as_the_paper_does(tmp_path):
    image_processor(RopeViTConfig(), size=96).save_pretrained(tmp_path)
    ours = to_tensor(resize_to(sample_image(), 96, 96), MEAN, STD)
    exact = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")(sample_image(), return_tensors="pt")
    assert_close(exact["pixel_values"][0], ours)
    quick = AutoImageProcessor.from_pretrained(tmp_path)(
        sample_image(), return_tensors="pt"
    )  # rounds to 1/255 elsewhere
    assert_close(quick["pixel_values"][0], ours, rtol=0, atol=1.1 / 255 / min(STD))


def test_an_image_classification_pipeline_returns_labels_and_scores(tmp_path):
    model = saved(replace(VIT, img_size=(64, 64)), tmp_path, classes=["ant", "bee", "cat", "dog", "elk"])
    processor = image_processor(model.config)
    processor.save_pretrained(tmp_path)
    guesses = pipeline("image-classification", model=str(tmp_path))(sample_image())
    chances = model(**processor(sample_image(), return_tensors="pt")).logits.softmax(-1)[0]
    expected = {model.config.id2label[index]: chance for index, chance in enumerate(chances.tolist())}
    assert {guess["label"]: guess["score"] for guess in guesses} == pytest.approx(expected, rel=1e-4)
    assert guesses[0]["label"] == max(expected, key=expected.get)


@pytest.mark.parametrize(
    ("config", "size", "message"),
    [
        (VIT, None, "got a model for 32 x 64 pixels, which is not square; give its side as size="),
        (VIT, 50, "which patches of 8 do not tile"),
        (replace(SWIN, in_channels=1), None, "got a model for 1 channels"),
    ],
)
def test_an_image_processor_for_a_size_or_channels_that_the_model_rejects_is_refused(config, size, message):
    with pytest.raises(ValueError, match=message):
        image_processor(describe(config), size)


# The import


NOT_THERE = """
import sys, types
for found in (None, types.ModuleType("transformers")):
    if found:
        found.__version__ = "4.57.1"
    sys.modules["transformers"] = found
    try:
        import ropevit.integrations.transformers
    except ImportError as error:
        print(error)
"""


def test_without_transformers_or_with_an_old_one_the_error_names_the_extra(run_command, tmp_path):
    (tmp_path / "use.py").write_text(NOT_THERE)
    run = run_command(tmp_path, [], script=tmp_path / "use.py")
    assert run.code == 0, run.errors
    missing, old = run.output.splitlines()
    assert missing == 'transformers is not installed; in a clone of ropevit, install it with: pip install ".[dense]"'
    assert old.startswith("transformers 4.57.1 is too old, 5.4 or newer is needed")


@BOTH
@pytest.mark.parametrize("auto", [AutoModel, AutoModelForImageClassification, AutoBackbone])
def test_weights_offloaded_to_disk_give_the_same_outputs(config, auto, images, tmp_path):
    saved(config, tmp_path / "model")
    states = {} if auto is AutoBackbone else {"output_hidden_states": True}
    outputs = []
    for place in ({}, {"device_map": {"": "disk"}, "offload_folder": str(tmp_path / "off")}):
        kind = BACKBONES[type(config)] if auto is AutoBackbone else auto  # which takes no folders
        model = kind.from_pretrained(tmp_path / "model", **place).eval()
        with torch.no_grad():
            outputs.append([model(pixel_values=images, **options).to_tuple() for options in ({}, states)])
    assert_close(*outputs, rtol=0, atol=0)
