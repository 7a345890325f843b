"""`ropevit export` with detectors; what the files compute is compared with `ropevit predict`."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from ropevit.cli import main
from ropevit.data.imagenet import MEAN, STD
from ropevit.integrations.export import export_onnx, export_torch, files
from ropevit.tasks.detect.config import DinoConfig
from ropevit.tasks.detect.export import DetectorExport, open_export
from ropevit.tasks.detect.model import Detector, DetectorConfig, save_detector
from ropevit.tasks.detect.postprocess import to_detections
from ropevit.tasks.detect.predict import DetectionOptions, load_detection_predictor
from ropevit.tasks.detect.recipes import find_recipe

pytestmark = pytest.mark.usefixtures("unchecked_module")

DOCS = Path(__file__).parents[2] / "docs" / "export.md"
FACTS = {"category_ids": [1, 3, 90], "mean": MEAN, "std": STD, "test_side": 64, "longest": 80}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with the directory of a training run of a detector, and a photo."""
    root, config = tmp_path_factory.mktemp("detector"), find_recipe("detect/dino_smoke").model
    config = replace(config, dino=replace(config.dino, queries=12), depth=1, width=32)
    torch.manual_seed(0)
    model = Detector(config, 3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    save_detector(root / "run" / "best.safetensors", model, config, ["disc", "square", "triangle"], FACTS)
    Image.effect_noise((90, 70), 90).convert("RGB").save(root / "photo.png")
    return root


@pytest.fixture(scope="module")
def detector(runs):
    """The ONNX file of the detector, as the command writes it."""
    main(["export", str(runs / "detector.onnx"), "--checkpoint", str(runs / "run")])
    return runs / "detector.onnx"


@torch.no_grad()
def agree(found, runs, images):
    """Compare boxes, scores and labels with the detections of the model."""
    boxes, scores, labels = (torch.as_tensor(each) for each in found)
    model = load_detection_predictor(runs / "run" / "best.safetensors", DetectionOptions(), torch.device("cpu")).model
    sizes = [tuple(images.shape[2:])] * len(images)
    for i, each in enumerate(to_detections(model(images, sizes).layers[-1], sizes, top=12)):
        inside = (boxes[i, :, 2:] > boxes[i, :, :2]).all(1)
        torch.testing.assert_close(scores[i, inside], each.scores, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(boxes[i, inside], each.boxes, rtol=1e-3, atol=1e-2)
        assert torch.equal(labels[i, inside], each.labels)


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_one_onnx_file_detects_objects_in_images_of_any_size(runs, detector, tmp_path, monkeypatch):
    session = onnxruntime.InferenceSession(detector, providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_outputs()] == ["boxes", "scores", "labels"]
    for shape in ((1, 3, 64, 80), (2, 3, 77, 51), (3, 3, 40, 130)):
        images = torch.randn(shape)
        agree(session.run(None, {"images": images.numpy()}), runs, images)
    facts = session.get_modelmeta().custom_metadata_map
    assert (facts["task"], json.loads(facts["category_ids"])) == ("detect", [1, 3, 90])
    assert json.loads(facts["padding_multiple"]) == 32
    assert not re.search(rb"\.py\b", detector.read_bytes())
    assert not any(node.op_type == "Loop" for node in onnx.load(detector).graph.node)
    run_example(detector, tmp_path, monkeypatch)


def run_example(detector, folder, monkeypatch):
    """Run the example of the guide."""
    (code,) = re.findall(r"^```\n(import json\n[^`]*?detector\.onnx.*?)^```", DOCS.read_text(), re.M | re.S)
    shutil.copy(detector, folder / "detector.onnx")
    Image.effect_noise((90, 70), 90).convert("RGB").save(folder / "photo.jpg")
    monkeypatch.chdir(folder)
    printed = []
    exec(compile(code.replace("> 0.3", "> 0"), "example", "exec"), {"print": lambda *words: printed.append(words)})
    boxes = np.array([box for _, box in printed])
    assert {text.split()[0] for text, _ in printed} <= {"disc", "square", "triangle"}
    assert len(boxes) == 12
    assert (boxes >= 0).all()
    assert (boxes <= [90, 70, 90, 70]).all()
    assert boxes.max() > 70, "in pixels of the photo"


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_a_detector_is_exported_as_a_program(runs, tmp_path):
    report = export_torch(open_export(str(runs / "run" / "best.safetensors")), tmp_path / "model.pt2")
    assert report.outputs == {"boxes": ("batch", 12, 4), "scores": ("batch", 12), "labels": ("batch", 12)}
    images = torch.randn(1, 3, 100, 150)
    agree(torch.export.load(report.path).module()(images), runs, images)


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_a_detector_on_a_pretrained_backbone_is_exported_as_a_program(tmp_path):
    dino = DinoConfig(queries=12, width=32, heads=4, points=2, mlp_width=48, encoder_layers=1, decoder_layers=1)
    size = {"width": 32, "depth": 1, "heads": 2}
    config = DetectorConfig(model="dinov3_vits16", position="rope_axial", init=None, dino=dino, **size)
    torch.manual_seed(0)
    exported = DetectorExport(Detector(config, 3).eval(), {"classes": ["disc", "square", "triangle"]})
    report = export_torch(exported, tmp_path / "model.pt2")
    assert [difference.shape[0] for difference in report.differences] == [1, 2, 3]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--int8"], "got --int8 with a detector; it is for classifiers"),
        (["run", "--size", "64"], "got --size with a detector; it is for classifiers"),
        (["run", "--static-size", "64x64"], "got --static-size with a detector; it is for classifiers"),
        (["run", "--scaling", "ntk"], "got --scaling with a detector: a detector is trained at many sizes"),
        (["run", "--model", "deit_small"], "got --model with a detector, whose file holds"),
        (["none.safetensors"], "no file 'none.safetensors'"),
    ],
)
def test_what_a_detector_lacks_is_refused_in_one_line(runs, words, message, capsys, monkeypatch):
    monkeypatch.chdir(runs)
    monkeypatch.setattr(torch.export, "export", None)  # input is checked before any work
    with pytest.raises(SystemExit) as stop:
        main(["export", "new.onnx", "--checkpoint", *words])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in error
    assert error.count("\n") == 1


def test_a_model_too_large_for_an_onnx_file_is_refused_before_any_work(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.export, "export", None)
    monkeypatch.setattr(files, "ONNX_BYTES", 100_000)
    with pytest.raises(ValueError, match=r"0\.\d GB of weights, too large for an ONNX file.*--format torch"):
        export_onnx(open_export(str(runs / "run" / "best.safetensors")), tmp_path / "model.onnx")
