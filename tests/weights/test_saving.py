import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import ropevit
from marks import embeddings
from ropevit.models import VIT_EMBEDDINGS, ViT, ViTConfig
from ropevit.rope import CONVENTION
from ropevit.weights import WeightsError, load_model, load_weights, save_model
from ropevit.weights.digest import KEY, content_digest
from ropevit.weights.metadata import IGNORED_FIELDS


@pytest.mark.parametrize("position", embeddings(VIT_EMBEDDINGS))
@pytest.mark.parametrize(
    "changes",
    [{}, {"img_size": (32, 96), "num_registers": 2, "pooling": "avg", "layer_scale": None}],
)
def test_a_saved_model_is_loaded_with_its_config(position, changes, config, tmp_path):
    theta = {"rope_theta": 7.0} if "rope" in position else {}
    model = ViT(config(position, **changes, **theta)).eval()
    path = save_model(tmp_path / "new" / "model.safetensors", model, classes=list("abcdefghij"), metadata={"seed": 3})
    again, info = load_model(path)
    assert again.config == info.config == model.config
    assert info.classes == list("abcdefghij")
    assert info.metadata == {"seed": 3}
    assert (info.report.layout, info.report.dropped, info.report.resized) == ("ropevit", {}, {})
    images = torch.randn(1, 3, 48, 64)
    assert torch.equal(again.eval()(images), model(images))
    assert [file.name for file in path.parent.iterdir()] == ["model.safetensors"]


def test_saving_replaces_a_file_atomically(config, tmp_path, monkeypatch):
    path = save_model(tmp_path / "model.safetensors", ViT(config()))
    before = path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(ValueError, match="No space left on device; choose another place"):
        save_model(path, ViT(config()))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def umask() -> int:
    import os

    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_invalid_arguments_of_save_model_are_refused(config, tmp_path):
    with pytest.raises(WeightsError, match=r"expected a path that ends in .safetensors"):
        save_model(tmp_path / "model.pth", ViT(config()))
    with pytest.raises(WeightsError, match="got 2 class names for a model with 10 classes"):
        save_model(tmp_path / "model.safetensors", ViT(config()), classes=["a", "b"])
    with pytest.raises(WeightsError, match="metadata that JSON cannot represent"):
        save_model(tmp_path / "model.safetensors", ViT(config()), metadata={"path": tmp_path})
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("unchecked")
def test_class_names_must_be_strings(config, tmp_path):
    with pytest.raises(WeightsError, match="got the class name 3; expected a string"):
        save_model(tmp_path / "model.safetensors", ViT(config()), classes=range(3, 13))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_theta": 50.0}, "rope_theta: 50.0 instead of 100.0"),
        ({"position": "none"}, "position: 'none' instead of 'rope_axial'"),
        ({"heads": 6}, "heads: 6 instead of 3"),
        ({"pooling": "avg"}, "pooling: 'avg' instead of 'token'"),
        ({"width": 48, "depth": 3}, "width: 48 instead of 96; depth: 3 instead of 2"),
    ],
)
def test_a_file_of_save_model_loads_only_into_a_model_with_the_same_config(changes, message, config, tmp_path):
    path = save_model(tmp_path / "model.safetensors", ViT(config(**({"position": "rope_axial"} | changes))))
    with pytest.raises(WeightsError, match=message):
        load_weights(ViT(config("rope_axial")), path)


def test_config_fields_that_do_not_change_the_weights_may_differ(config, tmp_path):
    path = save_model(tmp_path / "model.safetensors", ViT(config("rope_mixed", rope_theta=50.0, drop_path=0.3)))
    load_weights(ViT(config("rope_mixed", img_size=(32, 96))), path)
    path = save_model(path, ViT(config("rope_axial", pooling="avg")))
    load_weights(ViT(config("rope_axial", num_classes=3)), path, replace_head=True)
    assert set(vars(config())) | {"window_size"} >= IGNORED_FIELDS


def test_the_config_in_a_file_takes_precedence_over_its_name(config, tmp_path):
    path = save_model(tmp_path / "deit_small_patch16_LS.safetensors", ViT(config("rope_axial_ape")))
    assert load_weights(ViT(config("rope_axial_ape")), path).layout == "ropevit"


