import argparse
import os
import pickle

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
def test_files_of_torch_are_read(suffix, zipped, published, config, tmp_path):
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


def test_the_content_decides_not_the_suffix(published, config, tmp_path):
    save_file(published(), tmp_path / "model.bin")
    torch.save(published(), tmp_path / "model")
    for name in ("model.bin", "model"):
        load_weights(ViT(config()), tmp_path / name)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_a_pickle_bomb_does_not_go_off(form, published, tmp_path):
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


def test_a_newer_pickle_is_refused_without_a_warning_besides(tmp_path):
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
        (b"hello, I am a text file\nwith two lines", "no checkpoint .it starts with 'hello, I am a text file'"),
        (b"<!DOCTYPE html><html>", "no checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git-lfs pointer"),
        (b"\x80\x02garbage", "not saved by torch.save"),
        (b"PK\x03\x04garbage", "is truncated"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{not json}", "damaged or truncated safetensors"),
        (pickle.dumps({"a": 1}, protocol=2), "not saved by torch.save"),
    ],
)
def test_what_is_no_checkpoint_is_refused(content, message, tmp_path):
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


def test_a_file_called_safetensors_is_read_as_such(tmp_path):
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


def test_a_whole_module_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pth")
    with pytest.raises(WeightsError, match=r"asks for torch.nn.modules.linear.Linear, .* state dict alone"):
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
def test_paths_that_lead_nowhere_are_refused(source, message):
    with pytest.raises(WeightsError, match=message):
        read_checkpoint(source)


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_source_is_refused():
    with pytest.raises(WeightsError, match="got int; expected a path, a hub id or a state dict"):
        read_checkpoint(3)


def test_directories_and_revisions_of_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    with pytest.raises(WeightsError, match="is a directory"):
        read_checkpoint("owner/name")
    with pytest.raises(WeightsError, match="only hub ids have revisions"):
        read_checkpoint("model.pth", revision="main")


def test_whoever_catches_value_errors_catches_ours():
    with pytest.raises(ValueError, match="no file"):
        read_checkpoint("nowhere.pth")
