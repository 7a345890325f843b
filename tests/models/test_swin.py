import copy
import pickle

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.nn import functional as F
from torch.testing import assert_close

from marks import by_default, embeddings, in_turn
from ropevit.kernels import set_backend
from ropevit.models import MODELS, SWIN_EMBEDDINGS, Swin, SwinConfig, get_config, list_models, parameter_groups
from ropevit.models.cost import count_macs, count_parameters
from ropevit.models.layers import project
from ropevit.models.published import TOP1
from ropevit.models.registry import PUBLISHED
from ropevit.models.swin import attention
from ropevit.rope import grid_positions, rotate

SIZES = ("tiny", "small", "base")

#: Parameters of tiny, small and base, as the reference implementations count them.
PARAMETERS = {
    "swin_{}_patch4_window7_224": (28_288_354, 49_606_258, 87_768_224),
    "swin_rope_axial_{}_patch4_window7_224": (28_265_032, 49_558_600, 87_704_680),
    "swin_rope_mixed_{}_patch4_window7_224": (28_269_448, 49_567_624, 87_716_712),
}


def config(position="rope_mixed", **changes) -> SwinConfig:
    small = {"width": 16, "depths": (2, 2), "heads": (2, 4), "img_size": (64, 64), "window_size": 4, "num_classes": 5}
    return SwinConfig(position=position, **(small | changes))


def model(position="rope_mixed", **changes) -> Swin:
    """A model whose every weight is random, so that nothing hides behind a zero."""
    built = Swin(config(position, **changes))
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if not name.endswith("freqs"):
                parameter.normal_(mean=float("norm" in name and name.endswith("weight")), std=0.2)
    return built.eval()


@pytest.mark.parametrize(("name", "counts"), PARAMETERS.items())
def test_parameter_counts_are_the_published_ones(name, counts):
    found = [count_parameters(MODELS[name.format(size)]) for size in SIZES]
    assert found == list(counts)


@pytest.mark.parametrize(("size", "billions"), [("tiny", 4.5), ("small", 8.7), ("base", 15.4)])
def test_multiply_adds_at_224_are_the_literatures(size, billions):
    adds = count_macs(MODELS[f"swin_{size}_patch4_window7_224"], 224, 224)
    assert adds / 1e9 == pytest.approx(billions, abs=0.05)


@pytest.mark.parametrize("name", list_models("swin*"))
def test_every_name_builds_what_it_says(name):
    with torch.device("meta"):
        built = Swin(MODELS[name])
    words = name.split("_")
    for stage in built.layers:
        assert (stage.rope is not None) == ("axial" in words)
        for block in stage.blocks:
            assert (block.attn.rope is not None) == ("mixed" in words)
            assert (block.attn.relative_position_bias_table is not None) == ("rpb" in words or words[1] != "rope")
    assert [len(stage.blocks) for stage in built.layers] == [2, 2, 6 if "tiny" in words else 18, 2]


def test_published_names_and_accuracies_are_those_of_the_paper():
    published = [f"swin_rope_{kind}_{size}_patch4_window7_224" for size in SIZES for kind in ("axial", "mixed")]
    assert set(list_models("swin*", pretrained=True)) == set(published) == {n for n in PUBLISHED if "swin" in n}
    assert {name for name in TOP1 if "swin" in name} == {*published, *(f"swin_{s}_patch4_window7_224" for s in SIZES)}


@pytest.mark.parametrize(
    ("changes", "window"),
    [
        ({}, 7),
        ({"img_size": 384}, 12),
        ({"img_size": 240}, 8),
        ({"img_size": (320, 512)}, 10),
        ({"img_size": (512, 320)}, 10),
        ({"img_size": 384, "window_size": 7}, 7),
        ({"window_size": 5}, 5),
    ],
)
def test_the_window_is_the_papers_unless_given(changes, window):
    assert get_config("swin_rope_mixed_tiny_patch4_window7_224", **changes).window_size == window


@pytest.mark.parametrize(
    ("position", "height", "width"), in_turn(embeddings(SWIN_EMBEDDINGS), [(64, 64), (50, 83), (20, 130), (9, 5)])
)
def test_any_size_runs(position, height, width):
    built, images = model(position), torch.randn(2, 3, height, width)
    logits = built(images)
    assert logits.shape == (2, 5)
    assert logits.isfinite().all()


