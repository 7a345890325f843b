import errno
import signal
import sys

import pytest
import torch

from ropevit.files import parse_json, read_json, write_atomically, write_json


def test_a_failed_write_keeps_the_old_file_and_names_it(tmp_path):
    path = tmp_path / "table.json"
    write_json(path, {"a": 1})

    def fail(file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ValueError, match=r"cannot write .*table\.json: No space left on device"):
        write_atomically(path, fail)
    assert read_json(path) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["table.json"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ', "Expecting value"),
        (b"\xff\xfe\x00", "decode|Expecting"),
        ("", "Expecting"),
    ],
)
def test_damaged_json_is_one_line_that_names_the_source(content, reason):
    with pytest.raises(ValueError, match=rf"^run/config\.json is not readable JSON \(.*({reason}).*\)") as caught:
        parse_json(content, "run/config.json")
    assert "\n" not in str(caught.value)


def test_a_writer_that_hides_why_the_disk_refused_does_not_hide_it_here(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # Python itself would leave half a file
    resource = pytest.importorskip("resource")
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(ValueError, match=r"cannot write .*a\.pt: File too large"):
            write_atomically(tmp_path / "a.pt", lambda file: torch.save({"a": torch.zeros(100_000)}, file))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    with pytest.raises(RuntimeError, match="its own"):
        write_atomically(tmp_path / "a.pt", lambda _: raise_runtime_error())
    assert list(tmp_path.iterdir()) == []


def raise_runtime_error():
    raise RuntimeError("its own")
