"""Models with the rotation convention of another family."""

import json

import pytest
import torch
from safetensors import safe_open
from torch._dynamo.testing import CompileCounter
from torch.testing import assert_close

from ropevit.analysis import attention_layers
from ropevit.analysis.layers import frequencies_at
from ropevit.models import ViT, ViTConfig, set_scaling
from ropevit.rope import ROPE_FAMILIES, RopeConvention
from ropevit.weights import WeightsError, convert, load_model, load_weights, save_model

OTHERS = [name for name in ROPE_FAMILIES if name != "rope_vit"]


def config(name="dinov3", **changes) -> ViTConfig:
    _, convention, theta = ROPE_FAMILIES[name]
    fields = {"position": "rope_axial", "width": 32, "depth": 2, "heads": 2, "patch_size": 4, "img_size": (24, 24)}
    given = {"rope_convention": convention, "rope_theta": theta, "num_classes": 3, "num_registers": 2} | changes
    return ViTConfig(**fields, **given)


def model(name="dinov3", **changes) -> ViT:
    torch.manual_seed(0)
    built = ViT(config(name, layer_scale=None, **changes)).eval()
    for block in built.blocks:  # of a size at which positions matter
        torch.nn.init.normal_(block.attn.qkv.weight, std=0.4)
    return built


@pytest.mark.parametrize("name", OTHERS)
def test_the_convention_changes_the_features(name):
    own, other = model(rope_convention=RopeConvention()), model(name)
    images = torch.randn(1, 3, 20, 12)
    assert (own.forward_features(images) - other.forward_features(images)).abs().max() > 0.01


@pytest.mark.parametrize("name", ROPE_FAMILIES)
@torch.no_grad()
def test_packed_images_have_the_logits_of_each_alone(name):
    built = model(name)
    images = [torch.randn(3, h, w) for h, w in ((20, 12), (8, 16), (24, 24))]
    found = built.forward_packed(built.pack(images, row_tokens=60))
    assert_close(found, torch.cat([built(image[None]) for image in images]), rtol=1e-4, atol=1e-5)


@pytest.mark.full  # by default test_vit.py and test_scaling.py compile: a convention changes numbers, not the path
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", ["dinov3", "pe"])
@torch.no_grad()
def test_all_sizes_are_one_graph(name):
    built, counter = model(name), CompileCounter()
    torch._dynamo.reset()
    compiled = torch.compile(built, fullgraph=True, dynamic=True, backend=counter)
    for h, w in ((20, 12), (8, 16), (24, 36), (12, 28)):
        images = torch.randn(2, 3, h, w)
        assert_close(compiled(images), built(images), rtol=1e-4, atol=1e-5)
    assert counter.frame_count == 1


@pytest.mark.parametrize("name", ROPE_FAMILIES)
def test_a_file_holds_the_convention(name, tmp_path):
    built = model(name)
    again, info = load_model(save_model(tmp_path / "a.safetensors", built))
    assert info.config == built.config
    images = torch.randn(1, 3, 12, 20)
    assert torch.equal(again.eval()(images), built(images))
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        stored = json.loads(file.metadata()["config"])
    assert ("rope_convention" in stored) == (name != "rope_vit")  # files of the paper's models are as they were


def test_a_file_of_another_convention_is_refused(tmp_path):
    file = save_model(tmp_path / "a.safetensors", model("dinov3"))
    with pytest.raises(WeightsError, match=r"a.safetensors does not fit the model \(rope_convention: RopeConvention"):
        load_weights(model("eva02"), file)


def test_weights_under_timms_names_are_reordered():
    built = model("dinov3")
    theirs = {
        name.replace("register_tokens", "reg_token"): value for name, value in model("dinov3").state_dict().items()
    }
    load_weights(built, theirs)
    convention = built.config.rope_convention
    for given in ("weight", "bias"):
        q, k, v = theirs[f"blocks.1.attn.qkv.{given}"].chunk(3)
        wanted = torch.cat([convention.reorder(q, 16), convention.reorder(k, 16), v])
        assert torch.equal(built.state_dict()[f"blocks.1.attn.qkv.{given}"], wanted)


def test_own_names_keep_the_order():
    built, other = model("dinov3"), ViT(config(layer_scale=None))
    load_weights(other, built.state_dict())
    assert torch.equal(other.blocks[0].attn.qkv.weight, built.blocks[0].attn.qkv.weight)


def test_names_that_do_not_tell_the_order_are_refused():
    built = model("dinov3", num_registers=0)
    with pytest.raises(WeightsError, match="the given state dict holds names that several layouts share"):
        load_weights(built, built.state_dict())


def test_the_layout_of_the_paper_does_not_store_a_convention(tmp_path):
    file = save_model(tmp_path / "a.safetensors", model("eva02"))
    with pytest.raises(WeightsError, match=r"has RopeConvention\(.*which the published layout cannot store"):
        convert(file, tmp_path / "b.safetensors", "published")


def test_figures_count_frequencies_in_radians_per_patch():
    built = model("dinov3")
    first = attention_layers(built)[0].frequencies
    assert first is not None
    assert first[0].max().item() == pytest.approx(2 * torch.pi * 2 / 6)  # a grid of 6 x 6: steps of 2 / 6
    wide = frequencies_at(built, (6, 12))[0].frequencies
    assert_close(wide, first * torch.tensor([0.5, 1.0])[:, None, None])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"position": "rope_mixed", "rope_theta": None}, "got a rope_convention for rope_mixed"),
        ({"position": "rope_axial_decay"}, "got a rope_convention for rope_axial_decay"),
        ({"frames": 4}, "with frames=4"),
    ],
)
def test_what_a_convention_does_not_go_with_is_refused(changes, message):
    fields = vars(config()) | changes
    with pytest.raises(ValueError, match=message):
        ViTConfig(**fields)


@pytest.mark.parametrize("name", OTHERS)
@torch.no_grad()
def test_scaling_replaces_the_interpolation_of_the_coordinates(name):
    plain, scaled = model(name), model(name)
    images = {size: torch.randn(1, 3, *size) for size in ((24, 24), (36, 48), (12, 20))}
    same = {"normalize": [*images], "pi": [(24, 24), (36, 48)], "ntk": [(24, 24)], "parts+log": [(24, 24)]}
    for scaling, sizes in same.items():
        set_scaling(scaled, scaling)
        for size, batch in images.items():
            found, wanted = scaled.forward_features(batch), plain.forward_features(batch)
            assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-4) == (size in sizes), (scaling, size)
    set_scaling(scaled, None)
    assert torch.equal(scaled(images[36, 48]), plain(images[36, 48]))


@pytest.mark.parametrize("name", OTHERS)
@torch.no_grad()
def test_frequencies_of_figures_are_those_of_the_scaled_rotation(name):
    built = model(name)
    set_scaling(built, "normalize")
    found = frequencies_at(built, (9, 12))[0].frequencies
    set_scaling(built, None)
    assert_close(found, frequencies_at(built, (9, 12))[0].frequencies)


def test_a_module_of_which_one_model_refuses_the_scaling_stays_as_it_is():
    both = torch.nn.ModuleList(
        [ViT(config()), ViT(ViTConfig(position="ape", img_size=(32, 32), depth=1, width=16, heads=1))]
    )
    with pytest.raises(ValueError, match="RoPE"):
        set_scaling(both, "ntk")
    assert both[0].config.scaling is None
