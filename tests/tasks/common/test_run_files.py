from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ropevit.tasks.common.eval_config import EvalConfig, SegmenterOptions
from ropevit.tasks.common.run_files import checkpoint_in_run, detect_task, weights_file


def test_the_header_of_a_file_tells_the_kind_of_its_model(tmp_path):
    for name, kind in (("ropevit-detector", "detector"), ("ropevit-segmenter", "segmenter"), ("ropevit", "classifier")):
        folder = tmp_path / name
        folder.mkdir()
        save_file({"w": torch.zeros(1)}, folder / "best.safetensors", metadata={"format": name})
        assert detect_task(str(folder)) == detect_task(str(folder / "best.safetensors")) == kind
    (tmp_path / "broken.safetensors").write_bytes(b"no header")
    assert (
        detect_task(str(tmp_path / "broken.safetensors"))
        == detect_task("timm/some_model")
        == detect_task(None)
        == "classifier"
    )


@pytest.mark.parametrize("path", ["a/runs/segmenter", "./segmenter", "runs/best.safetensors", "segmenter", "~/none"])
def test_a_path_to_nothing_has_no_kind(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"no file .*{Path(path).name}'; check the path, or give a hub id"):
        detect_task(path)


def test_what_may_be_a_mistyped_path_is_named_where_options_do_not_suit_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert detect_task("runs/segmenter") == detect_task("rope_mixed_deit_small_patch16_LS") == "classifier"
    config = EvalConfig(data="fashion", checkpoint="runs/segmenter", segmenter=SegmenterOptions(flip=True))
    message = r"with a classifier \(there is no file or directory runs/segmenter, so the hub's is meant\)"
    with pytest.raises(ValueError, match=message):
        config.check("classifier")
    (tmp_path / "runs" / "segmenter").mkdir(parents=True)
    with pytest.raises(ValueError, match="with a classifier; leave it out"):
        config.check("classifier")


def test_a_directory_gives_the_weights_that_are_asked_for_or_says_which_there_are(tmp_path):
    (tmp_path / "model.safetensors").touch()
    assert checkpoint_in_run(tmp_path, "last") == tmp_path / "model.safetensors"
    with pytest.raises(ValueError, match=r"has no best[.]safetensors; choose --which last"):
        checkpoint_in_run(tmp_path, None)
    (tmp_path / "hub").mkdir()
    index = tmp_path / "hub" / "model.safetensors.index.json"
    index.write_text('{"weight_map": {}}')
    assert checkpoint_in_run(tmp_path / "hub", None) == index
    assert detect_task(str(tmp_path / "hub")) == detect_task(str(index)) == "classifier"
    with pytest.raises(ValueError, match="holds no weights"):
        checkpoint_in_run(tmp_path / "hub", "best")
    with pytest.raises(ValueError, match="holds no weights"):
        checkpoint_in_run(tmp_path / "nowhere", "best")
    assert weights_file(str(tmp_path), "last") == str(tmp_path / "model.safetensors")
    for other in (str(tmp_path / "model.safetensors"), "naver-ai/deit_tiny", None):
        assert weights_file(other, None) == other


def test_a_run_of_a_study_gives_its_only_weights_and_a_study_names_its_runs(tmp_path):
    for name in ("zoom-ape-seed0", "zoom-none-seed0"):
        folder = tmp_path / "study" / "runs" / name
        folder.mkdir(parents=True)
        save_file({"w": torch.zeros(1)}, folder / "model.safetensors", metadata={"metadata": '{"panel": "zoom"}'})
        assert checkpoint_in_run(folder, None) == checkpoint_in_run(folder, "last") == folder / "model.safetensors"
    with pytest.raises(ValueError, match=r"study is a study of 2 trained models; .* such as .*runs/zoom-none-seed0"):
        checkpoint_in_run(tmp_path / "study", None)
