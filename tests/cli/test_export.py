import importlib
import json

import onnxruntime
import pytest
import torch
from safetensors.torch import save_file

import ropevit
from integrations.exported import tiny
from ropevit.cli import main
from ropevit.integrations.export.check import check
from ropevit.integrations.export.files import Difference
from ropevit.models import set_scaling

verb = importlib.import_module("ropevit.cli.export")


@pytest.fixture(autouse=True)
def unchecked_here(unchecked):
    """Switch the shape checks off: dynamo cannot trace them."""


@pytest.fixture
def vit(tmp_path):
    facts = {"mean": [0.1, 0.2, 0.3], "std": 0.5}
    return str(
        ropevit.save_model(tmp_path / "vit.safetensors", tiny("rope_mixed"), classes=["a", "b", "c"], metadata=facts)
    )


@pytest.fixture
def swin(tmp_path):
    return str(ropevit.save_model(tmp_path / "swin.safetensors", tiny("rpb", swin=True)))


@pytest.mark.full  # tests/integrations quantizes; here are the option and what is printed
def test_a_checkpoint_is_exported_as_int8_onnx(vit, tmp_path, capfd):
    out = tmp_path / "model.onnx"
    main(["export", str(out), "--checkpoint", vit, "--int8", "--static-size", "16x24"])
    printed, errors = capfd.readouterr()
    assert errors == ""
    assert "MB, opset 20" in printed
    assert "input images: batch x 3 x 16 x 24" in printed
    assert "output logits: batch x 3" in printed
    for batch in (1, 2, 3):
        assert printed.count(f"{batch} x 3 x 16 x 24") == 2  # in float32 and in int8
    assert "evaluate the accuracy on your own images" in printed
    facts = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"]).get_modelmeta().custom_metadata_map
    assert json.loads(facts["mean"]) == [0.1, 0.2, 0.3]
    assert json.loads(facts["std"]) == [0.5, 0.5, 0.5]


