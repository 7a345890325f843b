import argparse

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ropevit.models import ViT
from ropevit.models.dense import DenseViT, DenseViTConfig
from ropevit.models.layers import resize_embedding
from ropevit.weights import WeightsError, load_dense_weights, load_weights, save_model


def copied(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def unchanged(model: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict", "module", "model_ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_and_prefixes_are_removed(wrapper, prefix, published, config):
    state = {prefix + key: value for key, value in published().items()}
    model = ViT(config())
    load_weights(model, {wrapper: state, "epoch": 3} if wrapper else state)
    assert torch.equal(model.blocks[1].attn.rope.freqs.flatten(1), published()["freqs"][:, 1])


def test_dropped_entries_are_listed(published, config):
    state = published("rope_axial_ape") | {"freqs_t_x": torch.zeros(16)}
    training = {
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}},
        "args": argparse.Namespace(lr=1),
        "epoch": 400,
        "best": 0.81,
    }
    report = load_weights(ViT(config("rope_axial")), {"model": state, "model_ema": state, **training})
    assert set(report.dropped) == {*training, "model_ema", "freqs_t_x", "pos_embed"}
    text = str(report)
    assert "loaded 35 weights from the given state dict (published layout)" in text
    assert "dropped optimizer, args, epoch and 1 more: training state" in text
    assert "dropped pos_embed: the model has no absolute embedding" in text


def test_ema_weights_are_loaded_on_request(published, config):
    state, model = published(), ViT(config())
    average = {key: value + 1 for key, value in state.items()}
    for wanted, ema in ((state, False), (average, True)):
        report = load_weights(model, {"model": state, "model_ema": average}, ema=ema)
        assert torch.equal(model.head.bias, wanted["head.bias"])
        assert set(report.dropped) >= {"model" if ema else "model_ema"}
    with pytest.raises(WeightsError, match="no EMA"):
        load_weights(model, {"model": state}, ema=True)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda state: state.pop("norm.weight"), r"1 missing: norm.weight \(96,\)"),
        (lambda state: state.update({"norm.weight": torch.ones(95)}), r"norm.weight \(95,\) instead of \(96,\)"),
        (lambda state: state.update({"extra.weight": torch.ones(3)}), r"1 unexpected: extra.weight \(3,\)"),
        (lambda state: state.update({"norm.bias": torch.full((96,), torch.nan)}), "NaN or infinity in norm.bias"),
        (lambda state: state.update({"norm.bias": torch.full((96,), torch.inf)}), "NaN or infinity in norm.bias"),
        (lambda state: state.update({"norm.bias": torch.ones(96, device="meta")}), "NaN or infinity in norm.bias"),
        (lambda state: state.update({"norm.bias": torch.ones(96, dtype=torch.int64)}), "floating-point .*norm.bias"),
        (lambda state: state.update({"norm.bias": [1.0]}), "floating-point .*norm.bias"),
        (lambda state: state.update({"norm.bias": torch.ones(96).to_sparse()}), "dense .*norm.bias"),
        (lambda state: state.update({"freqs": state["freqs"][:, :1]}), "1 missing: blocks.1.attn.rope.freqs"),
        (
            lambda state: state.update({"freqs": state["freqs"][..., :47]}),
            "2 of the wrong shape: blocks.0.attn.rope.freqs",
        ),
        (lambda state: state.update({"freqs": torch.ones(3)}), r"1 unexpected: freqs \(3,\)"),
        (lambda state: state.update({"rope.freqs": torch.ones(2, 2, 3, 16)}), "1 unexpected: rope.freqs"),
        (lambda state: state.update({"_orig_mod.norm.bias": torch.ones(96)}), "with and without"),
    ],
)
def test_a_corrupted_state_dict_is_refused_and_changes_nothing(spoil, message, published, config):
    state, model = published(), ViT(config())
    before = copied(model)
    spoil(state)
    with pytest.raises(WeightsError, match=message) as refusal:
        load_weights(model, state)
    assert "\n" not in str(refusal.value)
    assert unchanged(model, before)


