import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from marks import by_default, embeddings, in_turn
from ropevit.models import MODELS, VIT_EMBEDDINGS, ViT, ViTConfig, get_config, list_models, parameter_groups
from ropevit.models.layers import DropPath, resize_embedding
from ropevit.models.positions import is_published
from ropevit.models.registry import PUBLISHED

GOLDEN = Path(__file__).parents[1] / "golden"

#: Parameters of the published models, as the reference implementation counts them.
COUNTS = {
    "deit_{}_patch16_LS": (22_059_496, 86_585_320, 304_374_760),
    "rope_axial_deit_{}_patch16_LS": (21_984_232, 86_434_792, 304_174_056),
    "rope_mixed_deit_{}_patch16_LS": (21_988_840, 86_444_008, 304_198_632),
    "rope_axial_ape_deit_{}_patch16_LS": (22_059_496, 86_585_320, 304_374_760),
    "rope_mixed_ape_deit_{}_patch16_LS": (22_064_104, 86_594_536, 304_399_336),
}
PARAMETERS = {
    name.format(size): count
    for name, counts in COUNTS.items()
    for size, count in zip(("small", "base", "large"), counts, strict=True)
}


def config(position="rope_mixed", **changes) -> ViTConfig:
    small = {"width": 48, "depth": 2, "heads": 3, "img_size": (64, 64), "num_classes": 10, "layer_scale": 0.5}
    return ViTConfig(position=position, **(small | changes))


def model(position="rope_mixed", **changes) -> ViT:
    """A model whose every weight is random, so that nothing hides behind a zero."""
    built = ViT(config(position, **changes))
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if not name.endswith("freqs"):
                parameter.normal_(std=0.2)
    return built.eval()


@pytest.mark.parametrize(("name", "expected"), PARAMETERS.items())
def test_parameter_counts_are_the_published_ones(name, expected):
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in ViT(MODELS[name]).parameters()) == expected


@pytest.mark.parametrize("name", list_models("*deit*"))
def test_every_name_builds_what_it_says(name):
    with torch.device("meta"):
        built = ViT(MODELS[name])
    words = name.split("_")
    assert (built.pos_embed is not None) == ("ape" in words or words[0] == "deit")
    assert (built.rope is not None) == ("axial" in words)
    assert all((block.attn.rope is not None) == ("mixed" in words) for block in built.blocks)
    assert len(built.blocks) == (24 if "large" in words else 12)


def test_every_published_model_is_in_the_registry():
    layouts = json.loads((GOLDEN / "checkpoint_layouts.json").read_text())
    assert set(layouts) == {name for name, hub in PUBLISHED.items() if hub.startswith("naver-ai/")}
    assert set(MODELS) >= set(PUBLISHED)
    assert list_models("rope_mixed_deit*", pretrained=True) == [
        f"rope_mixed_deit_{size}_patch16_LS" for size in ("small", "base", "large")
    ]


