import os
import signal
import subprocess
import sys

import pytest

from ropevit.locks import NAME, is_empty, lock_folder

HOLD = """
import sys
from pathlib import Path
from ropevit.locks import lock_folder
with lock_folder(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path):
    out = tmp_path / "runs" / "one"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            line = r"another process is writing to .*one; wait until it ends, or choose another --out"
            with pytest.raises(ValueError, match=line), lock_folder(out):
                pass
            assert (out / NAME).exists()  # the holder's
        finally:
            os.kill(holder.pid, signal.SIGKILL)
    assert is_empty(out)  # though the killed process left its file
    with lock_folder(out):
        pass


def test_a_lock_leaves_nothing_behind(tmp_path):
    out = tmp_path / "runs" / "one"
    with lock_folder(out):
        assert is_empty(out)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyError), lock_folder(out):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_lock_keeps_what_is_written_and_folders_that_were_there(tmp_path):
    with lock_folder(tmp_path / "there"):
        (tmp_path / "there" / "config.json").touch()
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["config.json"]
    assert not is_empty(tmp_path / "there")
    (tmp_path / "empty").mkdir()
    with lock_folder(tmp_path / "empty"):
        pass
    assert (tmp_path / "empty").is_dir()
    assert is_empty(tmp_path / "empty")


def test_a_folder_locked_twice_in_a_process_is_refused(tmp_path):
    with lock_folder(tmp_path), pytest.raises(ValueError, match="another process"), lock_folder(tmp_path):
        pass


def test_a_file_is_no_folder(tmp_path):
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(ValueError, match=r"got the file .* for a directory; choose another --out"), lock_folder(path):
        pass
    line = r"cannot write .*: Not a directory; choose another place"
    with pytest.raises(ValueError, match=line), lock_folder(path / "below"):
        pass
    assert path.exists()


def test_file_systems_without_locks_are_said_to_have_none(tmp_path, monkeypatch):
    def refuse(self):
        raise NotImplementedError

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    with pytest.warns(UserWarning, match="cannot be locked"), lock_folder(tmp_path / "new"):
        pass
    assert not (tmp_path / "new").exists()
