"""The pretrained families as ONNX files: one tiny model of each, at sizes other than its own."""

import json

import onnxruntime
import pytest
import torch

import ropevit
from ropevit.integrations.export import export_onnx

pytestmark = [
    pytest.mark.usefixtures("unchecked_module"),
    pytest.mark.full,  # tests/integrations/test_export.py: the same for models of this package
]

FAMILIES = {
    "dinov3": "vit_small_patch16_dinov3_qkvb",
    "eva02": "eva02_small_patch14_336",
    "pe_core": "vit_pe_core_tiny_patch16_384",
}
TINY = {"width": 32, "depth": 1, "heads": 2, "patch_size": 8, "img_size": (32, 32), "num_classes": 3}


@pytest.fixture(scope="module", params=FAMILIES)
def exported(request, tmp_path_factory):
    """A model with weights at which every module changes the logits, and its file."""
    torch.manual_seed(0)
    model = ropevit.create_model(FAMILIES[request.param], **TINY).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    path = tmp_path_factory.mktemp(request.param) / "model.onnx"
    return model, export_onnx(model, path, classes=["a", "b", "c"])


@pytest.mark.parametrize("shape", [(2, 3, 64, 24), (1, 3, 8, 40)])
def test_a_file_of_a_pretrained_family_takes_images_of_other_sizes(exported, shape):
    model, report = exported
    assert all(found.relative < 1e-4 for found in report.differences)
    images = torch.randn(shape)
    session = onnxruntime.InferenceSession(report.path, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        (found,) = session.run(None, {"images": images.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), model(images), rtol=1e-4, atol=1e-4)
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["config"])["rope_convention"] is not None
    assert (facts["task"], json.loads(facts["outputs"])) == ("classify", ["logits"])
