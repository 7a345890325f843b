import zipfile

import pytest
import torch

from ropevit.tasks.training.checkpoints import CheckpointError, damage, find_newest, load_checkpoint, save_checkpoint


@pytest.fixture
def folder(tmp_path):
    """Two checkpoints of a training."""
    for step in (1, 2):
        content = {"state": {"w": torch.full((64,), float(step))}, "record": {"evaluated": step}, "scaler": {}}
        save_checkpoint(tmp_path, step, content, keep=2)
    return tmp_path


def change(path, place, value):
    content = bytearray(path.read_bytes())
    content[place] = value
    path.write_bytes(content)


def test_undamaged_checkpoint_is_found_and_read(folder):
    newest, damaged = find_newest(folder)
    assert (newest.name, damaged) == ("step-00000002.pt", [])
    assert torch.equal(load_checkpoint(newest)["state"]["w"], torch.full((64,), 2.0))


#: Fields of an entry in a zip's directory, as bytes from its start, and what is put there.
DIRECTORY = {
    "version needed": (6, 99),
    "encrypted": (8, 0x09),
    "patched data": (8, 0x28),
    "deflated": (10, 8),
    "lzma": (10, 14),
    "checksum": (16, 0x55),
    "compressed size": (20, 0x01),
    "size": (24, 0x01),
    "length of the name": (28, 0x03),
    "length of the extra field": (30, 0x07),
    "length of the comment": (32, 0x07),
    "disk": (34, 0x02),
    "directory bit": (38, 0x10),
    "place": (42, 0x01),
    "name": (50, 0xFF),
}


@pytest.mark.parametrize("field", DIRECTORY)
def test_damaged_newest_checkpoint_falls_back_to_the_previous(field, folder):
    newest = folder / "step-00000002.pt"
    content = newest.read_bytes()
    entry = content.rindex(b"PK\x01\x02", 0, content.rindex(b"data/0"))  # that of the tensor
    place, value = DIRECTORY[field]
    change(newest, entry + place, value)
    found, damaged = find_newest(folder)
    assert found.name == "step-00000001.pt"
    assert "step-00000002.pt is damaged (" in damaged[0]
    assert "\n" not in damaged[0]


def test_checkpoint_that_torch_cannot_read_is_damaged(folder):
    newest = folder / "step-00000002.pt"
    with zipfile.ZipFile(newest) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(newest, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, content[:10] if name.endswith("data.pkl") else content)
    assert "cannot be read" in damage(newest)
    torch.save({"weights": torch.ones(1)}, newest)
    assert "lacks record, scaler, state" in damage(newest)
    newest.write_bytes(b"")
    assert damage(newest)
    assert find_newest(folder)[0].name == "step-00000001.pt"
    (folder / "step-00000001.pt").write_bytes(b"PK\x03\x04")
    with pytest.raises(CheckpointError, match=r"step-00000001.pt is damaged"):
        find_newest(folder)