@pytest.mark.parametrize(("height", "width"), [(64, 64), (50, 83), (70, 33)])
def test_intermediates_are_the_stages(height, width):
    built, images = model(depths=(1, 2, 1, 2), heads=(1, 2, 4, 8)), torch.randn(2, 3, height, width)
    maps = built.forward_intermediates(images)
    assert [tuple(m.shape) for m in maps] == [
        (2, 16 * 2**stage, -(-height // stride), -(-width // stride)) for stage, stride in enumerate((4, 8, 16, 32))
    ]
    assert_close(built.norm(maps[3].permute(0, 2, 3, 1)), built.forward_features(images))
    assert_close(built.forward_head(built.norm(maps[3].permute(0, 2, 3, 1))), built(images))
    last, first = built.forward_intermediates(images, indices=[-1, 0])
    assert torch.equal(last, maps[3])
    assert torch.equal(first, maps[0])
    with pytest.raises(ValueError, match=r"got indices=\[4\]; expected stages from -4 to 3"):
        built.forward_intermediates(images, indices=[4])


def plain_block(block, x, shift):
    """A block of learned frequencies and biases, token by token as the paper draws it, on a map that windows tile."""
    window, (_, h, w, _) = block.attn.window, x.shape
    out = torch.empty_like(x)
    normed = block.norm1(x)
    for top in range(-shift, h, window):  # windows that the border cuts are smaller, and nothing wraps around
        for left in range(-shift, w, window):
            rows = [row for row in range(top, top + window) if 0 <= row < h]
            columns = [column for column in range(left, left + window) if 0 <= column < w]
            if rows and columns:
                cut = normed[:, rows][:, :, columns]
                attended = plain_attention(block.attn, cut.flatten(1, 2), len(rows), len(columns))
                place = torch.meshgrid(torch.tensor(rows), torch.tensor(columns), indexing="ij")
                out[:, place[0], place[1]] = attended.unflatten(1, (len(rows), len(columns)))
    x = x + out
    return x + block.mlp(block.norm2(x))


def plain_attention(attention, x, h, w):
    heads, window = attention.heads, attention.window
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in attention.qkv(x).chunk(3, dim=-1))
    places = grid_positions(h, w)
    q, k = rotate(q, k, places, attention.rope.freqs)
    scores = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
    for query, (x1, y1) in enumerate(places.long().tolist()):
        for key, (x2, y2) in enumerate(places.long().tolist()):
            row = (y1 - y2 + window - 1) * (2 * window - 1) + x1 - x2 + window - 1
            scores[:, :, query, key] += attention.relative_position_bias_table[row]
    return attention.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize(("h", "w"), [(8, 8), (8, 12), (4, 8), (5, 7), (3, 9)])
def test_shifted_windows_are_windows_cut_at_the_border(h, w):
    built = model("rope_mixed_rpb")
    x = torch.randn(2, h, w, 16)
    with torch.no_grad():
        plain, shifted = built.layers[0].blocks
        assert_close(plain(x, None), plain_block(plain, x, 0), rtol=1e-4, atol=1e-4)
        if h > 4 < w:  # a side of one window is not shifted
            assert_close(shifted(x, None), plain_block(shifted, x, 2), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (50, 83)])
