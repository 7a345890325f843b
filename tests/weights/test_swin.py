"""Swin checkpoints in every layout: published files, logits of the reference, and errors."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from marks import by_default
from ropevit.models import MODELS, Swin, SwinConfig, build_model
from ropevit.models.layers import resize_embedding
from ropevit.weights import WeightsError, convert, create_model, load_model, load_weights, read_checkpoint, save_model
from ropevit.weights.digest import KEY
from ropevit.weights.infer import infer_model, similar_names
from ropevit.weights.match import match_state_dict
from ropevit.weights.parse import parse_checkpoint
from ropevit.weights.reading import Checkpoint
from weights.checkpoints import GOLDEN, LAYOUTS, published_swin, recipe, swin_frequencies

SWINS = [name for name in LAYOUTS if "swin" in name]
CASES = [case for case in json.loads((GOLDEN / "golden.json").read_text()) if case.get("family") == "swin"]
KINDS = ["rpb", "rope_axial", "rope_mixed", "rope_axial_rpb", "rope_mixed_rpb"]


def config(position="rope_mixed", **changes) -> SwinConfig:
    small = {"width": 32, "depths": (2, 2), "heads": (2, 4), "img_size": (64, 64), "window_size": 4, "num_classes": 5}
    return SwinConfig(position=position, **(small | changes))


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[key]) for key, value in first.items())


def learned(state: dict[str, torch.Tensor], position: str) -> dict[str, torch.Tensor]:
    """The weights of a published file, without its tables."""
    tables = (*recipe.DERIVED, *(() if "mixed" in position else ("rope_freqs",)))
    return {key: value for key, value in state.items() if not key.endswith(tables)}


@pytest.mark.parametrize("name", SWINS)
def test_every_published_key_maps_to_a_weight_of_the_same_shape(name):
    with torch.device("meta"):
        model = build_model(MODELS[name])
        state = {key: torch.zeros(shape) for key, shape in LAYOUTS[name].items()}
    fixed = swin_frequencies(MODELS[name])
    frequencies = fixed if "axial" in name else {key: torch.randn_like(value) for key, value in fixed.items()}
    state |= {key: frequencies[key] for key in state if key.endswith("rope_freqs")}
    found = parse_checkpoint(Checkpoint(f"naver-ai/{name}", {"model": state, "optimizer": {}}))
    ours, report = match_state_dict(model, found)
    assert {key: value.shape for key, value in ours.items()} == {k: v.shape for k, v in model.state_dict().items()}
    assert (report.layout, report.resized) == ("published", {})
    dropped = {key.replace("rope.freqs", "rope_freqs") for key in report.dropped} - {"optimizer"}
    assert dropped == state.keys() - learned(state, name).keys()
    assert similar_names(infer_model(state)) == [name]


@pytest.mark.parametrize("name", by_default([name for name in SWINS if "mixed_tiny" in name], SWINS))
def test_tables_of_a_converted_model_have_the_published_keys_and_shapes(name, tmp_path):
    small = {"depths": (1, 2, 1, 2), "num_classes": 3}  # a block a kind of table; converting the whole takes long
    wanted = {
        key: shape
        for key, shape in LAYOUTS[name].items()
        if "blocks" not in key or int(key.split(".")[3]) < small["depths"][int(key.split(".")[1])]
    }
    path = save_model(tmp_path / "a.safetensors", create_model(name, **small))
    convert(path, tmp_path / "b.safetensors", "published")
    shapes = {key: list(value.shape) for key, value in load_file(tmp_path / "b.safetensors").items()}
    heads = {"head.weight": [3, wanted["head.weight"][1]], "head.bias": [3]}
    assert shapes == {**wanted, **heads}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_logits_are_those_of_the_reference(case):
    sizes = {"width": case["dim"], "depths": tuple(case["depths"]), "heads": tuple(case["heads"]), "num_classes": 10}
    size = (case["height"], case["width"])
    model = Swin(SwinConfig(position=case["pos"], window_size=case["window"], img_size=size, **sizes)).eval()
    report = load_weights(model, {"model": published_swin(model.config), "epoch": 300, "optimizer": {"state": {}}})
    assert report.loaded == len(model.state_dict())
    expected = torch.from_numpy(np.load(GOLDEN / "golden.npz")[case["case"]])
    with torch.no_grad():
        logits = model(torch.from_numpy(recipe.image(case["height"], case["width"], expected.shape[0])))
    assert (logits - expected).abs().max() <= 2e-4 * expected.abs().max()


@pytest.mark.parametrize("position", KINDS)
def test_round_trips_give_the_same_bits(position, tmp_path):
    first = published_swin(config(position))
    torch.save({"model": first}, tmp_path / "a.pth")
    report = convert(tmp_path / "a.pth", tmp_path / "b.safetensors", model=config(position))
    assert f"position {position}, width 32, depths (2, 2), heads (2, 4)" in str(report)
    convert(tmp_path / "b.safetensors", tmp_path / "c.bin", "published")
    convert(tmp_path / "c.bin", tmp_path / "d.safetensors", model=config(position))
    assert same(load_file(tmp_path / "b.safetensors"), load_file(tmp_path / "d.safetensors"))
    back = torch.load(tmp_path / "c.bin")["model"]
    assert same(learned(back, position), learned(first, position))
    assert {key: value.shape for key, value in back.items()} == {key: value.shape for key, value in first.items()}
    for key in first:
        assert_close(back[key], first[key], rtol=0, atol=1e-7 if key.endswith("rope_freqs") else 0)
    model, info = load_model(tmp_path / "b.safetensors")
    assert isinstance(model, Swin)
    assert info.config == config(position)


@pytest.mark.parametrize("position", ["rope_axial", "rope_mixed"])
def test_the_config_of_a_published_file_is_inferred_from_shapes(position, tmp_path):
    wide = config(position, width=96, heads=(3, 6), img_size=(128, 128))
    convert(published_swin(wide), tmp_path / "a.safetensors")
    assert load_model(tmp_path / "a.safetensors")[1].config == wide


def test_a_file_name_determines_the_model_and_the_bias_tables_its_window(tmp_path):
    name = "swin_rope_mixed_tiny_patch4_window7_224"
    state = {
        key: torch.zeros(shape, dtype=torch.bfloat16)
        for key, shape in LAYOUTS[name].items()
        if not key.endswith(("rope_t_x", "attn_mask"))
    }
    torch.save({"model": state}, tmp_path / f"{name}.pth")
    convert(tmp_path / f"{name}.pth", tmp_path / "a.safetensors", model=name)
    assert load_model(tmp_path / "a.safetensors")[1].config == MODELS[name]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fixed_frequencies_are_compared_with_the_models(dtype):
    state = {key: value.to(dtype) for key, value in published_swin(config("rope_axial")).items()}
    report = load_weights(Swin(config("rope_axial")), state)
    assert sum("fixed frequencies, the same" in why for why in report.dropped.values()) == 4
    with pytest.raises(
        WeightsError, match=r"other fixed frequencies .*\(theta (50|49.53) instead of 10, .* rope_theta"
    ):
        load_weights(Swin(config("rope_axial", rope_theta=10.0)), state)
    other = {key: value.to(dtype) for key, value in published_swin(config("rope_axial", rope_theta=100.0)).items()}
    with pytest.raises(WeightsError, match=r"instead of 50, in layers.0.blocks.0"):
        load_weights(Swin(config("rope_axial")), other)
    load_weights(Swin(config("rope_axial", rope_theta=100.0)), other)


def test_fixed_frequencies_of_other_heads_are_refused():
    with pytest.raises(WeightsError, match=r"4 unexpected: layers.0.blocks.0.attn.rope.freqs \(2, 4, 4\)"):
        load_weights(Swin(config("rope_axial")), published_swin(config("rope_axial", heads=(4, 8))))


@pytest.mark.parametrize("theirs", KINDS)
@pytest.mark.parametrize("ours", KINDS)
def test_weights_of_one_position_embedding_load_only_into_a_compatible_one(theirs, ours):
    model, state = Swin(config(ours)), published_swin(config(theirs))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    if theirs == ours or ({theirs, ours} == {"rpb", "rope_axial_rpb"} and theirs == "rpb"):
        load_weights(model, state)  # a file without frequencies may be of a model with fixed ones, saved by us
        return
    with pytest.raises(WeightsError, match=f"it looks like a Swin with position .*{theirs}"):
        load_weights(model, state)
    assert same(model.state_dict(), before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depths": (2, 1)}, r"depths \(2, 2\), while the model has depths \(2, 1\)"),
        ({"width": 64}, "width 32, while the model has width 64"),
        ({"num_classes": 7}, "only the head differs .* replace_head=True"),
        (
            {"heads": (4, 4)},
            r"2 of the wrong shape: layers.0.blocks.0.attn.rope.freqs \(2, 2, 8\) instead of \(2, 4, 4\)",
        ),
    ],
)
def test_the_error_says_which_model_the_file_looks_like(changes, message):
    with pytest.raises(WeightsError, match=message):
        load_weights(Swin(config(**changes)), published_swin(config()))


def test_missing_and_unexpected_keys_are_listed():
    state = published_swin(config("rpb"))
    state["pos_embed"] = torch.zeros(1, 256, 32)
    assert load_weights(Swin(config("rpb")), state).dropped["pos_embed"] == "the model has no absolute embedding"
    for key, message in (("norm.bias", "1 missing: norm.bias"), ("layers.0.blocks.1.attn.qkv.bias", "1 missing: lay")):
        with pytest.raises(WeightsError, match=message):
            load_weights(Swin(config("rpb")), {name: value for name, value in state.items() if name != key})
    extra = {"layers.7.blocks.0.attn.rope_freqs": torch.ones(2, 2, 8)}
    with pytest.raises(WeightsError, match=r"1 unexpected: layers.7.blocks.0.attn.rope.freqs"):
        load_weights(Swin(config()), published_swin(config()) | extra)


def test_weights_of_a_vit_and_a_swin_are_not_confused(published, config, tmp_path):
    swin = SwinConfig(position="rope_mixed", width=96, depths=(2,), heads=(3,), num_classes=10)
    vit = build_model(config())
    with pytest.raises(WeightsError, match="it looks like a Swin with position rope_mixed, while the model is a ViT"):
        load_weights(vit, published_swin(swin))
    with pytest.raises(WeightsError, match="it looks like a ViT with position rope_mixed, while the model is a Swin"):
        load_weights(Swin(swin), published())
    with pytest.raises(WeightsError, match="holds a swin, while the model is a vit; build it from the file's config"):
        load_weights(vit, save_model(tmp_path / "swin.safetensors", Swin(swin)))
    with pytest.raises(WeightsError, match="holds a vit, while the model is a swin"):
        load_weights(Swin(swin), save_model(tmp_path / "vit.safetensors", vit))


def test_biases_are_resized_to_the_models_window():
    state, model = published_swin(config("rope_mixed_rpb")), Swin(config("rope_mixed_rpb", window_size=6))
    report = load_weights(model, state)
    assert len(report.resized) == 4
    assert "from windows of 4 x 4 to 6 x 6 tokens" in str(report)
    key = "layers.1.blocks.1.attn.relative_position_bias_table"
    expected = resize_embedding(state[key].unsqueeze(0), (7, 7), 11, 11)[0]
    assert torch.equal(model.state_dict()[key], expected)
    table = state[key].T.unflatten(1, (7, 7)).unsqueeze(0)
    by_hand = torch.nn.functional.interpolate(table, size=(11, 11), mode="bicubic", align_corners=False)
    assert_close(expected, by_hand[0].flatten(1).T)
    assert load_weights(Swin(config("rope_mixed_rpb")), state).resized == {}


def test_files_of_save_model_store_the_window_and_load_into_another(tmp_path):
    first = Swin(config("rpb", window_size=3, img_size=(48, 80)))
    path = save_model(tmp_path / "a.safetensors", first, classes=list("abcde"))
    model, info = load_model(path)
    assert (info.config, info.classes) == (first.config, list("abcde"))
    assert same(model.state_dict(), first.state_dict())
    assert len(load_weights(Swin(config("rpb", window_size=5)), path).resized) == 4
    path = save_model(tmp_path / "b.safetensors", Swin(config("rope_axial")))
    with pytest.raises(WeightsError, match=r"rope_theta: 50.0 instead of 20.0"):
        load_weights(Swin(config("rope_axial", rope_theta=20.0)), path)


def test_an_absolute_embedding_is_resized_to_the_models_grid(tmp_path):
    first = Swin(config("rope_axial_ape", img_size=(32, 64)))
    path = save_model(tmp_path / "a.safetensors", first)
    model = Swin(config("rope_axial_ape", img_size=(48, 48)))
    assert load_weights(model, path).resized == {"pos_embed": "from 8 x 16 to 12 x 12 patches"}
    assert_close(model.pos_embed, resize_embedding(first.pos_embed, (8, 16), 12, 12))


@pytest.mark.parametrize(
    ("position", "changes", "to", "message"),
    [
        ("rope_mixed", {}, "timm", "is a Swin, which the timm layout does not have; choose published or ropevit"),
        ("rope_axial", {"rope_theta": 20.0}, "published", "theta=20.0, which the published layout cannot store"),
        ("none", {}, "published", "has no position embedding, which the published layout cannot store"),
        ("rope_mixed_ape", {}, "published", "has an absolute position embedding, which the published layout cannot"),
        (
            "rope_mixed",
            {"img_size": (64, 96)},
            "published",
            r"img_size=\(64, 96\), which .* implies img_size=\(64, 64\)",
        ),
        ("rpb", {"img_size": (60, 60)}, "published", r"implies img_size=\(64, 64\)"),
    ],
)
def test_a_model_that_a_layout_cannot_represent_is_refused(position, changes, to, message, tmp_path):
    path = save_model(tmp_path / "ours.safetensors", Swin(config(position, **changes)))
    with pytest.raises(WeightsError, match=message):
        convert(path, tmp_path / "theirs.safetensors", to)


def test_a_model_that_shapes_do_not_determine_must_be_named(tmp_path):
    with pytest.raises(
        WeightsError, match=r"do not determine whether it is rpb or rope_axial_rpb, with \(2, 4\) heads; name the model"
    ):
        convert(published_swin(config("rpb")), tmp_path / "a.safetensors", "published")


def test_a_file_of_an_unknown_architecture_is_refused(tmp_path):
    path = save_model(tmp_path / "a.safetensors", Swin(config()))
    header = dict(read_checkpoint(path).metadata) | {"architecture": "mamba"}
    del header[KEY]
    save_file(load_file(path), path, metadata=header)
    with pytest.raises(WeightsError, match="holds a 'mamba', an architecture that this version does not have"):
        load_model(path)