def altered(path, **header) -> None:
    """Change entries in the header of a file of ours, without a digest; None takes one out."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata() | {KEY: None} | header
    save_file(load_file(path), path, {key: value for key, value in metadata.items() if value is not None})


def config_json(config: ViTConfig, **changes) -> str:
    fields = config.to_dict() | changes
    return json.dumps({key: value for key, value in fields.items() if value != "absent"})


def test_a_header_of_an_incompatible_version_is_refused(config, tmp_path):
    path, own = tmp_path / "model.safetensors", config()
    cases = {
        "unknown fields \\['wings'\\] and lacks \\[\\]": {"config": config_json(own, wings=2)},
        "unknown fields \\[\\] and lacks \\['depth'\\]": {"config": config_json(own, depth="absent")},
        "is invalid: it has depth 0, its weights have 2": {"config": config_json(own, depth=0)},
        "is invalid: got depth='two'; expected a whole number": {"config": config_json(own, depth="two")},
        "lacks \\['ape_std', 'class_token'": {"config": "[]"},
        "no readable 'config'": {"config": "{"},
        "no readable 'convention'": {"convention": None},
        "another rotation convention .pairs: 'halves' instead of": {
            "convention": json.dumps(CONVENTION | {"pairs": "halves"})
        },
        "another rotation convention .not a dict": {"convention": "3"},
        "no readable 'classes'": {"classes": None},
    }
    for message, header in cases.items():
        save_model(path, ViT(own))
        altered(path, **header)
        with pytest.raises(WeightsError, match=message):
            load_model(path)


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("width", 65536, "it has width 65536, its weights have 96"),
        ("depth", 10**9, f"got depth={10**9}; expected a whole number up to"),
        ("depth", 10**6, "it has depth 1000000, its weights have 2"),
        ("num_classes", 2**40, "got num_classes="),
        ("num_registers", 10**12, "got num_registers="),
        ("in_channels", 10**9, "got in_channels="),
        ("in_channels", 1, "it has in_channels 1, its weights have 3"),
        ("mlp_ratio", 1e300, "it has mlp_ratio 1e.300, its weights have 4"),
        ("mlp_ratio", math.inf, "got mlp_ratio=inf; expected a finite number"),
        ("heads", True, "got heads=True; expected a whole number"),
        ("heads", 3.0, r"got heads=3\.0"),
        ("scaling", 5, "got scaling=5; expected a string or null"),
        ("scaling", {"a": 1}, "got scaling={'a': 1}"),
        ("layer_scale", "x", "got layer_scale='x'; expected a finite number or null"),
        ("layer_scale", [1], r"got layer_scale=\[1\]"),
        ("layer_scale", None, "blocks.0.gamma_1 .96,. instead of none"),
        ("pooling", "max", "got pooling='max'; expected one of 'token', 'avg'"),
        ("class_token", 1, "got class_token=1; expected true or false"),
        ("img_size", [64], r"got img_size=\[64\]; expected a list of 2, each a whole number"),
        ("img_size", [64, "x"], "got img_size='x'"),
        ("pairs", {"x": 1}, "got pairs="),
        ("frames", 2**20, r"patch_embed.proj.weight \(96, 3, 16, 16\) instead of \(96, 3, 1, 16, 16\)"),
        ("position", "rope_mixed_ape", "pos_embed missing instead of"),
        ("position", "rope_axial", "blocks.0.attn.rope.freqs .* instead of none"),
    ],
)
def test_a_config_that_contradicts_the_weights_is_refused_before_the_model_is_built(
    field, value, said, config, tmp_path
):
    path = save_model(tmp_path / "model.safetensors", ViT(config()))
    altered(path, config=config_json(config(), **{field: value}))
    with pytest.raises(WeightsError, match=said) as refusal:
        load_model(path)
    assert "\n" not in str(refusal.value)
    with pytest.raises(WeightsError, match=said):
        load_weights(ViT(config()), path)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        *((key, DEEP, f"no readable '{key}' .*nested too deeply") for key in ("config", "convention", "classes")),
        ("metadata", DEEP, "no readable 'metadata' .*nested too deeply"),
        ("metadata", "[]", "is a list; expected a dict"),
        ("metadata", "5", "is a int; expected a dict"),
        ("classes", "[1, 2, 3]", "got classes=1; expected a string"),
        ("classes", "[null]", "got classes=None"),
        ("classes", '[["a"], "b"]', r"got classes=\['a'\]"),
        ("classes", '{"a": 1}', "expected a list, each a string or null"),
        ("classes", '["a", "b"]', "names 2 classes for a head with 10"),
    ],
)
def test_header_entries_of_a_wrong_type_are_refused(key, value, said, config, tmp_path):
    path = save_model(tmp_path / "model.safetensors", ViT(config()))
    altered(path, **{key: value})
    with pytest.raises(WeightsError, match=said) as refusal:
        load_model(path)
    assert len(str(refusal.value)) < 3000


def test_a_file_has_a_digest_of_its_header_and_tensors(config, tmp_path):
    path = save_model(tmp_path / "model.safetensors", ViT(config()), classes=list("abcdefghij"))
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    weight, shapes = start + 100, whole.index(b'"shape":[96') + 9
    names = [whole.index(name) for name in (b"norm.weight", b"drop_path", b'"vit"', b'\\"d\\", \\"e\\"')]
    for place in [weight, len(whole) - 1, shapes, *names]:
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(WeightsError, match=r"does not match the digest in its header|damaged"):
            load_model(path)
    path.write_bytes(whole)
    assert load_model(path)[1].classes == list("abcdefghij")
    altered(path)  # as files from before digests were written
    load_model(path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.bool])
def test_a_digest_covers_every_dtype_shape_and_name(dtype):
    state = {"a": torch.ones(2, 3, dtype=dtype), "b": torch.ones((), dtype=dtype), "c": torch.ones(0, dtype=dtype)}
    others = [
        {**state, "a": state["a"].reshape(3, 2)},
        {**state, "a": torch.zeros(2, 3, dtype=dtype)},
        {**state, "b": torch.zeros((), dtype=dtype)},
        {**state, "c": torch.ones(0, dtype=torch.float32)},
        {"a": state["a"], "b": state["b"], "d": state["c"]},
    ]
    digests = [content_digest(each, {"format": "x"}) for each in [state, *others]]
    digests += [content_digest(state, header) for header in ({}, {"format": "y"}, {"format": "x", "z": ""})]
    assert len(set(digests)) == len(digests) == 9
    assert content_digest(dict(reversed(state.items())), {"format": "x", KEY: "before"}) == digests[0]
    assert content_digest({**state, "a": torch.ones(3, 2, dtype=dtype).T}, {"format": "x"}) == digests[0]


def test_load_model_refuses_a_file_without_a_config(published, tmp_path):
    torch.save(published(), tmp_path / "model.pth")
    with pytest.raises(WeightsError, match="has no config, as only files of save_model"):
        load_model(tmp_path / "model.pth")


def test_create_model_loads_a_file_and_replaces_the_head(tmp_path):
    small = {"width": 96, "depth": 2, "heads": 3}
    name = "rope_mixed_ape_deit_small_patch16_LS"
    path = save_model(tmp_path / "model.safetensors", ropevit.create_model(name, num_classes=10, img_size=64, **small))
    assert ropevit.create_model(name, pretrained=path, num_classes=10, **small).pos_embed.shape == (1, 196, 96)
    swapped = ropevit.create_model(name, pretrained=str(path), num_classes=4, img_size=(32, 48), **small)
    wanted = {"num_classes": 4, "img_size": (32, 48), "trained_grid": (4, 4)}  # 64 pixels are 4 patches
    assert swapped.config == replace(ViTConfig(position="rope_mixed_ape", **small), **wanted)
    assert torch.equal(swapped.norm.weight, load_file(path)["norm.weight"])
    assert ropevit.create_model(name, pretrained=path, num_classes=0, **small).config.num_classes == 0
    with pytest.raises(WeightsError, match="only the head differs"):
        ropevit.create_model(name, pretrained=path, **small)


def test_create_model_refuses_unknown_names_and_options():
    with pytest.raises(ValueError, match="no model named 'rope_mixed_deit_smal_patch16_LS'; did you mean"):
        ropevit.create_model("rope_mixed_deit_smal_patch16_LS")
    with pytest.raises(ValueError, match="no option named color"):
        ropevit.create_model("rope_mixed_deit_small_patch16_LS", color=3)


def test_a_model_that_contradicts_its_config_is_not_saved(config, tmp_path):
    path = tmp_path / "model.safetensors"
    model = ViT(config())
    model.head = torch.nn.Linear(96, 4)
    with pytest.raises(
        WeightsError, match=r"head.weight, head.bias of the model .* change the head with reset_classifier"
    ):
        save_model(path, model)
    model.reset_classifier(4)
    with torch.no_grad():
        model.head.bias[0] = torch.nan
    with pytest.raises(WeightsError, match=r"the model holds NaN or infinity in head\.bias"):
        save_model(path, model)
    assert not path.exists()
