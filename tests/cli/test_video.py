"""Errors of the command line for video models, which it does not support."""

from importlib import import_module

import pytest

import ropevit
from ropevit.cli import main
from ropevit.models import ViT, ViTConfig


@pytest.fixture
def checkpoint(tmp_path):
    small = {"width": 16, "depth": 1, "heads": 2, "patch_size": 8, "img_size": (16, 24), "num_classes": 3}
    model = ViT(ViTConfig(position="rope_mixed", frames=4, **small))
    return str(ropevit.save_model(tmp_path / "video.safetensors", model, classes=["blue", "green", "red"]))


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("eval --data {data} --device cpu --checkpoint {file}", "holds a video model; expected an image model"),
        ("predict {data}/red/3.png --checkpoint {file}", "holds a video model; expected an image model"),
        (
            "export {out}/model.onnx --checkpoint {file}",
            "holds a video model; expected an image model: in Python, load it with",
        ),
        ("convert {file} {out}/other.bin --to timm", "has frames=4, which the timm layout cannot store"),
    ],
)
def test_video_models_are_refused_in_one_line(command, message, checkpoint, my_images, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main([part.format(data=my_images, file=checkpoint, out=tmp_path) for part in command.split()])
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert message in " ".join(printed.split())
    assert "Traceback" not in printed


def test_create_timm_model_has_no_option_for_videos():
    import timm

    import_module("ropevit.integrations.timm")
    with pytest.raises(TypeError, match="no option named frames for ropevit_rope_mixed_deit_tiny_patch16_LS"):
        timm.create_model("ropevit_rope_mixed_deit_tiny_patch16_LS", frames=4)
