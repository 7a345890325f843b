import argparse
import collections
import json
import os
import pickle
import types
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ropevit.models import ViT
from ropevit.weights import WeightsError, load_weights, read_checkpoint


class Bomb:
    """Runs a command where a pickle is trusted."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt"])
@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_torch_save_are_read(suffix, zipped, published, config, tmp_path):
    path = tmp_path / f"model{suffix}"
    training = {"args": argparse.Namespace(lr=1e-3), "epoch": 3}
    torch.save({"model": published(), **training}, path, _use_new_zipfile_serialization=zipped)
    for source in (path, str(path)):
        report = load_weights(ViT(config()), source)
        assert report.source == str(path)
        assert set(report.dropped) == {"args", "epoch", "freqs_t_x", "freqs_t_y"}


def test_safetensors_files_are_read_with_their_header(published, config, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(published(), path, {"format": "pt"})
    assert read_checkpoint(path).metadata == {"format": "pt"}
    assert load_weights(ViT(config()), path).layout == "published"


def test_the_format_is_recognized_by_content_not_by_suffix(published, config, tmp_path):
    save_file(published(), tmp_path / "model.bin")
    torch.save(published(), tmp_path / "model")
    for name in ("model.bin", "model"):
        load_weights(ViT(config()), tmp_path / name)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_code_in_a_pickle_is_not_run(form, published, tmp_path):
    path, crater = tmp_path / "bomb.pth", tmp_path / "crater"
    if form == "pickle":
        path.write_bytes(pickle.dumps({"extra": Bomb(crater)}, protocol=2))
    else:
        entries = {"model": published(), "extra": Bomb(crater)}
        torch.save(entries, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(WeightsError, match=r"system, which weights never need .* nothing was run") as refusal:
        read_checkpoint(path)
    assert "\n" not in str(refusal.value)
    assert not crater.exists()


def test_a_newer_pickle_protocol_is_refused_without_a_warning(tmp_path):
    path, crater = tmp_path / "bomb.pth", tmp_path / "crater"
    path.write_bytes(pickle.dumps({"extra": Bomb(crater)}, protocol=4))
    with pytest.raises(WeightsError, match=r"not saved by torch\.save") as refusal:
        read_checkpoint(path)
    assert isinstance(refusal.value.__cause__, pickle.UnpicklingError)
    assert not crater.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"hello, I am a text file\nwith two lines", "is not a checkpoint .it starts with 'hello, I am a text file'"),
        (b"<!DOCTYPE html><html>", "is not a checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git-lfs pointer"),
        (b"\x80\x02garbage", "not saved by torch.save"),
        (b"PK\x03\x04garbage", "damaged or truncated"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{not json}", "damaged or truncated safetensors"),
        (pickle.dumps({"a": 1}, protocol=2), "not saved by torch.save"),
    ],
)
def test_other_files_are_refused_as_checkpoints(content, message, tmp_path):
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        read_checkpoint(path)


@pytest.mark.parametrize("keep", [0.999, 0.5, 0.01])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_truncated_file_is_refused(keep, suffix, published, tmp_path):
    path = tmp_path / f"model{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(published(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(WeightsError, match=r"truncated .*download or save it again"):
        read_checkpoint(path)


def test_a_file_with_the_suffix_safetensors_is_read_as_safetensors(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"short")
    with pytest.raises(WeightsError, match="damaged or truncated safetensors"):
        read_checkpoint(tmp_path / "model.safetensors")


def test_a_damaged_zip_is_refused(published, tmp_path):
    path = tmp_path / "model.pth"
    torch.save(published(), path)
    content = bytearray(path.read_bytes())
    start = content.index(b"data.pkl")
    content[start + 64 : start + 512] = bytes(448)
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="damaged"):
        read_checkpoint(path)


def rewrite(path, change=lambda content: content, packed=(), twice=False):
    """Write a zip anew, the record of its tensor changed, with checksums that fit."""
    with zipfile.ZipFile(path) as archive:
        records = [(name, archive.read(name)) for name in archive.namelist()]
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(path, "w") as archive:
        for name, content in records + records[:twice]:
            content = change(content) if name.endswith("data/0") else content
            archive.writestr(name, content, zipfile.ZIP_DEFLATED if name.endswith(packed) else None)


def flip(path, signature, place, bits):
    """Flip bits of the last thing in a zip that starts with a signature, before the name of the tensor's record."""
    content = bytearray(path.read_bytes())
    end = content.rindex(b"data/0") if signature == b"PK\x01\x02" else len(content)
    content[content.rindex(signature, 0, end) + place] ^= bits
    path.write_bytes(content)


