import pytest
import torch

from ropevit.bench import networks
from ropevit.bench.check import WrongResultError
from ropevit.bench.shapes import ModelSize
from ropevit.kernels import BACKENDS

SIZE = ModelSize(name="tiny", width=32, depth=2, heads=2, images=2, pixels=64)
GROUP = networks.model_group(SIZE, 2, torch.device("cpu"), torch.float32, lambda _: [False])


@pytest.mark.parametrize("entry", GROUP.entries, ids=lambda entry: entry.label)
def test_every_model_agrees_with_float64(entry):
    candidate = entry.make()
    assert candidate.check() < 1e-4
    assert candidate.forward().shape == (2, 1000)
    candidate.both()


def test_all_models_have_equally_many_block_parameters():
    counts = {}
    for name, build in {
        "ape": lambda: networks.ours(SIZE, "ape", None),
        "mixed": lambda: networks.ours(SIZE, "rope_mixed", "reference"),
        "timm ape": lambda: networks.timm(SIZE, "ape"),
        "timm mixed": lambda: networks.timm(SIZE, "mixed"),
    }.items():
        counts[name] = sum(
            value.numel() for key, value in build().named_parameters() if "blocks" in key and "freqs" not in key
        )
    assert len(set(counts.values())) == 1


def test_bfloat16_uses_autocast():
    group = networks.model_group(SIZE, 2, torch.device("cpu"), torch.bfloat16, lambda _: [False])
    candidate = group.entries[0].make()
    assert candidate.check() < 0.1
    assert candidate.forward().dtype == torch.bfloat16


def test_a_wrong_backend_is_detected(monkeypatch):
    model = networks.ours(SIZE, "rope_mixed", "wrong" if "wrong" in BACKENDS else "cpu")
    candidate = networks.model_candidate(model, SIZE, 2, torch.float32, compiled=False)
    monkeypatch.setattr("ropevit.kernels.cpu.rotate_", lambda *_: None)
    with pytest.raises(WrongResultError, match="logits has a relative error of"):
        candidate.check()
