import pytest
import torch

from ropevit.analysis.capture import capture_attention
from ropevit.kernels.window_attention import without_fusion
from ropevit.kernels.windows import window_reverse
from ropevit.models import Swin, SwinConfig, ViT, ViTConfig
from ropevit.models.swin.attention import WindowAttention


def sharp(model):
    """Make attention far from uniform, so that a wrong probability shows."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "qkv.weight" in name:
                parameter.mul_(20)
            if "relative_position_bias_table" in name or name == "pos_embed":
                parameter.normal_()
    return model.eval()


def vit(**fields):
    return sharp(
        ViT(ViTConfig(**{"width": 32, "depth": 2, "heads": 2, "num_classes": 3, "img_size": (64, 64)} | fields))
    )


def swin(**fields):
    small = {"width": 16, "depths": (2, 2), "heads": (2, 2), "num_classes": 3, "window_size": 3, "patch_size": 2}
    return sharp(Swin(SwinConfig(**small | fields)))


MODELS = {
    "class token": (lambda: vit(position="rope_axial"), (64, 96)),
    "registers": (lambda: vit(position="rope_mixed", num_registers=3), (64, 96)),
    "absolute": (lambda: vit(position="ape", class_token=False, pooling="avg"), (96, 64)),
    "rotation and absolute": (lambda: vit(position="rope_mixed_ape"), (64, 64)),
    "scaling": (lambda: vit(position="rope_axial", scaling="yarn+log"), (128, 96)),
    "shifted windows": (lambda: swin(position="rope_axial"), (24, 36)),
    "windows that the map does not fill": (lambda: swin(position="rope_mixed"), (20, 26)),
    "relative bias": (lambda: swin(position="rope_axial_rpb"), (20, 24)),
    "bias in one window": (lambda: swin(position="rpb"), (6, 6)),
    "scaling in windows": (lambda: swin(position="rope_axial", scaling="pi+log", trained_grid=(2, 2)), (24, 24)),
}


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_captured_attention_reproduces_the_model_output(name):
    make, (height, width) = MODELS[name]
    model, seen, given = make(), [], []
    images = torch.randn(2, 3, height, width)
    with without_fusion():  # as while captured: a Swin's C kernel gives the same up to rounding
        plain = model(images)
    torch.testing.assert_close(model(images), plain, rtol=1e-4, atol=1e-5)
    layers = {name: layer for name, layer in model.named_modules() if name.endswith(".attn")}
    for layer in layers.values():
        layer.register_forward_hook(lambda _, __, output: given.append(output))
    with capture_attention(model, seen.append):
        assert torch.equal(model(images), plain)
    assert [each.name for each in seen] == list(layers)
    for each, output in zip(seen, given, strict=True):
        rows, tokens = torch.arange(len(each.q)), torch.arange(each.q.shape[2])
        chances = each.scores(rows, tokens).softmax(-1)
        assert chances.max() > 5 / each.q.shape[2]  # far from uniform
        mixed = each.layer.proj((chances @ each.v).transpose(1, 2).flatten(2))
        if output.ndim == 4:
            mixed = window_reverse(mixed, *output.shape[1:3], each.layer.window, each.inputs["shift"])
        torch.testing.assert_close(mixed, output, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_scores_of_a_subset_equal_those_of_all():
    (make, size), seen = MODELS["relative bias"], []
    model = make()
    with capture_attention(model, seen.append):
        model(torch.randn(2, 3, *size))
    for each in seen:
        rows, tokens = torch.arange(len(each.q)), torch.arange(each.q.shape[2])
        every, hidden = each.scores(rows, tokens), each.masked(rows, tokens)
        some, queries = torch.tensor([len(rows) - 1, 0]), torch.tensor([1, 4, 8])
        torch.testing.assert_close(each.scores(some, queries), every[some][:, :, queries])
        assert torch.equal(each.masked(some, queries), hidden[some][:, :, queries])
        assert torch.equal(hidden, every[:, :1].isneginf())
    assert hidden.any()


@torch.no_grad()
def test_capturing_ends_with_the_context():
    model, seen = vit(position="none"), []
    with capture_attention(model, seen.append):
        pass
    model(torch.randn(1, 3, 64, 64))
    assert not seen
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@torch.no_grad()
def test_attention_in_a_fused_kernel_raises(monkeypatch):
    monkeypatch.setattr(WindowAttention, "attend", lambda _, x, *__: x)  # as a fused kernel: no softmax in sight
    model = swin(position="rpb")
    match = r"layers.0.blocks.0.attn: backend=.* computes it in a fused kernel.*set_backend"
    with capture_attention(model, lambda _: None), pytest.raises(ValueError, match=match):
        model(torch.randn(1, 3, 24, 24))
