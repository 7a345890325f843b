"""`ropevit export` with segmenters; what the files compute is compared with `ropevit predict`."""

import json
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from ropevit.cli import main
from ropevit.data.imagenet import MEAN, STD
from ropevit.integrations.export import MismatchError, export_torch
from ropevit.integrations.export.check import check, compare
from ropevit.tasks.segment.export import open_export
from ropevit.tasks.segment.inference import InferenceConfig
from ropevit.tasks.segment.model import build_segmenter, save_segmenter
from ropevit.tasks.segment.predict import load_segmentation_predictor
from tasks.segment.small import small_segmenter

pytestmark = pytest.mark.usefixtures("unchecked_module")

CPU = torch.device("cpu")
DOCS = Path(__file__).parents[2] / "docs" / "export.md"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with the directory of a training run of a segmenter with a linear head, and a photo."""
    root = tmp_path_factory.mktemp("dense")
    torch.manual_seed(0)
    facts = {
        "mean": MEAN,
        "std": STD,
        "test_short": 64,
        "test_long": 256,
        "crop": 64,
        "inference": asdict(InferenceConfig()),
    }
    for name, head in {"segmenter": "linear", "upernet": "upernet", "mask2former": "mask2former"}.items():
        config = small_segmenter(head)
        model = build_segmenter(config, 3)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.05 * torch.randn_like(weight))
        save_segmenter(root / name / "best.safetensors", model, config, ["wall", "sky", "tree"], facts)
    Image.effect_noise((90, 70), 90).convert("RGB").save(root / "photo.png")
    return root


@pytest.fixture(scope="module")
def segmenter(runs):
    """The ONNX file of the segmenter, as the command writes it."""
    main(["export", str(runs / "segmenter.onnx"), "--checkpoint", str(runs / "segmenter")])
    return runs / "segmenter.onnx"


def facts_of(session) -> dict:
    words = ("format", "task", "input")
    facts = session.get_modelmeta().custom_metadata_map
    return {key: value if key in words else json.loads(value) for key, value in facts.items()}


def preprocess(image, facts, size):
    pixels = np.asarray(image.resize(size, Image.Resampling.BILINEAR), np.float32) / 255
    normalized = (pixels - np.float32(facts["mean"])) / np.float32(facts["std"])
    return normalized.transpose(2, 0, 1)[None]


@pytest.mark.full
def test_a_segmenter_labels_pixels_in_its_file_as_predict_does(runs, segmenter):
    session = onnxruntime.InferenceSession(segmenter, providers=["CPUExecutionProvider"])
    facts, image = facts_of(session), Image.open(runs / "photo.png").resize((80, 64))
    assert (facts["task"], facts["outputs"], facts["sliding_window"]) == ("segment", ["labels", "logits"], None)
    predictor = load_segmentation_predictor(runs / "segmenter" / "best.safetensors", None, CPU)
    labels, logits = session.run(None, {"images": preprocess(image, facts, (80, 64))})
    assert (labels == logits.argmax(1)).all()
    assert (labels[0] == predictor.segment(image)).mean() > 0.999
    for shape in ((1, 3, 5, 70), (2, 3, 129, 31)):
        images = torch.randn(shape)
        labels, logits = session.run(None, {"images": images.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(logits, predictor.model.logits(images), atol=1e-4, rtol=1e-4)


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["upernet", "mask2former"])
def test_other_heads_label_pixels_in_their_files_as_their_models_do(runs, name, tmp_path, monkeypatch):
    path = str(runs / name / "best.safetensors")
    main(["export", str(runs / f"{name}.onnx"), "--checkpoint", path])
    session = onnxruntime.InferenceSession(runs / f"{name}.onnx", providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_outputs()] == ["labels", "logits"]
    assert facts_of(session)["padding_multiple"] == 32
    model = open_export(path).model.eval()
    torch.manual_seed(0)  # an attention mask that is nearly zero could differ for other images
    for shape in ((1, 3, 5, 70), (2, 3, 129, 31)):
        images = torch.randn(shape)
        _, logits = session.run(None, {"images": images.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(logits, model.logits(images), atol=1e-3, rtol=1e-4)
    run_example(runs / f"{name}.onnx", tmp_path, monkeypatch)


def run_example(file, folder, monkeypatch):
    """Run the example of the guide, and return the label map that it writes."""
    (code,) = re.findall(r"^```\n(import json\n[^`]*?segmenter\.onnx.*?)^```", DOCS.read_text(), re.M | re.S)
    shutil.copy(file, folder / "segmenter.onnx")
    Image.effect_noise((90, 70), 90).convert("RGB").save(folder / "photo.jpg")
    monkeypatch.chdir(folder)
    exec(compile(code, "example", "exec"), {})
    drawn = Image.open(folder / "labels.png")
    assert drawn.size == (90, 70)
    assert set(np.unique(drawn)) <= {1, 2, 3}
    return np.asarray(drawn)


@pytest.mark.full
@pytest.mark.parametrize("window", [None, 48])
def test_the_example_of_the_guide_gives_the_label_map_of_predict(runs, segmenter, window, tmp_path, monkeypatch):
    """Windows of 48 pixels every 20: three and two, the last ones shifted into the image of 82 x 64 pixels."""
    stride = 20
    file = onnx.load(segmenter)
    (sliding,) = (entry for entry in file.metadata_props if entry.key == "sliding_window")
    sliding.value = json.dumps(window and {"side": window, "stride": stride})
    onnx.save(file, tmp_path / "windows.onnx")
    found = run_example(tmp_path / "windows.onnx", tmp_path, monkeypatch)
    predictor = load_segmentation_predictor(runs / "segmenter" / "best.safetensors", None, CPU)
    settings = InferenceConfig(window=window, stride=stride)
    expected = replace(predictor, inference=settings).segment(Image.open(tmp_path / "photo.jpg")) + 1
    assert len(np.unique(expected)) == 3
    assert (found == expected).mean() > 0.999


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["segmenter", "upernet", "mask2former"])
def test_a_segmenter_is_exported_as_a_program(runs, name, tmp_path):
    model = open_export(str(runs / name / "best.safetensors")).eval()
    report = export_torch(model, tmp_path / "model.pt2")
    assert report.outputs == {"labels": ("batch", "height", "width"), "logits": ("batch", 3, "height", "width")}
    program = torch.export.load(report.path).module()
    torch.manual_seed(0)  # an attention mask that is nearly zero could differ for other images
    images = torch.randn(2, 3, 100, 150)
    with torch.no_grad():
        for found, expected in zip(program(images), model(images), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(Exception, match=r"17|33"):
        program(torch.zeros(1, 3, 16, 70))


def test_scaling_changes_what_a_segmenter_computes_for_large_images(runs):
    path, images = str(runs / "segmenter" / "best.safetensors"), torch.randn(1, 3, 320, 320)
    with torch.no_grad():
        plain, scaled = (open_export(path, scaling).eval()(images)[1] for scaling in (None, "ntk"))
    assert not torch.equal(plain, scaled)


def test_a_file_whose_logits_or_labels_differ_is_a_mismatch(runs):
    model = open_export(str(runs / "segmenter" / "best.safetensors")).eval()
    with torch.no_grad():
        check(compare(lambda images: list(model(images)), model, None), 1e-6)
        for change in (lambda labels, logits: (labels, logits + 0.01), lambda labels, logits: (2 - labels, logits)):
            with pytest.raises(MismatchError, match="nothing was written"):
                check(compare(lambda images, change=change: list(change(*model(images))), model, None), 1e-4)


@pytest.mark.full
def test_the_example_of_the_guide_labels_a_photo(segmenter, tmp_path, monkeypatch):
    run_example(segmenter, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["segmenter", "--int8"], "got --int8 with a segmenter; it is for classifiers"),
        (["segmenter", "--static-size", "64x64"], "got --static-size with a segmenter; it is for classifiers"),
        (["segmenter", "--size", "64"], "got --size with a segmenter"),
        (["segmenter", "--model", "deit_small"], "got --model with a segmenter, whose file holds"),
        (["mask2former", "--int8"], "got --int8 with a segmenter; it is for classifiers"),
        (["segmenter", "--weights", "ema"], "has no model_ema.safetensors"),
    ],
)
def test_what_a_segmenter_lacks_is_refused_in_one_line(runs, words, message, capsys, monkeypatch):
    monkeypatch.chdir(runs)
    monkeypatch.setattr(torch.export, "export", None)  # input is checked before any work
    with pytest.raises(SystemExit) as stop:
        main(["export", "new.onnx", "--checkpoint", *words])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in error
    assert error.count("\n") == 1
