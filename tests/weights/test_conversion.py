from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file, save_file

from marks import by_default
from ropevit.models import ViT
from ropevit.weights import WeightsError, convert, load_model, read_checkpoint, save_model
from ropevit.weights.parse import parse_checkpoint
from weights.checkpoints import POSITIONS, small_shapes

NAMES = {p: "deit_small_patch16_LS" if p == "ape" else f"{p}_deit_small_patch16_LS" for p in POSITIONS}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        value.dtype == second[key].dtype and torch.equal(value, second[key]) for key, value in first.items()
    )


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_round_trips_give_the_same_bits(position, dtype, published, config, tmp_path):
    first = published(position)
    first = {key: value if key.startswith("freqs_t_") else value.to(dtype) for key, value in first.items()}
    paths = [tmp_path / name for name in ("a.pth", "b.safetensors", "c.safetensors", "d.bin", "e.safetensors")]
    torch.save({"model": first, "optimizer": {"state": {}}, "epoch": 399}, paths[0])
    reports = [
        convert(source, destination, to, model=config(position))
        for (source, destination), to in zip(pairwise(paths), ("ropevit", "timm", "published", "ropevit"), strict=True)
    ]
    assert same(torch.load(paths[3])["model"], first)
    assert same(load_file(paths[4]), load_file(paths[1]))
    timm = {key.replace("rope.freqs", "freqs"): value for key, value in load_file(paths[2]).items()}
    assert same({**timm, **({"freqs": timm["freqs"].flatten(2)} if "freqs" in timm else {})}, weights(first))
    assert set(reports[0].dropped) == {"optimizer", "epoch"} | (first.keys() - weights(first).keys())
    assert f"wrote {len(first)} entries to {paths[3]} (" in str(reports[2])
    assert load_model(paths[1])[0].config == config(position)


def weights(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value for key, value in state.items() if not key.startswith("freqs_t_")}


@pytest.mark.parametrize("position", by_default(["rope_axial", "rope_mixed_ape"], POSITIONS))
def test_a_file_name_determines_the_model(position, tmp_path):
    path = tmp_path / f"{NAMES[position]}.pth"
    shapes = small_shapes(position, width=384, depth=12, patches=9)
    torch.save({"model": {key: torch.zeros(shape, dtype=torch.bfloat16) for key, shape in shapes.items()}}, path)
    convert(path, tmp_path / "ours.safetensors")
    config = parse_checkpoint(read_checkpoint(tmp_path / "ours.safetensors")).config
    assert (config.position, config.heads, config.num_classes) == (position, 6, 10)
    if position != "rope_axial":
        assert config.grid == (3, 3)


def test_the_config_is_inferred_from_shapes_where_they_determine_it(published, tmp_path):
    convert(published("rope_mixed", width=192), tmp_path / "mixed.safetensors")
    config = load_model(tmp_path / "mixed.safetensors")[0].config
    assert (config.position, config.width, config.heads, config.depth) == ("rope_mixed", 192, 3, 2)
    convert(published("rope_axial", width=192), tmp_path / "axial.safetensors")
    assert load_model(tmp_path / "axial.safetensors")[0].config.position == "rope_axial"
    with pytest.raises(WeightsError, match="is ape or rope_axial_ape, with 3 heads; name the model"):
        convert(published("ape", width=192), tmp_path / "ape.safetensors")
    for to in ("ropevit", "timm"):
        with pytest.raises(WeightsError, match="nor how many heads share its 96 channels; name the model"):
            convert(published("rope_mixed"), tmp_path / "narrow.safetensors", to)
    convert(published("ape", width=192), tmp_path / "ape.safetensors", "timm")


def test_classes_and_metadata_are_kept_in_files_of_ours(config, tmp_path):
    path = save_model(tmp_path / "a.safetensors", ViT(config()), classes=list("abcdefghij"), metadata={"seed": 1})
    convert(path, tmp_path / "b.safetensors", "ropevit")
    assert read_checkpoint(path).metadata == read_checkpoint(tmp_path / "b.safetensors").metadata
    assert same(load_file(path), load_file(tmp_path / "b.safetensors"))


