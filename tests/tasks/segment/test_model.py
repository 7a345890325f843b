from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

import ropevit
from ropevit.models.registry import get_config
from ropevit.models.vit import ViT
from ropevit.tasks.dense.init_weights import init_model
from ropevit.tasks.segment.config import Mask2FormerConfig, UperNetConfig
from ropevit.tasks.segment.model import (
    SEGMENTER,
    SegmenterConfig,
    build_segmenter,
    load_segmenter,
    save_segmenter,
)
from ropevit.weights.errors import WeightsError
from tasks.segment.small import small_segmenter

CLASSES = ["ground", "disc", "square"]

#: How the heads' weights are called in files: each name once, numbers of layers and norms' parts left out.
NAMES = {
    "upernet": [
        "auxiliary_head.classifier.#",
        "auxiliary_head.convs.#.batch_norm",
        "auxiliary_head.convs.#.conv",
        "head.bottleneck.batch_norm",
        "head.bottleneck.conv",
        "head.classifier.#",
        "head.fpn_bottleneck.batch_norm",
        "head.fpn_bottleneck.conv",
        "head.fpn_convs.#.batch_norm",
        "head.fpn_convs.#.conv",
        "head.lateral_convs.#.batch_norm",
        "head.lateral_convs.#.conv",
        "head.psp_modules.#.#.batch_norm",
        "head.psp_modules.#.#.conv",
    ],
    "mask2former": [
        "classifier",
        "decoder.decoder.layernorm",
        "decoder.decoder.layers.#.cross_attn",
        "decoder.decoder.layers.#.cross_attn.out_proj",
        "decoder.decoder.layers.#.cross_attn_layer_norm",
        "decoder.decoder.layers.#.fc1",
        "decoder.decoder.layers.#.fc2",
        "decoder.decoder.layers.#.final_layer_norm",
        "decoder.decoder.layers.#.self_attn.k_proj",
        "decoder.decoder.layers.#.self_attn.out_proj",
        "decoder.decoder.layers.#.self_attn.q_proj",
        "decoder.decoder.layers.#.self_attn.v_proj",
        "decoder.decoder.layers.#.self_attn_layer_norm",
        "decoder.decoder.mask_predictor.mask_embedder.#.#",
        "decoder.level_embed",
        "decoder.queries_embedder",
        "decoder.queries_features",
        "pixel_decoder",
        "pixel_decoder.adapter_1.#",
        "pixel_decoder.encoder.layers.#.fc1",
        "pixel_decoder.encoder.layers.#.fc2",
        "pixel_decoder.encoder.layers.#.final_layer_norm",
        "pixel_decoder.encoder.layers.#.self_attn.attention_weights",
        "pixel_decoder.encoder.layers.#.self_attn.output_proj",
        "pixel_decoder.encoder.layers.#.self_attn.sampling_offsets",
        "pixel_decoder.encoder.layers.#.self_attn.value_proj",
        "pixel_decoder.encoder.layers.#.self_attn_layer_norm",
        "pixel_decoder.input_projections.#.#",
        "pixel_decoder.layer_1.#",
        "pixel_decoder.mask_projection",
    ],
}


@pytest.mark.parametrize(
    "config",
    [
        small_segmenter(),
        small_segmenter(neck="resized", window=2, position="rope_mixed_ape"),
        small_segmenter("mask2former"),
        small_segmenter("mask2former", model="swin_tiny", position="rope_axial", width=12, heads=None, depth=None),
    ],
    ids=["upernet", "resized", "mask2former", "swin"],
)
def test_a_segmenter_is_loaded_exactly_as_it_was_saved(tmp_path, config):
    model = build_segmenter(config, 3)
    path = tmp_path / "model.safetensors"
    save_segmenter(path, model, config, CLASSES, {"crop": 64})
    again, info = load_segmenter(path)
    assert (info.config, info.classes, info.metadata) == (config, CLASSES, {"crop": 64})
    assert again.config.classes == 3
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(model.eval().logits(image), again.eval().logits(image))


@pytest.mark.parametrize("head", ["upernet", "mask2former"])
def test_names_in_files_stay_the_same(head):
    names = build_segmenter(small_segmenter(head), 3).state_dict()
    parts = {name.rpartition(".")[0] for name in names if not name.startswith("backbone.")}
    parts = {".".join("#" if part.isdigit() else part for part in name.split(".")) for name in parts}
    assert sorted(parts) == NAMES[head]


def test_by_default_out_indices_are_the_last_blocks_of_each_quarter_and_attention_is_global():
    body = SegmenterConfig(model="deit_large").backbone_config()
    assert (body.out_indices, len(body.global_attn_indexes)) == ((5, 11, 17, 23), 24)
    body = SegmenterConfig(out_indices=(3, 5, 7, 11), window=14).backbone_config()
    assert (body.out_indices, body.window, sorted(body.global_indices)) == ((3, 5, 7, 11), 14, [2, 5, 8, 11])


def test_backbone_is_initialized_from_a_classifier(tmp_path):
    classifier = ViT(get_config("rope_mixed_deit_tiny_patch16_LS", width=32, depth=4, heads=2))
    path = ropevit.save_model(tmp_path / "classifier.safetensors", classifier)
    model = init_model(SEGMENTER, small_segmenter(init=str(path)), CLASSES)
    assert torch.equal(model.backbone.body.blocks[3].mlp.fc1.weight, classifier.blocks[3].mlp.fc1.weight)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "fcn"}, "got head='fcn'; choose one of upernet, mask2former"),
        ({"mask2former": Mask2FormerConfig(queries=5)}, "got options of mask2former with head='upernet'"),
        ({"head": "mask2former", "upernet": UperNetConfig(channels=8)}, "got options of upernet with head="),
        ({"model": "swin_tiny", "neck": "resized"}, "neck='resized' for a Swin; they are options of a ViT"),
        ({"model": "swin_tiny", "out_indices": (0, 1, 2, 3)}, r"got out_indices=\(0, 1, 2, 3\) .* for a Swin"),
        ({"patch_size": 8}, "got patch_size=8; the head needs maps of strides"),
        ({"out_indices": (0, 1, 2)}, r"out_indices=\(0, 1, 2\) for 4 levels"),
        ({"out_indices": ()}, r"got out_indices=\(\) for 4 levels"),
        ({"depth": 3, "init": None}, "got depth=3; expected at least 4 blocks"),
        ({"model": "deit_tiny"}, "has no published weights"),
        ({"model": "resnet"}, "no model named 'resnet'; see ropevit.list_models"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_inconsistent_options_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        SegmenterConfig(**changes)


def test_a_file_of_another_format_or_with_weights_that_contradict_its_config_is_refused(tmp_path):
    path = ropevit.save_model(tmp_path / "classifier.safetensors", ropevit.create_model("deit_tiny_patch16_LS"))
    with pytest.raises(WeightsError, match="is not a segmenter file; give one that the training of a segmenter saved"):
        load_segmenter(path)
    config = small_segmenter()
    save_segmenter(path, build_segmenter(config, 3), replace(config, width=64), CLASSES, {})
    with pytest.raises(WeightsError, match="do not match its config"):
        load_segmenter(path)


def test_a_detector_is_refused_as_initial_weights_of_a_segmenter(tmp_path):
    config, path = small_segmenter(), tmp_path / "model.safetensors"
    save_file({"w": torch.zeros(1)}, path, metadata={"format": "ropevit-detector"})
    with pytest.raises(WeightsError, match="holds a detector; expected a classifier"):
        init_model(SEGMENTER, replace(config, init=str(path)), ["one", "two"])
