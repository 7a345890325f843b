import pytest
import torch
from torch import nn

from ropevit.models import SwinConfig, build_model
from ropevit.models.dense import DenseSwin, DenseSwinConfig, DenseViT, DenseViTConfig, PyramidConfig
from ropevit.models.layers import resize_embedding
from ropevit.models.swin.attention import resize_bias
from ropevit.weights import WeightsError, load_dense_weights, save_model
from weights.checkpoints import POSITIONS, published_swin

VIT_UNUSED = {"cls_token", "norm.weight", "norm.bias", "head.weight", "head.bias"}


def dense_vit(config, **changes) -> DenseViT:
    return DenseViT(DenseViTConfig(body=config, pyramid=PyramidConfig(channels=8), **changes))


def swin_config(position="rope_mixed", **changes) -> SwinConfig:
    small = {"width": 32, "depths": (2, 2), "heads": (2, 4), "img_size": (64, 64), "window_size": 4, "num_classes": 5}
    return SwinConfig(position=position, **(small | changes))


def copied(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("position", POSITIONS)
def test_a_published_vit_sets_all_weights_of_the_body_and_no_others(position, published, config):
    state, backbone = published(position), dense_vit(config(position))
    before = copied(backbone)
    report = load_dense_weights(backbone, state)
    assert set(report.dropped) == VIT_UNUSED | (set(state) & {"freqs_t_x", "freqs_t_y"})
    assert report.loaded == len(backbone.body.state_dict())
    assert set(report.new) == {name for name in before if name.startswith("pyramid.")}
    assert all(torch.equal(backbone.state_dict()[name], before[name]) for name in report.new)
    assert torch.equal(backbone.body.blocks[1].mlp.fc1.weight, state["blocks.1.mlp.fc1.weight"])
    if "mixed" in position:
        assert torch.equal(backbone.body.blocks[1].attn.rope.freqs.flatten(1), state["freqs"][:, 1])


def test_the_printed_report_lists_loaded_kept_and_dropped_weights(published, config):
    text = str(load_dense_weights(dense_vit(config()), published()))
    assert "dropped head.weight, head.bias, cls_token and 2 more: of the classifier" in text
    assert "kept pyramid.levels.0.resize.0.weight" in text
    assert "replace_head" not in text


def test_the_final_norm_is_loaded_if_the_backbone_uses_it(published, config):
    backbone, state = dense_vit(config(), final_norm=True), published()
    report = load_dense_weights(backbone, state)
    assert torch.equal(backbone.body.norm.weight, state["norm.weight"])
    assert "norm.weight" not in report.dropped


def test_an_absolute_embedding_of_another_grid_is_resized(published, config):
    backbone, state = dense_vit(config("ape", img_size=(96, 64))), published("ape")
    report = load_dense_weights(backbone, state)
    assert report.resized == {"pos_embed": "from 4 x 4 to 6 x 4 patches"}
    assert torch.equal(backbone.body.pos_embed, resize_embedding(state["pos_embed"], (4, 4), 6, 4))


@pytest.mark.parametrize("position", ["rpb", "rope_axial", "rope_mixed", "rope_mixed_rpb"])
def test_a_swin_sets_all_weights_of_the_body_and_biases_are_resized(position):
    state = published_swin(swin_config(position))
    backbone = DenseSwin(DenseSwinConfig(body=swin_config(position, window_size=3)))
    report = load_dense_weights(backbone, state)
    assert {"norm.weight", "norm.bias", "head.weight", "head.bias"} <= set(report.dropped)
    assert set(report.new) == {f"norms.{index}.{part}" for index in (0, 1) for part in ("weight", "bias")}
    name = "layers.1.blocks.0.attn.relative_position_bias_table"
    assert set(report.resized) == {key for key in state if key.endswith("bias_table")}
    if "rpb" in position:
        assert torch.equal(backbone.body.get_parameter(name), resize_bias(state[name], 3))


def test_files_of_save_model_and_wrapped_backbones_are_accepted(tmp_path, config):
    classifier = build_model(config(num_classes=3, pooling="avg"))
    save_model(tmp_path / "model.safetensors", classifier)
    backbone = dense_vit(config())
    report = load_dense_weights(nn.DataParallel(backbone), tmp_path / "model.safetensors")
    assert report.layout == "ropevit"
    for name, value in backbone.body.state_dict().items():
        assert torch.equal(value, classifier.state_dict()[name])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda state: state.pop("blocks.0.norm1.weight"), r"1 missing: blocks.0.norm1.weight \(96,\)"),
        (lambda state: state.pop("cls_token"), "1 missing: cls_token"),
        (lambda state: state.update(more=torch.zeros(2)), r"1 unexpected: more \(2,\)"),
        (lambda state: state["patch_embed.proj.bias"].fill_(torch.nan), "NaN or infinity in patch_embed.proj.bias"),
        (lambda state: state.pop("freqs"), "position"),
    ],
)
def test_weights_that_do_not_match_are_refused_and_change_nothing(spoil, message, published, config):
    state, backbone = published(), dense_vit(config())
    spoil(state)
    before = copied(backbone)
    with pytest.raises(WeightsError, match=message):
        load_dense_weights(backbone, state)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


def test_classifiers_and_backbones_on_the_meta_device_are_refused(published, config):
    with pytest.raises(WeightsError, match="got ViT; expected a DenseViT or a DenseSwin"):
        load_dense_weights(build_model(config()), published())
    with torch.device("meta"):
        backbone = dense_vit(config())
    with pytest.raises(WeightsError, match="meta device"):
        load_dense_weights(backbone, published())