@pytest.mark.parametrize(
    ("position", "changes", "to", "message"),
    [
        ("rope_axial", {"rope_theta": 50.0}, "published", "theta=50.0, which the published layout cannot store"),
        ("none", {}, "published", "no position embedding, which the published layout cannot store"),
        ("rope_axial", {"pooling": "avg"}, "timm", "pooling=avg, which the timm layout cannot store"),
        ("rope_mixed", {"num_registers": 2}, "published", "num_registers=2, which the published"),
        ("ape", {"img_size": (32, 64)}, "timm", r"grid=\(2, 4\), which the timm"),
        ("rope_mixed", {"img_size": (32, 64)}, "published", r"grid=\(2, 4\), which the published"),
    ],
)
def test_a_model_that_a_layout_cannot_represent_is_refused(position, changes, to, message, config, tmp_path):
    path = save_model(tmp_path / "ours.safetensors", ViT(config(position, **changes)))
    with pytest.raises(WeightsError, match=message):
        convert(path, tmp_path / "theirs.safetensors", to)
    assert [file.name for file in tmp_path.iterdir()] == ["ours.safetensors"]


def test_the_initial_theta_of_learned_frequencies_may_be_lost(config, tmp_path):
    path = save_model(tmp_path / "ours.safetensors", ViT(config("rope_mixed", rope_theta=50.0)))
    for to in ("published", "timm"):
        convert(path, tmp_path / f"{to}.safetensors", to)
        convert(tmp_path / f"{to}.safetensors", tmp_path / f"back_from_{to}.safetensors", model=config("rope_mixed"))
        assert same(load_file(path), load_file(tmp_path / f"back_from_{to}.safetensors"))


def test_registers_convert_to_timm_and_back(config, tmp_path):
    path = save_model(tmp_path / "a.safetensors", ViT(config(num_registers=2)))
    convert(path, tmp_path / "b.safetensors", "timm")
    assert load_file(tmp_path / "b.safetensors")["reg_token"].shape == (1, 2, 96)
    convert(tmp_path / "b.safetensors", tmp_path / "c.safetensors", model=config(num_registers=2))
    assert same(load_file(path), load_file(tmp_path / "c.safetensors"))


@pytest.mark.parametrize(
    ("name", "to", "message"),
    [
        ("new.bin", "ropevit", "a file in ropevit layout ends in .safetensors"),
        ("new.txt", "published", "a file in published layout ends in .bin or .pth or .safetensors"),
        ("new.safetensors", "onnx", "no layout named 'onnx'; choose one of ropevit, published, timm"),
        ("old.safetensors", "timm", "exists; choose another name, or pass overwrite=True"),
        (".", "timm", "a file in timm layout ends in"),
    ],
)
def test_invalid_destinations_are_refused(name, to, message, published, tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "old.safetensors")
    with pytest.raises(WeightsError, match=message):
        convert(published(), tmp_path / name, to)
    assert load_file(tmp_path / "old.safetensors")


def test_an_existing_file_is_replaced_on_request_even_in_place(published, config, tmp_path):
    path = tmp_path / "model.pth"
    torch.save({"model": published()}, path)
    convert(path, path, "published", model=config(), overwrite=True)
    assert same(torch.load(path)["model"], published())


def test_invalid_sources_are_refused(published, config, tmp_path):
    path = tmp_path / "new.safetensors"
    with pytest.raises(WeightsError, match="cannot convert the given state dict; it is not a vision transformer"):
        convert({"a": torch.ones(1)}, path)
    with pytest.raises(WeightsError, match="NaN"):
        convert(published() | {"norm.bias": torch.full((96,), torch.nan)}, path, model=config())
    with pytest.raises(WeightsError, match=r"1 missing: norm.bias"):
        convert({key: value for key, value in published().items() if key != "norm.bias"}, path, model=config())
    with pytest.raises(WeightsError, match="position rope_mixed, while the model has position ape"):
        convert(published(), path, model=config("ape"))
    with pytest.raises(ValueError, match="no model named 'nonsense'"):
        convert(published(), path, model="nonsense")
    with pytest.raises(WeightsError, match="are for 15 patches, which is not a square grid"):
        convert(published("rope_mixed_ape", width=192, patches=15), path)
    assert not path.exists()