@pytest.mark.parametrize(
    ("position", "height", "width"), in_turn(embeddings(VIT_EMBEDDINGS), [(64, 64), (48, 80), (16, 112)])
)
def test_any_size_that_the_patches_tile_runs(position, height, width):
    images = torch.randn(2, 3, height, width)
    built = model(position, num_registers=2)
    features = built.forward_features(images)
    assert features.shape == (2, 3 + height * width // 256, 48)
    assert built(images).shape == (2, 10)


@pytest.mark.parametrize("position", ["rope_axial", "rope_mixed"])
def test_a_transposed_image_gives_the_same_logits_with_swapped_axes(position):
    built, images = model(position), torch.randn(1, 3, 48, 80)
    here = built(images)
    built.patch_embed.proj.weight.data = built.patch_embed.proj.weight.data.transpose(2, 3)
    if position == "rope_mixed":
        for block in built.blocks:
            block.attn.rope.freqs.data = block.attn.rope.freqs.data.flip(0)
        assert_close(built(images.transpose(2, 3)), here, rtol=1e-4, atol=1e-5)
    else:  # fixed axes: the other half of the channels turns with x now, so the logits must differ
        assert not torch.allclose(built(images.transpose(2, 3)), here, rtol=1e-2)


def test_without_position_embedding_the_order_of_patches_is_lost():
    images = torch.randn(1, 3, 32, 64)
    moved = images.unflatten(3, (4, 16)).flip(3).flatten(3)
    for position, same in (("none", True), ("ape", False), ("rope_axial", False), ("rope_mixed", False)):
        built = model(position)
        assert torch.allclose(built(images), built(moved), rtol=1e-4, atol=1e-4) is same, position


def test_a_common_shift_of_all_positions_changes_nothing():
    built = model("rope_mixed", depth=1, class_token=False, pooling="avg")
    images = torch.randn(1, 3, 32, 64)
    x, positions = built.embed(images)
    here = built.blocks[0](x, positions)
    assert_close(built.blocks[0](x, positions + torch.tensor([5.0, -2.0])), here, rtol=1e-4, atol=1e-4)


def test_an_absolute_embedding_at_its_own_size_is_untouched_bit_for_bit():
    embedding = torch.randn(1, 12, 8)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        assert torch.equal(resize_embedding(embedding.to(dtype), (3, 4), 3, 4), embedding.to(dtype))
    assert resize_embedding(embedding, (3, 4), 5, 2).shape == (1, 10, 8)
    assert not torch.equal(resize_embedding(embedding, (4, 3), 3, 4), embedding)


@pytest.mark.parametrize("position", ["ape", "rope_mixed"])
def test_intermediates_are_the_tokens_of_their_blocks(position):
    built, images = model(position, depth=3, num_registers=1), torch.randn(2, 3, 48, 64)
    maps = built.forward_intermediates(images, indices=[2, 0, -1], norm=True)
    tokens = built.forward_features(images)[:, 2:]
    assert [tuple(m.shape) for m in maps] == [(2, 48, 3, 4)] * 3
    assert_close(maps[0].flatten(2).transpose(1, 2), tokens)
    assert torch.equal(maps[0], maps[2])
    assert not torch.allclose(maps[0], maps[1])
    (plain,) = built.forward_intermediates(images, indices=[2])
    assert not torch.allclose(plain, maps[0])
    assert_close(built.norm(plain.flatten(2).transpose(1, 2)), tokens)
    with pytest.raises(ValueError, match=r"got indices=\[3\]; expected blocks from -3 to 2"):
        built.forward_intermediates(images, indices=[3])


def test_the_head_classifies_the_class_token_or_the_mean_of_the_patches():
    images = torch.randn(2, 3, 48, 64)
    token, mean = model(), model(pooling="avg", num_registers=2)
    assert_close(token(images), token.head(token.forward_features(images)[:, 0]))
    assert_close(mean(images), mean.head(mean.forward_features(images)[:, 3:].mean(1)))
    assert model(num_classes=0)(images).shape == (2, 48)


def test_reset_classifier_changes_the_head_and_the_config():
    built = model()
    built.reset_classifier(4)
    assert built(torch.randn(1, 3, 64, 64)).shape == (1, 4)
    assert built.config.num_classes == 4
    assert built.get_classifier() is built.head
    built.double().reset_classifier(3)
    assert built.head.weight.dtype == torch.float64


def test_reset_parameters_starts_every_weight_anew():
    with torch.device("meta"):
        built = ViT(config("rope_mixed_ape", num_registers=1))
    built.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.fill_(torch.nan)
    built.reset_parameters()
    for name, parameter in built.named_parameters():
        assert parameter.isfinite().all(), name
    assert built.blocks[0].gamma_1[0] == 0.5
    assert_close(built.blocks[0].mlp.fc1.weight.std(), torch.tensor(0.02), rtol=0.1, atol=0)


def test_models_can_be_copied_pickled_and_fed_nothing():
    built, images = model("rope_mixed_ape"), torch.randn(2, 3, 48, 64)
    for twin in (copy.deepcopy(built), pickle.loads(pickle.dumps(built))):
        assert torch.equal(twin(images), built(images))
    assert built(images[:0]).shape == (0, 10)


@pytest.mark.full  # by default test_distance.py exports a model so
@pytest.mark.usefixtures("unchecked")
def test_models_can_be_exported_with_free_height_and_width():
    built, dynamic = model("rope_mixed"), torch.export.Dim.DYNAMIC
    exported = torch.export.export(
        built, (torch.randn(2, 3, 48, 64),), dynamic_shapes={"images": {0: dynamic, 2: dynamic, 3: dynamic}}
    )
    images = torch.randn(3, 3, 80, 32)
    assert_close(exported.module()(images), built(images))


@pytest.mark.parametrize("position", ["rope_axial_ape", "rope_mixed"])
def test_gradient_checkpointing_changes_no_gradient(position):
    built, images = model(position).train(), torch.randn(2, 3, 48, 64)
    calls = []
    built.blocks[1].norm1.register_forward_hook(lambda *_: calls.append(1))
    plain = torch.autograd.grad(built(images).square().sum(), list(built.parameters()))
    assert len(calls) == 1
    built.set_grad_checkpointing()
    again = torch.autograd.grad(built(images).square().sum(), list(built.parameters()))
    assert len(calls) == 3, "once forward, once more in the backward pass"
    for (name, _), one, two in zip(built.named_parameters(), plain, again, strict=True):
        assert torch.equal(one, two), name


@pytest.mark.parametrize("mode", ["fp32", "bf16 autocast", "pure bf16"])
def test_a_training_step_moves_the_frequencies(mode):
    built = ViT(config()).train()
    if mode == "pure bf16":
        built = built.bfloat16()
    images = torch.randn(4, 3, 48, 64).to(built.head.weight.dtype)
    before = {name: parameter.detach().clone() for name, parameter in built.named_parameters()}
    optimizer = torch.optim.AdamW(parameter_groups(built, lr=1e-2, weight_decay=0.05))
    with torch.autocast("cpu", torch.bfloat16, enabled=mode == "bf16 autocast"):
        loss = torch.nn.functional.cross_entropy(built(images).float(), torch.arange(4))
    loss.backward()
    optimizer.step()
    for name, parameter in built.named_parameters():
        assert parameter.isfinite().all(), name
        if name.endswith("freqs"):
            assert parameter.dtype == torch.float32
            assert not torch.equal(parameter, before[name]), name


@pytest.mark.parametrize("mode", ["bf16 autocast", "pure bf16", "half"])
@pytest.mark.parametrize("position", ["rope_axial", "rope_mixed_ape"])
def test_short_dtypes_stay_close_to_float32(mode, position):
    built, images = model(position), torch.randn(2, 3, 256, 128)
    exact = built(images)
    with torch.autocast("cpu", torch.bfloat16, enabled=mode == "bf16 autocast"):
        if mode != "bf16 autocast":
            dtype = torch.bfloat16 if mode == "pure bf16" else torch.half
            built, images = built.to(dtype), images.to(dtype)
        short = built(images).float()
    assert (short - exact).norm() / exact.norm() < 0.05


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("position", by_default(["rope_mixed_ape"], [*filter(is_published, VIT_EMBEDDINGS)]))
def test_one_graph_serves_ten_resolutions(position):
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()
    built = model(position, num_registers=1, depth=1)
    compiled = torch.compile(built, fullgraph=True, dynamic=True, backend=counter)
    sizes = [(2, 3), (2, 2), (3, 2), (4, 4), (5, 3), (2, 7), (7, 2), (6, 5), (3, 8), (9, 9)]
    with torch.no_grad():
        for h, w in sizes:
            images = torch.randn(2, 3, 16 * h, 16 * w)
            assert_close(compiled(images), built(images))
    assert counter.frame_count == 1


def test_no_state_depends_on_the_size_of_images():
    built = model("rope_axial")
    before = set(built.state_dict())
    built(torch.randn(1, 3, 48, 80))
    assert dict(built.named_buffers()) == {}
    assert set(built.state_dict()) == before


def test_weight_decay_spares_embeddings_frequencies_and_vectors():
    built = model("rope_mixed_ape", num_registers=1)
    groups = parameter_groups(built, lr=1.0, weight_decay=0.1)
    free = {name for group in groups if group["weight_decay"] == 0 for name in group["names"]}
    assert {"cls_token", "register_tokens", "pos_embed", "blocks.1.attn.rope.freqs", "blocks.0.gamma_1"} <= free
    assert {"norm.weight", "blocks.0.attn.qkv.bias"} <= free
    assert "blocks.0.attn.qkv.weight" not in free
    assert sorted(name for group in groups for name in group["names"]) == sorted(dict(built.named_parameters()))
    built.patch_embed.requires_grad_(False)
    groups = parameter_groups(built, lr=1.0, weight_decay=0.1)
    assert not any(name.startswith("patch_embed") for group in groups for name in group["names"])


def test_layer_decay_moves_frequencies_with_their_block():
    groups = parameter_groups(model(), lr=2.0, weight_decay=0.1, layer_decay=0.5)
    rate = {name: group["lr"] for group in groups for name in group["names"]}
    assert rate["head.weight"] == rate["norm.weight"] == 2.0
    assert rate["blocks.1.attn.rope.freqs"] == rate["blocks.1.mlp.fc1.weight"] == 1.0
    assert rate["blocks.0.attn.rope.freqs"] == rate["blocks.0.attn.qkv.bias"] == 0.5
    assert rate["patch_embed.proj.weight"] == rate["cls_token"] == 0.25


def test_drop_path_rates_are_constant_as_published_or_linear():
    constant = ViT(config(depth=3, drop_path=0.3))
    linear = ViT(config(depth=3, drop_path=0.3, drop_path_rule="linear"))
    assert [block.drop_path.rate for block in constant.blocks] == [0.3, 0.3, 0.3]
    assert_close(torch.tensor([block.drop_path.rate for block in linear.blocks]), torch.tensor([0, 0.15, 0.3]))


def test_drop_path_keeps_the_mean_and_drops_whole_samples():
    block = ViT(config(depth=1, drop_path=0.999)).train().blocks[0]
    x = torch.randn(8, 3, 48)
    assert torch.equal(block(x, torch.zeros(3, 2)), x), "both branches are dropped"
    drop = DropPath(0.25).train()
    out = drop(torch.ones(4000, 3))
    assert_close(out.mean(), torch.tensor(1.0), rtol=0.05, atol=0)
    assert set(out.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert torch.equal(out[:, 0], out[:, 2])
    assert torch.equal(drop.eval()(torch.ones(4, 3)), torch.ones(4, 3))


def test_initial_absolute_embedding_has_the_spread_asked_for():
    start = ViT(config("ape", ape_std=0.3, img_size=(512, 512))).pos_embed
    assert start is not None
    assert_close(start.std(), torch.tensor(0.3), rtol=0.05, atol=0)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 50, 64), "50 x 64 pixels .* patches of 16 do not tile; use a height of 48 or 64 "),
        ((1, 3, 64, 10), "use a width of 16 "),
        ((1, 1, 64, 64), r"images of shape \(1, 1, 64, 64\); expected \(B, 3, H, W\)"),
        ((3, 64, 64), "expected \\(B, 3, H, W\\)"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_images_that_do_not_fit_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        model()(torch.randn(shape))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"position": "rope_spherical"}, "position='rope_spherical'; expected one of none, ape, rope_axial"),
        ({"heads": 5}, "width=48, heads=5; the width must be a multiple"),
        ({"heads": 8}, "heads of 6 channels; rope_mixed needs a multiple of 4"),
        ({"depth": 0}, "depth=0; expected at least 1"),
        ({"num_registers": -1}, "num_registers=-1"),
        ({"img_size": (60, 64)}, "use a height of 48 or 64 "),
        ({"pooling": "max"}, "pooling='max'; expected one of token, avg"),
        ({"class_token": False}, "pooling='token' without a class token"),
        ({"drop_path": 1.0}, "drop_path=1.0"),
        ({"rope_theta": -1.0}, "rope_theta=-1.0"),
        ({"rope_theta": 10.0, "position": "ape"}, "rope_theta=10.0 for ape"),
        ({"img_size": (64, 64, 64)}, r"img_size=\(64, 64, 64\); expected one side"),
        ({"img_size": (-64, 64)}, "-64 x 64 pixels"),
        ({"mlp_ratio": -1.0}, "mlp_ratio=-1.0"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_configs_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        config(**changes)


def test_names_and_options_that_do_not_exist_are_refused_with_a_hint():
    with pytest.raises(ValueError, match="did you mean rope_mixed_deit_small_patch16_LS"):
        get_config("rope_mixed_deit_smal_patch16_LS")
    with pytest.raises(ValueError, match="no option named img_sise"):
        get_config("deit_small_patch16_LS", img_sise=3)
    assert get_config("deit_small_patch16_LS", img_size=384).img_size == (384, 384)


def test_golden_file_is_the_one_the_recipe_describes():
    cases = {case["case"] for case in json.loads((GOLDEN / "golden.json").read_text())}
    assert set(np.load(GOLDEN / "golden.npz").files) == cases