def test_an_image_does_not_see_its_neighbors_in_the_batch(height, width):
    built, images = model("rope_mixed_rpb"), torch.randn(3, 3, height, width)
    alone = torch.cat([built(image.unsqueeze(0)) for image in images])
    assert_close(built(images), alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("position", ["rope_mixed_rpb", "rope_axial", "rpb"])
def test_what_lies_beyond_the_image_changes_nothing(position, monkeypatch):
    built, x = model(position), torch.randn(1, 10, 7, 16)
    frequencies = built.layers[0].rope and built.layers[0].rope.frequencies()
    before = [block(x, frequencies) for block in built.layers[0].blocks]
    pad = F.pad
    monkeypatch.setattr(F, "pad", lambda x, sides: pad(x, sides, value=7.0))
    after = [block(x, frequencies) for block in built.layers[0].blocks]
    for one, two in zip(before, after, strict=True):
        assert_close(one, two)


@pytest.mark.parametrize("position", ["rope_mixed", "rope_axial"])
def test_a_common_shift_of_positions_in_the_windows_changes_nothing(position, monkeypatch):
    built, images = model(position), torch.randn(1, 3, 50, 83)
    set_backend(built, "reference")  # a fused kernel computes the positions itself
    here = built(images)

    def move(law):
        def project_elsewhere(qkv, x, heads, positions, frequencies, **how):
            return project(qkv, x, heads, law(positions), frequencies, **how)

        monkeypatch.setattr(attention, "project", project_elsewhere)

    move(lambda positions: positions + torch.tensor([3.0, -2.0]))
    assert_close(built(images), here, rtol=1e-4, atol=1e-4)
    move(lambda positions: 2 * positions)
    assert not torch.allclose(built(images), here, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("position", embeddings(SWIN_EMBEDDINGS))
def test_every_parameter_gets_a_gradient(position):
    built = model(position).train()
    built(torch.randn(2, 3, 50, 83)).square().sum().backward()
    for name, parameter in built.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("position", ["rope_axial_ape", "rope_mixed_rpb"])
def test_gradient_checkpointing_changes_no_gradient(position):
    built, images = model(position).train(), torch.randn(2, 3, 48, 64)
    calls = []
    built.layers[1].blocks[1].norm1.register_forward_hook(lambda *_: calls.append(1))
    plain = torch.autograd.grad(built(images).square().sum(), list(built.parameters()))
    built.set_grad_checkpointing()
    again = torch.autograd.grad(built(images).square().sum(), list(built.parameters()))
    assert len(calls) == 3, "once without, then once forward and once more in the backward pass"
    for (name, _), one, two in zip(built.named_parameters(), plain, again, strict=True):
        assert torch.equal(one, two), name


def test_weight_decay_spares_embeddings_biases_and_frequencies():
    built = model("rope_mixed_rpb")
    spared = built.no_weight_decay()
    assert {"layers.0.blocks.1.attn.rope.freqs", "layers.1.blocks.0.attn.relative_position_bias_table"} <= spared
    assert model("rope_axial_ape").no_weight_decay() == {"pos_embed"}
    groups = parameter_groups(built, lr=1.0, weight_decay=0.1)
    free = {name for group in groups if group["weight_decay"] == 0 for name in group["names"]}
    assert spared | {"norm.weight", "layers.0.downsample.norm.bias"} <= free
    assert "layers.0.downsample.reduction.weight" not in free


def test_layer_decay_moves_frequencies_with_their_block():
    groups = parameter_groups(model("rope_mixed_rpb"), lr=32.0, weight_decay=0.1, layer_decay=0.5)
    rate = {name: group["lr"] for group in groups for name in group["names"]}
    assert rate["head.weight"] == rate["norm.weight"] == 32
    assert rate["layers.1.blocks.1.attn.rope.freqs"] == rate["layers.1.blocks.1.mlp.fc1.weight"] == 16
    assert rate["layers.1.blocks.0.attn.relative_position_bias_table"] == 8
    assert rate["layers.0.downsample.reduction.weight"] == rate["layers.0.blocks.1.attn.rope.freqs"] == 4
    assert rate["layers.0.blocks.0.attn.qkv.bias"] == 2
    assert rate["patch_embed.norm.weight"] == 1


def test_drop_path_grows_linearly():
    built = Swin(config(depths=(2, 3), drop_path=0.4))
    rates = [block.drop_path.rate for stage in built.layers for block in stage.blocks]
    assert_close(torch.tensor(rates), torch.linspace(0, 0.4, 5))


def test_reset_parameters_starts_every_weight_anew():
    for position in ("rope_mixed_rpb", "rope_axial_ape"):
        with torch.device("meta"):
            built = Swin(config(position))
        built.to_empty(device="cpu")
        with torch.no_grad():
            for parameter in built.parameters():
                parameter.fill_(torch.nan)
        built.reset_parameters()
        for name, parameter in built.named_parameters():
            assert parameter.isfinite().all(), name


def test_reset_classifier_changes_the_head_and_the_config():
    built = model()
    assert built.get_classifier() is built.head
    built.double().reset_classifier(4)
    assert built(torch.randn(1, 3, 64, 64).double()).shape == (1, 4)
    assert built.config.num_classes == 4
    built.reset_classifier(0)
    assert built(torch.randn(1, 3, 64, 64).double()).shape == (1, 32)


def test_models_can_be_copied_pickled_and_keep_no_table():
    built, images = model("rope_mixed_rpb"), torch.randn(2, 3, 48, 70)
    before = set(built.state_dict())
    for twin in (copy.deepcopy(built), pickle.loads(pickle.dumps(built))):
        assert torch.equal(twin(images), built(images))
    assert dict(built.named_buffers()) == {}
    assert set(built.state_dict()) == before


@pytest.mark.parametrize("mode", ["bf16 autocast", "pure bf16"])
@pytest.mark.parametrize("position", ["rope_axial", "rope_mixed_rpb"])
def test_short_dtypes_stay_close_to_float32(mode, position):
    built, images = model(position), torch.randn(2, 3, 50, 83)
    exact = built(images)
    with torch.autocast("cpu", torch.bfloat16, enabled=mode == "bf16 autocast"):
        if mode == "pure bf16":
            built, images = built.bfloat16(), images.bfloat16()
        short = built(images).float()
    assert (short - exact).norm() / exact.norm() < 0.05


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("position", by_default(["rope_mixed"], ["rope_mixed", "rope_mixed_ape"]))
def test_one_graph_serves_six_resolutions(position):
    """By default without an absolute embedding, to trace whose resize takes seconds: test_vit.py has it."""
    torch._dynamo.reset()
    counter = CompileCounter()
    built = model(position, depths=(2,), heads=(2,))
    compiled = torch.compile(built, fullgraph=True, dynamic=True, backend=counter)
    with torch.no_grad():
        for height, width in [(64, 48), (33, 65), (80, 96), (64, 64), (50, 37), (128, 40)]:
            images = torch.randn(2, 3, height, width)
            assert_close(compiled(images), built(images))
    assert counter.frame_count == 1


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 1, 64, 64), r"images of shape \(1, 1, 64, 64\); expected \(B, 3, H, W\)"),
        ((3, 64, 64), "expected \\(B, 3, H, W\\)"),
        ((1, 3, 0, 64), r"images of shape \(1, 3, 0, 64\)"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_images_that_do_not_fit_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        model()(torch.randn(shape))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"position": "ape"}, "position='ape'; expected one of none, rpb, rope_axial"),
        ({"heads": (3, 4)}, "16 channels for 3 heads in stage 0; expected a multiple of the heads"),
        ({"heads": (8, 4)}, "16 channels for 8 heads in stage 0"),
        ({"heads": (2,)}, r"depths=\(2, 2\), heads=\(2,\); expected as many"),
        ({"depths": (2, 0)}, r"depths=\(2, 0\), .* each at least 1"),
        ({"window_size": 0}, "window_size=0; expected at least 1"),
        ({"num_classes": -1}, "num_classes=-1; expected at least 0"),
        ({"drop_path": 1.0}, "drop_path=1.0"),
        ({"mlp_ratio": 0.0}, "mlp_ratio=0.0"),
        ({"rope_theta": -1.0}, "rope_theta=-1.0 for rope_mixed"),
        ({"rope_theta": 10.0, "position": "rpb"}, "rope_theta=10.0 for rpb"),
        ({"img_size": (64, 0)}, r"img_size=\(64, 0\); expected pixels, above 0"),
        ({"img_size": (64, 64, 64)}, r"img_size=\(64, 64, 64\); expected one side"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_configs_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        config(**changes)


def test_names_and_options_that_do_not_exist_are_refused_with_a_hint():
    with pytest.raises(ValueError, match="did you mean swin_rope_mixed_tiny_patch4_window7_224"):
        get_config("swin_rope_mixd_tiny_patch4_window7_224")
    with pytest.raises(ValueError, match="no option named depth for swin_tiny"):
        get_config("swin_tiny_patch4_window7_224", depth=3)
