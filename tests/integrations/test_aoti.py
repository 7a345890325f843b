"""A ViT compiled ahead of time: torch.export, then AOTInductor, which gives C++ that runs without Python."""

import os
import shutil

import pytest
import torch
from torch.testing import assert_close

from integrations.exported import tiny

COMPILER = next((name for name in (os.environ.get("CXX"), "g++", "clang++") if name and shutil.which(name)), None)


def export(model):
    sizes = ({0: torch.export.Dim("batch", min=1, max=64)},)
    return torch.export.export(model, (torch.randn(2, 3, 32, 48),), dynamic_shapes=sizes)


@pytest.mark.usefixtures("unchecked")
def test_a_vit_is_exported_with_operations_of_pytorch_alone():
    with torch.no_grad():
        nodes = export(tiny("rope_mixed")).graph.nodes
    operations = [str(node.target) for node in nodes if node.op == "call_function"]
    assert "aten.linear.default" in operations
    assert [name for name in operations if "ropevit" in name] == []  # which C++ would not have


@pytest.mark.full
@pytest.mark.usefixtures("unchecked")
@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler here")
@pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec:FutureWarning")  # PyTorch's own, as the next
@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
def test_a_vit_compiled_ahead_of_time_gives_the_same_logits_for_any_batch(tmp_path, monkeypatch):
    from torch._inductor import aoti_compile_and_package, aoti_load_package  # whose import takes seconds

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    model = tiny("rope_mixed")
    with torch.no_grad():
        path = aoti_compile_and_package(export(model), package_path=str(tmp_path / "model.pt2"))
        run = aoti_load_package(path)
        for images in (torch.randn(1, 3, 32, 48), torch.randn(5, 3, 32, 48)):
            assert_close(run(images), model(images), rtol=1e-4, atol=1e-5)