DAMAGES = {
    "data/0 is wrong": lambda path: flip(path, torch.arange(64.0).numpy().tobytes()[:64], 7, 1),
    "damaged or not saved": lambda path: rewrite(path, lambda content: content[:-8]),
    "damaged or not saved by": lambda path: rewrite(path, lambda content: content + bytes(8)),
    "data/0 is marked as a directory": lambda path: flip(path, b"PK\x01\x02", 38, 0x10),
    "damaged or truncated": lambda path: flip(path, b"PK\x06\x07", 16, 2),  # said to be on several disks
    "lists a record twice": lambda path: rewrite(path, twice=True),
    "data/0 is compressed": lambda path: rewrite(path, packed=("data/0",)),
    "bytes before or after": lambda path: path.write_bytes(path.read_bytes()[:-2] + b"\x03\x00..."),
}


@pytest.mark.parametrize("said", DAMAGES)
def test_a_damaged_archive_is_refused(said, tmp_path):
    path = tmp_path / "model.pth"
    torch.save({"w": torch.arange(64.0)}, path)
    DAMAGES[said](path)
    with pytest.raises(WeightsError, match=said) as refusal:
        read_checkpoint(path)
    assert "\n" not in str(refusal.value)


def test_an_archive_packed_by_another_program_is_read(tmp_path):
    path = tmp_path / "model.pth"
    torch.save({"w": torch.arange(64.0)}, path)
    rewrite(path)
    assert torch.equal(read_checkpoint(path).entries["w"], torch.arange(64.0))


def test_plain_data_beside_weights_is_read(tmp_path):
    plain = {
        "loss": np.float32(0.5),
        "flag": np.bool_(True),
        "name": np.str_("ab"),
        "scores": np.arange(6).reshape(2, 3).T,
        "big": np.arange(3, dtype=">f8"),
        "none": np.zeros((0, 2)),
        "path": Path("runs/a"),
        "counts": collections.defaultdict(int, {"a": 1}),
        "args": argparse.Namespace(lr=np.float64(0.1), to=types.SimpleNamespace(x=1)),
    }
    allowed = torch.serialization.get_safe_globals()
    torch.save({"w": torch.ones(2), **plain}, tmp_path / "model.pth")
    read = read_checkpoint(tmp_path / "model.pth").entries
    assert (read["args"], read["counts"], str(read["path"])) == (plain["args"], {"a": 1}, "runs/a")
    assert [read[name] for name in ("loss", "flag", "name")] == [plain[name] for name in ("loss", "flag", "name")]
    assert all(np.array_equal(read[name], plain[name]) for name in ("scores", "big", "none"))
    assert set(torch.serialization.get_safe_globals()) == set(allowed)


@pytest.mark.parametrize("odd", [np.array([{}]), np.zeros(2, "i4,f4"), np.datetime64("2020-01-01")])
def test_arrays_of_other_dtypes_than_numbers_and_strings_are_refused(odd, tmp_path):
    torch.save({"w": torch.ones(2), "odd": odd}, tmp_path / "model.pth")
    with pytest.raises(
        WeightsError, match=r"array or scalar of dtype '\w+'; expected numbers or strings; save it again"
    ):
        read_checkpoint(tmp_path / "model.pth")


class Lie:
    """Pickles as a call with inconsistent arguments for NumPy's functions."""

    def __init__(self, *made):
        self.made = made

    def __reduce__(self):
        return self.made