@pytest.mark.parametrize("theirs", ["rope_mixed", "rope_axial", "ape", "rope_mixed_ape"])
@pytest.mark.parametrize("ours", ["rope_mixed", "rope_axial", "ape", "rope_mixed_ape", "none"])
def test_weights_of_one_position_embedding_load_only_into_a_compatible_one(theirs, ours, published, config):
    if ("mixed" in theirs) == ("mixed" in ours) and ("ape" in theirs or "ape" not in ours):
        load_weights(ViT(config(ours)), published(theirs))
        return
    with pytest.raises(WeightsError, match=f"it looks like .*position .*{theirs}"):
        load_weights(ViT(config(ours)), published(theirs))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"pairs": (6, 6, 4)}, r"the model has pairs=\(6, 6, 4\); build it with pairs=\(8, 8, 0\) or none"),
        ({"position": "rope_golden"}, "the model has position rope_golden; build it with position rope_axial"),
        ({"position": "rope_spiral"}, "the model has position rope_spiral"),
    ],
)
def test_a_file_without_a_config_is_assumed_to_have_the_published_rotation(changes, told, published, config, tmp_path):
    path, other = tmp_path / "weights.pth", ViT(config(**{"position": "rope_axial"} | changes))
    torch.save({"model": published("rope_axial")}, path)
    load_weights(ViT(config("rope_axial", pairs=(8, 8, 0))), path)
    load_weights(ViT(config("none")), path)
    before = copied(other)
    with pytest.raises(WeightsError, match=f"has no config, .* {told}"):
        load_weights(other, path)
    assert unchanged(other, before)
    load_weights(other, ViT(other.config).state_dict())  # who holds a model knows it
    if "pairs" not in changes:
        with pytest.raises(WeightsError, match="has no config, so its rotation is assumed"):
            load_dense_weights(DenseViT(DenseViTConfig(body=other.config)), path)


def test_a_published_file_name_that_contradicts_the_model_is_refused(published, config, tmp_path):
    path = tmp_path / "rope_axial_ape_deit_small_patch16_LS.pth"
    torch.save({"model": published("rope_axial_ape")}, path)
    load_weights(ViT(config("rope_axial_ape")), path)
    for other in ("ape", "rope_axial"):
        with pytest.raises(WeightsError, match=f"is named like .* position rope_axial_ape, .* position {other}"):
            load_weights(ViT(config(other)), path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 48}, "position rope_mixed, width 96, while the model has position rope_axial, width 48"),
        ({"depth": 3}, "depth 2, while the model has position rope_axial, depth 3"),
        ({"patch_size": 8}, "patch_size 16, while the model has position rope_axial, patch_size 8"),
    ],
)
def test_the_error_says_which_model_the_file_looks_like(changes, message, published, config):
    with pytest.raises(WeightsError, match=message):
        load_weights(ViT(config("rope_axial", **changes)), published("rope_mixed"))


def test_the_error_recognizes_other_architectures(config):
    with pytest.raises(WeightsError, match="looks like a Swin, but not like one that this package can build"):
        load_weights(ViT(config()), {"layers.0.blocks.0.norm1.weight": torch.ones(96)})
    with pytest.raises(WeightsError, match=r"not a vision transformer \(it has conv1.weight\)"):
        load_weights(ViT(config()), {"conv1.weight": torch.ones(64, 3, 7, 7)})
    with pytest.raises(WeightsError, match="tensors in 'critic'"):
        load_weights(ViT(config()), {"model": {}, "critic": {"weight": torch.ones(1)}})


def test_the_error_names_the_published_model(config, published):
    with pytest.raises(WeightsError, match=r"looks like rope_axial_deit_small_patch16_LS, with .*width 384, depth 12"):
        load_weights(ViT(config("rope_mixed")), published("rope_axial", width=384, depth=12))


