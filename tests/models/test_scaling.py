"""Rope types and scaling methods inside ViT and Swin."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from ropevit import create_model, load_model, load_weights, parameter_groups, save_model
from ropevit.kernels import set_backend
from ropevit.models import Swin, SwinConfig, ViT, ViTConfig, get_config, set_scaling
from ropevit.models.vit.dense import DenseViT, DenseViTConfig
from ropevit.rope.scaling import SCALING_METHODS

ROPE_TYPES = ("golden", "spiral", "star", "simplex", "polar")
TINY = {"num_classes": 3, "img_size": (16, 16), "patch_size": 4}
VIT = {"width": 32, "depth": 2, "heads": 2, "layer_scale": None, **TINY}
SWIN = {"width": 16, "depths": (1, 1), "heads": (2, 4), "window_size": 4, **TINY}

CONFIGS = [*(("vit", f"rope_{name}{more}") for name in ROPE_TYPES for more in ("", "_ape"))]
CONFIGS += [*(("swin", f"rope_{name}{more}") for name in ROPE_TYPES for more in ("", "_rpb"))]
KINDS = [("vit", "rope_axial"), ("vit", "rope_mixed"), ("vit", "rope_polar"), ("swin", "rope_axial_rpb")]
KINDS += [("swin", "rope_golden")]


def make(kind, position, **changes):
    """A model whose every weight is random, so that nothing hides behind a zero."""
    if kind == "vit":
        built = ViT(ViTConfig(position=position, **VIT | changes))
    else:
        built = Swin(SwinConfig(position=position, **SWIN | changes))
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if ".rope." not in name:
                parameter.normal_(mean=float("norm" in name and name.endswith("weight")), std=0.2)
    return built.eval()


@pytest.mark.parametrize(("kind", "position"), CONFIGS)
def test_rope_types_see_images_of_any_size_with_every_backend(kind, position):
    built, small, large = make(kind, position), torch.randn(2, 3, 16, 16), torch.randn(1, 3, 24, 40)
    found = built(small), built(large)
    assert found[0].shape == (2, 3)
    set_backend(built, "reference")
    for ours, theirs in zip(found, (built(small), built(large)), strict=True):
        assert_close(ours, theirs, atol=2e-5, rtol=2e-5)
    assert not torch.allclose(built(large), built(large.mT), atol=1e-3)  # it does see places


@pytest.mark.parametrize(("kind", "position"), CONFIGS)
def test_rope_types_learn_and_come_back_from_a_file(kind, position, tmp_path):
    built = make(kind, position).train()
    built(torch.randn(2, 3, 32, 32)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in built.parameters())
    loaded, _ = load_model(save_model(tmp_path / "model.safetensors", built))
    images = torch.randn(1, 3, 24, 16)
    assert torch.equal(loaded.eval()(images), built.eval()(images))
    load_weights(make(kind, position), built.state_dict())
    undecayed = {
        name for group in parameter_groups(built, 1.0, 0.1) if not group["weight_decay"] for name in group["names"]
    }
    assert {name for name, _ in built.named_parameters() if ".rope." in name} <= undecayed


def test_position_selects_a_rope_type_in_any_registered_model():
    built = create_model("swin_rope_mixed_tiny_patch4_window7_224", position="rope_simplex", width=24, num_classes=2)
    assert built.config.rope == "simplex"
    assert built.layers[0].rope.heads == 3
    with pytest.raises(ValueError, match="heads of 4 channels; a simplex of three waves needs at least 6"):
        ViTConfig(position="rope_simplex", **VIT | {"heads": 8})


@pytest.mark.parametrize(("kind", "position"), KINDS)
def test_scaling_methods_change_nothing_at_the_trained_grid_and_something_beyond(kind, position):
    built = make(kind, position)
    beyond = {"img_size": (32, 24)} if kind == "vit" else {"window_size": 6}
    larger = make(kind, position, **beyond, trained_grid=(4, 4))
    if "rpb" not in position:
        larger.load_state_dict(built.state_dict())
    trained, images = torch.randn(2, 3, 16, 16), torch.randn(2, 3, 32, 24)
    unscaled, plain = built(trained), larger(images)
    for method in [name for name in SCALING_METHODS if name != "jitter"]:
        set_scaling(built, method)
        set_scaling(larger, method)
        assert torch.equal(built(trained), unscaled), method
        assert (larger(images) - plain).abs().max() > 1e-4, method
    set_scaling(larger, None)
    assert torch.equal(larger(images), plain)


def test_a_swin_with_windows_as_trained_is_the_same_at_any_size():
    built, images = make("swin", "rope_mixed"), torch.randn(1, 3, 40, 24)
    plain = built(images)
    set_scaling(built, "yarn+log")
    assert torch.equal(built(images), plain)


@pytest.mark.parametrize(("kind", "position"), KINDS)
def test_scaling_methods_are_the_same_for_every_backend(kind, position):
    built, images = make(kind, position, scaling="parts+log", trained_grid=(2, 3)), torch.randn(2, 3, 24, 32)
    fast = built(images)
    set_backend(built, "reference")
    assert_close(built(images), fast, atol=2e-5, rtol=2e-5)


def test_scaled_models_equal_the_formulas():
    built = make("vit", "rope_axial", depth=1, pooling="avg", class_token=False)
    images = torch.randn(1, 3, 32, 32)
    plain = built(images)
    layer = built.blocks[0].attn
    set_scaling(built, "log")
    hot = built(images)
    set_scaling(built, None)
    factor = torch.tensor(64.0).log() / torch.tensor(16.0).log()
    with torch.no_grad():
        layer.qkv.weight[:32] *= factor  # the queries
        layer.qkv.bias[:32] *= factor
    assert_close(built(images), hot, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(plain, hot, atol=1e-4)


@pytest.mark.parametrize(("kind", "position"), [("vit", "rope_mixed"), ("swin", "rope_axial")])
def test_jitter_is_for_training_alone_and_the_same_in_recomputed_blocks(kind, position):
    built = make(kind, position, scaling="jitter(shift=0.5,jitter=1.5,rescale=2)")
    images = torch.randn(2, 3, 16, 16)
    plain = make(kind, position)
    plain.load_state_dict(built.state_dict())
    assert torch.equal(built(images), plain(images))
    built.train()
    torch.manual_seed(1)
    first = built(images)
    first.sum().backward()
    gradient = built.head.weight.grad.clone(), built.patch_embed.proj.weight.grad.clone()
    assert not torch.allclose(first, plain(images), atol=1e-4)
    assert not torch.allclose(built(images), first, atol=1e-4)
    built.zero_grad()
    built.set_grad_checkpointing()
    torch.manual_seed(1)
    built(images).sum().backward()
    assert_close((built.head.weight.grad, built.patch_embed.proj.weight.grad), gradient, atol=1e-4, rtol=1e-4)


def test_scaling_and_the_trained_grid_are_stored_in_files(tmp_path):
    built = make("vit", "rope_mixed")
    path = save_model(tmp_path / "model.safetensors", built)
    larger = create_model("rope_mixed_deit_tiny_patch16_LS", path, **VIT | {"img_size": (32, 24)}, scaling="ntk")
    assert larger.config.trained_grid == (4, 4)
    assert larger.blocks[0].attn.scaling.trained_grid == (4, 4)
    again, _ = load_model(save_model(tmp_path / "larger.safetensors", larger))
    assert again.config == larger.config
    images = torch.randn(1, 3, 32, 24)
    assert torch.equal(again.eval()(images), larger.eval()(images))
    assert not torch.equal(larger(images), built(images))
    set_scaling(larger, "ntk", trained_grid=(8, 6))
    assert torch.equal(larger(images), built(images))


def test_without_weights_the_trained_grid_is_the_models_own():
    assert get_config("rope_axial_deit_small_patch16_LS", img_size=384, scaling="pi").scaling_methods.trained_grid == (
        24,
        24,
    )
    assert get_config("swin_rope_axial_tiny_patch4_window7_224", scaling="pi").scaling_methods.trained_grid == (7, 7)


def test_files_from_before_scaling_existed_are_read(tmp_path):
    import json

    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    path = save_model(tmp_path / "model.safetensors", make("vit", "rope_mixed"))
    with safe_open(path, "pt") as file:
        header = file.metadata()
    del header["ropevit_digest"]  # older, too
    old = {key: value for key, value in json.loads(header["config"]).items() if key not in ("scaling", "trained_grid")}
    save_file(load_file(path), path, {**header, "config": json.dumps(old)})
    assert load_model(path)[0].config.scaling is None


def test_a_dense_vit_passes_scaling_on_to_its_global_blocks():
    body = ViTConfig(position="rope_mixed", **VIT)
    backbone = DenseViT(DenseViTConfig(body=body, window=4, global_attn_indexes=(1,))).eval()
    images = torch.randn(1, 3, 64, 64)
    plain = backbone(images).features[0]
    set_scaling(backbone, "ntk+log")
    assert not torch.equal(backbone(images).features[0], plain)
    windows = DenseViT(DenseViTConfig(body=body, window=4, global_attn_indexes=())).eval()
    plain = windows(images).features[0]
    set_scaling(windows, "ntk+log")
    assert torch.equal(windows(images).features[0], plain)  # windows are as large as the trained grid
    masked = DenseViT(DenseViTConfig(body=replace(body, scaling="ntk"), window=4, mask_padding=True))
    with pytest.raises(ValueError, match="mask_padding=True with scaling='ntk'; RoPE scaling uses the grid"):
        masked(images)


def test_invalid_uses_of_scaling_are_refused():
    built = make("vit", "rope_axial", scaling="pi")
    with pytest.raises(ValueError, match="a packed batch with scaling='pi'; RoPE scaling uses one grid"):
        built.forward_packed(built.pack([torch.randn(3, 16, 16), torch.randn(3, 8, 24)]))
    with pytest.raises(ValueError, match="scaling='log' for ape, which has no RoPE; remove"):
        set_scaling(make("vit", "ape"), "log")
    with pytest.raises(ValueError, match="no scaling method named 'longer'"):
        make("swin", "rope_axial", scaling="longer")
    with pytest.raises(ValueError, match="trained_grid=\\(0, 4\\); expected rows and columns, above 0"):
        make("vit", "rope_axial", trained_grid=(0, 4))
    with pytest.raises(ValueError, match="got Linear, which"):
        set_scaling(torch.nn.Linear(2, 2), "pi")


@pytest.mark.full  # test_vit.py and test_swin.py compile a rotation by default
@pytest.mark.parametrize(
    ("kind", "position"),
    [("vit", "rope_polar"), pytest.param("swin", "rope_simplex", marks=pytest.mark.full)],
)
@pytest.mark.usefixtures("unchecked")
def test_rope_types_and_methods_compile_to_one_graph(kind, position):
    one_stage = {"depths": (2,), "heads": (2,)} if kind == "swin" else {"depth": 1}
    built = make(kind, position, scaling="ntk+yarn+log", trained_grid=(3, 3), **one_stage)
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(built, fullgraph=True, dynamic=True, backend=counter)
    with torch.no_grad():
        for size in ((64, 48), (40, 56), (32, 32)):
            images = torch.randn(2, 3, *size)
            assert_close(compiled(images), built(images), atol=1e-5, rtol=1e-5)
    assert counter.frame_count == 1