@pytest.mark.parametrize(
    "made",
    [
        (np.float32(0).__reduce__()[0], (np.dtype("f4"), b"12345678")),
        (np.zeros(1).__reduce__()[0], (np.ndarray, (0,), b"b"), (1, (2**40,), np.dtype("f4"), False, b"1234")),
        (np.zeros(1).__reduce__()[0], (np.ndarray, (0,), b"b"), (1, (-1, -1), np.dtype("f4"), False, b"1234")),
        (np.dtype, ("f4", False, True), (3, "!", None, None, None, -1, -1, 63)),
        (np.dtype, ("O8", False, True)),
        (list, ("ab",)),
        (bytes, (2**40,)),
    ],
)
def test_arrays_with_inconsistent_shape_dtype_and_bytes_are_refused(made, tmp_path):
    torch.save({"w": torch.ones(2), "odd": Lie(*made)}, tmp_path / "model.pth")
    with pytest.raises(WeightsError, match=r"save it again|damaged"):
        read_checkpoint(tmp_path / "model.pth")


def test_a_whole_module_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pth")
    with pytest.raises(WeightsError, match=r"contains torch.nn.modules.linear.Linear, .* state dict alone"):
        read_checkpoint(tmp_path / "model.pth")
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="holds list; expected a dict"):
        read_checkpoint(tmp_path / "list.pth")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere/model.pth", "no file 'nowhere/model.pth'"),
        ("./naver-ai/rope", "no file"),
        ("../rope", "no file '../rope'"),
        ("/nowhere/model", "no file '/nowhere/model'"),
        ("a/b/c", "no file 'a/b/c'"),
        ("rope_mixed_deit_smal_patch16_LS", "no file 'rope_mixed_deit_smal"),
    ],
)
def test_paths_that_do_not_exist_are_refused(source, message):
    with pytest.raises(WeightsError, match=message):
        read_checkpoint(source)


@pytest.mark.usefixtures("unchecked")
def test_a_source_of_another_type_is_refused():
    with pytest.raises(WeightsError, match="got int; expected a path, a hub id or a state dict"):
        read_checkpoint(3)


@pytest.fixture
def shards(published, tmp_path):
    """A folder with weights in two files and their index, and the weights."""
    state = published()
    names = sorted(state)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: state[name] for name in part}, tmp_path / file, {"format": "pt"})
    table = {name: file for file, part in parts.items() for name in part}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": table}))
    return index, state


def test_sharded_checkpoints_are_read_by_their_index(shards, config):
    index, state = shards
    for source in (index.parent, str(index.parent), index, str(index)):
        model = ViT(config())
        load_weights(model, source)
        assert torch.equal(model.norm.weight, state["norm.weight"])
    torch.save({name: state[name] for name in sorted(state)[::2]}, index.with_name("a.safetensors.bin"))
    other = index.with_name("pytorch_model.bin.index.json")
    other.write_text(index.read_text().replace("a.safetensors", "a.safetensors.bin"))
    load_weights(ViT(config()), other)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content | {"weight_map": []}, "has no dict 'weight_map'"),
        (lambda _: [], "has no dict 'weight_map'"),
        (lambda content: content["weight_map"].update(x="../x.bin") or content, "lists the file '../x.bin'"),
        (lambda content: content["weight_map"].update(x="/etc/passwd") or content, "lists the file '/etc/passwd'"),
        (lambda content: content["weight_map"].update(x=5) or content, "lists the file 5"),
        (lambda content: content["weight_map"].update(x="c.bin") or content, "no file '.*c.bin'"),
        (
            lambda content: content["weight_map"].update(x="a.safetensors") or content,
            r"does not hold the weights that .* \(x\)",
        ),
        (lambda content: content["weight_map"].popitem() and content, "does not hold the weights that"),
    ],
)
def test_an_index_that_contradicts_its_files_is_refused(change, said, shards):
    index, _ = shards
    index.write_text(json.dumps(change(json.loads(index.read_text()))))
    with pytest.raises(WeightsError, match=said):
        read_checkpoint(index.parent)
    index.write_text("[" * 100_000)
    with pytest.raises(WeightsError, match="not readable JSON"):
        read_checkpoint(index)


def test_directories_and_revisions_of_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    with pytest.raises(WeightsError, match="is a directory"):
        read_checkpoint("owner/name")
    with pytest.raises(WeightsError, match="only hub ids have revisions"):
        read_checkpoint("model.pth", revision="main")


def test_weights_error_is_a_value_error():
    with pytest.raises(ValueError, match="no file"):
        read_checkpoint("nowhere.pth")