def test_a_head_is_replaced_only_on_request(published, config):
    state, model = published(), ViT(config(num_classes=7))
    before = model.head.weight.clone()
    with pytest.raises(WeightsError, match=r"only the head differs .* replace_head=True"):
        load_weights(model, state)
    report = load_weights(model, state, replace_head=True)
    assert report.head_replaced
    assert torch.equal(model.head.weight, before)
    assert torch.equal(model.norm.weight, state["norm.weight"])
    headless = {key: value for key, value in state.items() if not key.startswith("head.")}
    assert load_weights(model, headless, replace_head=True).head_replaced
    assert load_weights(ViT(config(num_classes=0)), headless).loaded == 35
    with pytest.raises(WeightsError, match=r"1 missing: norm.bias.*") as refusal:
        load_weights(model, {key: state[key] for key in state if key != "norm.bias"}, replace_head=True)
    assert "replace_head" not in str(refusal.value)


@pytest.mark.parametrize("img_size", [(96, 64), (32, 128), (64, 160)])
def test_an_absolute_embedding_is_resized_to_the_models_grid(img_size, published, config):
    state, model = published("ape"), ViT(config("ape", img_size=img_size))
    report = load_weights(model, state)
    rows, columns = model.config.grid
    assert report.resized == {"pos_embed": f"from 4 x 4 to {rows} x {columns} patches"}
    assert_close(model.pos_embed.detach(), resize_embedding(state["pos_embed"], (4, 4), rows, columns))


def test_a_non_square_grid_must_be_given_or_stored(config, tmp_path):
    first, second = ViT(config("ape", img_size=(32, 96))), ViT(config("ape", img_size=(96, 32)))
    with pytest.raises(WeightsError, match=r"12 patches, which is not a square grid; pass its grid="):
        load_weights(second, first.state_dict())
    with pytest.raises(WeightsError, match=r"12 patches, but grid=\(.*\) has "):
        load_weights(second, first.state_dict(), grid=(2, 5))
    load_weights(second, first.state_dict(), grid=(2, 6))
    expected = resize_embedding(first.pos_embed, (2, 6), 6, 2).detach()
    assert_close(second.pos_embed.detach(), expected)
    save_model(tmp_path / "first.safetensors", first)
    second = ViT(second.config)
    load_weights(second, tmp_path / "first.safetensors")
    assert_close(second.pos_embed.detach(), expected)


def test_weights_take_the_models_dtype_and_frequencies_stay_float32(published, config):
    model = ViT(config()).to(torch.bfloat16)
    state = published()
    load_weights(model, state)
    assert model.head.weight.dtype == torch.bfloat16
    assert torch.equal(model.head.weight, state["head.weight"].bfloat16())
    assert model.blocks[0].attn.rope.freqs.dtype == torch.float32
    assert torch.equal(model.blocks[0].attn.rope.freqs.flatten(1), state["freqs"][:, 0])
    state["norm.bias"] = torch.full((96,), 1e30)
    load_weights(model, state)
    with pytest.raises(WeightsError, match="infinity"):
        load_weights(model.half(), state)


@pytest.mark.parametrize("names", [("module",), ("_orig_mod",), ("module", "_orig_mod")])
def test_weights_load_into_compiled_and_wrapped_models(names, published, config):
    model = wrapped = ViT(config())
    for name in names:  # as DistributedDataParallel and torch.compile hold a model
        outer = nn.Module()
        outer.add_module(name, wrapped)
        wrapped = outer
    load_weights(wrapped, published())
    assert torch.equal(model.head.bias, published()["head.bias"])
    with pytest.raises(WeightsError, match="got Linear; expected a model of"):
        load_weights(nn.Linear(2, 2), published())


def test_a_model_on_the_meta_device_is_refused(published, config):
    with torch.device("meta"):
        model = ViT(config())
    with pytest.raises(WeightsError, match="meta device, which holds no weights"):
        load_weights(model, published())


def test_a_checkpoint_of_torchs_averaged_model_is_loaded(config):
    model = ViT(config())
    average = torch.optim.swa_utils.AveragedModel(model)
    other = ViT(config())
    report = load_weights(other, average.state_dict())
    assert torch.equal(other.blocks[1].attn.rope.freqs, model.blocks[1].attn.rope.freqs)
    assert list(report.dropped) == ["n_averaged"]


def loaded(state, source, model):
    """Load, and make sure that the weights are those of a state dict."""
    report = load_weights(model, source)
    assert torch.equal(model.state_dict()["head.weight"], state["head.weight"])
    return report


