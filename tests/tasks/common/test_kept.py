import pytest
import torch
from safetensors.torch import save_file

from ropevit.tasks.common.kept import file_of_run, kind_of


def test_the_header_of_a_file_tells_the_kind_of_its_model(tmp_path):
    for name, kind in (("ropevit-detector", "detector"), ("ropevit-segmenter", "segmenter"), ("ropevit", "classifier")):
        folder = tmp_path / name
        folder.mkdir()
        save_file({"w": torch.zeros(1)}, folder / "best.safetensors", metadata={"format": name})
        assert kind_of(str(folder)) == kind_of(str(folder / "best.safetensors")) == kind
    (tmp_path / "broken.safetensors").write_bytes(b"no header")
    assert kind_of(str(tmp_path / "broken.safetensors")) == kind_of("timm/some_model") == kind_of(None) == "classifier"


def test_a_directory_gives_the_weights_that_are_asked_for_or_says_which_there_are(tmp_path):
    (tmp_path / "model.safetensors").touch()
    assert file_of_run(tmp_path, "last") == tmp_path / "model.safetensors"
    with pytest.raises(ValueError, match=r"has no best[.]safetensors; choose --which last"):
        file_of_run(tmp_path, None)
    with pytest.raises(ValueError, match="holds no weights"):
        file_of_run(tmp_path / "nowhere", "best")