@pytest.mark.full  # tests/integrations/test_export.py folds a Swin's constants
def test_a_swin_is_exported_at_a_fixed_size(swin, tmp_path, capfd):
    out, images = tmp_path / "model.pt2", torch.randn(4, 3, 20, 36)
    main(["export", str(out), "--checkpoint", swin, "--format", "torch", "--size", "20", "36"])
    printed, errors = capfd.readouterr()
    assert errors == ""
    assert "dynamic: batch; height and width are fixed at 20 x 36 pixels" in printed
    assert printed.count("x 3 x 20 x 36") == 4
    with torch.no_grad():
        found, expected = torch.export.load(out).module()(images), ropevit.load_model(swin)[0].eval()(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_training_is_exported_by_its_directory_with_the_requested_weights(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    written = {}
    monkeypatch.setattr(verb, "export_torch", lambda model, _, **facts: written.update(model=model, **facts))
    monkeypatch.setattr(verb, "print_report", lambda *_: None)
    for name, bias in (("best", 1.0), ("model", 2.0)):
        model = tiny("rope_mixed", in_channels=1)
        torch.nn.init.constant_(model.head.bias, bias)
        facts = {"mean": 0.5, "std": 0.5}
        ropevit.save_model(tmp_path / "run" / f"{name}.safetensors", model, classes=["a", "b", "c"], metadata=facts)
    given = ["export", "m.pt2", "--format", "torch", "--checkpoint"]
    for words, bias in ((["run"], 1.0), (["run", "--weights", "last"], 2.0), (["run/model.safetensors"], 2.0)):
        main([*given, *words])
        assert written["model"].head.bias[0] == bias
        assert (written["classes"], len(written["mean"])) == (("a", "b", "c"), 1)
    ropevit.save_model(tmp_path / "zoom" / "model.safetensors", tiny("ape"), metadata={"panel": "zoom"})
    main([*given, "zoom"])
    assert written["model"].config.position == "ape"
    with pytest.raises(SystemExit):
        main([*given, "run", "--weights", "ema"])
    assert "has no model_ema.safetensors; choose --weights best or last" in capsys.readouterr().err


def test_rope_scaling_is_stored_in_the_exported_file(vit, tmp_path, capfd):
    out, images = tmp_path / "model.pt2", torch.randn(1, 3, 48, 64)
    words = ["--format", "torch", "--static-size", "48x64", "--scaling", "yarn+log"]
    main(["export", str(out), "--checkpoint", vit, *words])
    assert capfd.readouterr().err == ""
    model, _ = ropevit.load_model(vit)
    plain = model.eval()(images)
    set_scaling(model, "yarn+log")
    found = torch.export.load(out).module()(images)
    torch.testing.assert_close(found, model(images), rtol=1e-4, atol=1e-5)
    assert (found - plain).abs().max() > 1e-4


def test_an_export_that_differs_from_its_model_has_exit_code_1(vit, tmp_path, capsys, monkeypatch):
    """That it does is found in tests/integrations/test_export.py."""

    def differs(*_, tolerance, **__):
        shapes = [(count, 3, 16, 24) for count in (1, 2, 3)]
        check([Difference(shape=shape, absolute=1e-6, relative=1e-7) for shape in shapes], tolerance)

    monkeypatch.setattr(verb, "export_torch", differs)
    words = ["--checkpoint", vit, "--format", "torch", "--static-size", "16x24", "--tolerance", "1e-12"]
    with pytest.raises(SystemExit) as stop:
        main(["export", str(tmp_path / "m.pt2"), *words])
    assert stop.value.code == 1
    printed, error = capsys.readouterr()
    assert printed.count("x 3 x 16 x 24") == 3  # the differences
    assert "of the largest output for images" in error
    assert "above the tolerance of 1e-12; nothing was written" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "m.pt2").exists()


@pytest.mark.usefixtures("vit", "swin")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["OUT"], "got neither --model nor --checkpoint"),
        (["OUT", "--model", "deit_huge"], "no model named 'deit_huge'"),
        (["OUT", "--checkpoint", "BROKEN"], "broken.safetensors"),
        (["OUT", "--checkpoint", "VIT", "--static-size", "30x32"], "use a height of 24 or 32 "),
        (["OUT", "--checkpoint", "VIT", "--static-size", "32"], "expected height x width in pixels, such as 224x320"),
        (["OUT", "--checkpoint", "VIT", "--size", "32"], "to fix it use --static-size 32x32"),
        (
            ["OUT", "--checkpoint", "VIT", "--size", "32", "--static-size", "32x32"],
            "--static-size already sets the size",
        ),
        (["OUT", "--checkpoint", "SWIN", "--size", "0"], "expected one or two numbers of pixels above 0"),
        (["OUT", "--checkpoint", "VIT", "--tolerance", "0"], "expected a number above 0"),
        (["OUT", "--checkpoint", "VIT", "--format", "torch"], "files end in .pt2"),
        (["OUT.pt2", "--checkpoint", "VIT", "--format", "torch", "--int8"], "int8 is for --format onnx"),
        (["THERE", "--checkpoint", "VIT"], "--overwrite"),
        (["GONE/m.onnx", "--checkpoint", "VIT"], "create it first"),
        (["OUT", "--checkpoint", "FIELD"], "segmentation model of a study"),
        (["OUT", "--checkpoint", "DETECTOR"], "detector.safetensors has no readable"),
    ],
)
def test_wrong_input_is_one_line(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.setattr(torch.export, "export", None)  # input is checked before any work
    (tmp_path / "broken.safetensors").write_text("no weights")
    (tmp_path / "there.onnx").write_text("before")
    ropevit.save_model(tmp_path / "field.safetensors", tiny("none"), metadata={"panel": "field"})
    save_file({"w": torch.zeros(1)}, tmp_path / "detector.safetensors", metadata={"format": "ropevit-detector"})
    names = {
        "DETECTOR": "detector.safetensors",
        "OUT": "m.onnx",
        "THERE": "there.onnx",
        "GONE": "gone",
        "BROKEN": "broken.safetensors",
    }
    names |= {"VIT": "vit.safetensors", "SWIN": "swin.safetensors", "FIELD": "field.safetensors"}
    monkeypatch.chdir(tmp_path)
    for short, name in names.items():
        arguments = [word.replace(short, name) for word in arguments]
    with pytest.raises(SystemExit) as stop:
        main(["export", *arguments])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "m.onnx").exists()


def test_an_unknown_format_is_an_error(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["export", "m.onnx", "--checkpoint", "vit", "--format", "tflite"])
    assert stop.value.code == 2
    assert "onnx" in capsys.readouterr().err