def prefixed(state, prefix):
    return {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize(
    "prefix", ["module.", "model.", "backbone.", "ropevit.", "_orig_mod.", "module._orig_mod.model."]
)
def test_a_prefix_is_removed_only_if_all_weights_have_it(prefix, published, config):
    state = published()
    loaded(state, prefixed(state, prefix), ViT(config()))
    odd = prefixed(state, prefix) | {"other.weight": torch.ones(1)}
    with pytest.raises(WeightsError, match="does not fit the model"):
        load_weights(ViT(config()), odd)


@pytest.mark.parametrize("key", ["model_state_dict", "model_state", "net", "network", "student", "teacher", "ema"])
def test_weights_are_found_under_the_keys_of_training_scripts(key, published, config):
    state = published()
    training = {"optimizer_state_dict": {"state": {0: torch.ones(2)}}, "loss": torch.ones(()), "best": 0.5}
    report = loaded(state, {key: prefixed(state, "model."), **training}, ViT(config()))
    assert set(training) < set(report.dropped)


def test_the_teacher_of_self_distillation_is_loaded_as_ema(published, config):
    state = published()
    both = {"student": state, "teacher": {key: value / 2 for key, value in state.items()}, "dino_loss": {"c": state}}
    model = ViT(config())
    assert "ema=True loads them" in loaded(state, both, model).dropped["teacher"]
    assert "EMA" in load_weights(model, both, ema=True).dropped["student"]
    torch.testing.assert_close(model.head.weight, state["head.weight"] / 2)
    with pytest.raises(WeightsError, match="holds tensors in 'net' beside the weights in"):
        load_weights(model, {"model": state, "net": state})


def test_self_referencing_and_deeply_nested_checkpoints_are_refused(published, config):
    around = {}
    around["model"] = around
    with pytest.raises(WeightsError, match="has weights nested deeper than 10 dicts"):
        load_weights(ViT(config()), around)
    inside = []
    inside.append(inside)
    tenfold = [0]
    for _ in range(25):
        tenfold = [tenfold] * 10
    report = load_weights(ViT(config()), {"model": published(), "inside": inside, "tenfold": tenfold})
    assert report.dropped["inside"] == report.dropped["tenfold"] == "training state"
    with pytest.raises(WeightsError, match="has a key of type int; expected strings"):
        load_weights(ViT(config()), {**published(), 3: torch.ones(1)})


@pytest.mark.parametrize("name", ["freqs", "rope.freqs", "head.weight", "layers.0.blocks.0.attn.rope_freqs"])
@pytest.mark.parametrize("shape", [(2, 2**30, 32), (2, 2**20, 32)])
def test_an_expanded_tensor_is_refused(name, shape, published, config, tmp_path):
    torch.save(published() | {name: torch.zeros(1).expand(shape)}, tmp_path / "model.pth")
    with pytest.raises(WeightsError, match=r"holds .* of shape .*, but only 1 of its numbers are stored"):
        load_weights(ViT(config()), tmp_path / "model.pth")


def test_impossible_numbers_of_layers_are_refused(published, config):
    for name in ("blocks.999999999.norm1.weight", f"blocks.{'9' * 5000}.norm1.weight", "layers.99999.blocks.0.x"):
        with pytest.raises(WeightsError, match="does not fit the model") as refusal:
            load_weights(ViT(config()), published() | {name: torch.ones(96)})
        assert len(str(refusal.value)) < 1000
    with pytest.raises(WeightsError, match="does not fit the model"):
        load_weights(ViT(config()), published() | {"freqs": torch.zeros(2, 5000, 96)})


def test_the_error_says_only_the_head_differs_only_if_that_is_true(published, config):
    state = published()
    with pytest.raises(WeightsError, match="only the head differs"):
        load_weights(ViT(config(num_classes=3)), state)
    del state["norm.weight"]
    with pytest.raises(WeightsError, match=r"with num_classes 10, while the model has num_classes 3 \[1 missing: norm"):
        load_weights(ViT(config(num_classes=3)), state)
