import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.nn import functional as F
from torch.testing import assert_close

from marks import embeddings, in_turn
from ropevit.models import VIT_EMBEDDINGS, ViT, ViTConfig, get_config, parameter_groups
from ropevit.models.dense import DenseViT, DenseViTConfig, PyramidConfig
from ropevit.models.layers import Attention
from ropevit.models.window_partition import WindowPartition, attend_in_windows, key_mask
from ropevit.rope import MixedRope, axial_frequencies, rotate, window_positions

NARROW = PyramidConfig(channels=8)


def body(position="rope_mixed", **changes) -> ViTConfig:
    small = {"width": 32, "depth": 4, "heads": 2, "img_size": (64, 64), "layer_scale": 0.5, "class_token": False}
    return ViTConfig(position=position, **(small | {"pooling": "avg"} | changes))


def model(position="rope_mixed", depth=4, pyramid=NARROW, **changes) -> DenseViT:
    """A backbone whose every weight is random, so that nothing hides behind a zero."""
    fields = {"body": body(position, depth=depth), "window": 3, "global_attn_indexes": (depth - 1,), "pyramid": pyramid}
    built = DenseViT(DenseViTConfig(**(fields | changes)))
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if not name.endswith("freqs"):
                parameter.normal_(mean=float("norm" in name and name.endswith("weight")), std=0.2)
    return built.eval()


@pytest.mark.parametrize(
    ("position", "height", "width"), in_turn(embeddings(VIT_EMBEDDINGS), [(64, 96), (70, 101), (1, 33)])
)
def test_any_size_gives_maps_with_the_declared_strides_and_channels(position, height, width):
    built = model(position, pyramid=PyramidConfig(channels=8, add_p6=True))
    maps, pixel_masks = built(torch.randn(2, 3, height, width))
    assert built.strides == (4, 8, 16, 32, 64)
    padded = [-(-side // 32) * 32 for side in (height, width)]
    for x, real, stride, channels in zip(maps, pixel_masks, built.strides, built.channels, strict=True):
        assert x.shape == (2, channels, *(-(-side // stride) for side in padded))
        assert real.sum() == 2 * -(-height // stride) * -(-width // stride)


@pytest.mark.parametrize(
    ("pyramid", "strides", "channels"),
    [
        (PyramidConfig(scales=(2, 1, 0.5), add_p6=True, channels=8), (8, 16, 32, 64), (8,) * 4),
        (PyramidConfig(channels=None, norm="batch"), (4, 8, 16, 32), (32,) * 4),
        (PyramidConfig(channels=None, scales=(1,)), (16,), (32,)),
    ],
)
def test_the_pyramid_has_the_levels_that_are_asked_for(pyramid, strides, channels):
    built = model(pyramid=pyramid)
    maps, _ = built(torch.randn(2, 3, 64, 96))
    assert built.strides == strides
    assert built.channels == channels
    expected = [(c, -(-64 // s), -(-96 // s)) for c, s in zip(channels, strides, strict=True)]
    assert [tuple(x.shape[1:]) for x in maps] == expected


def test_each_of_out_indices_feeds_one_level():
    built, images = model(out_indices=(0, 1, 2, 3), pyramid=PyramidConfig(channels=None)), torch.randn(1, 3, 64, 64)
    before = built(images).features
    built.body.blocks[2].mlp.fc2.bias.data += torch.randn(32)  # seen from the third output on
    changed = [not torch.equal(x, y) for x, y in zip(before, built(images).features, strict=True)]
    assert changed == [False, False, True, True]


def test_blocks_attend_in_windows_but_for_the_last_of_each_quarter():
    for name, expected in (("base", {2, 5, 8, 11}), ("large", {5, 11, 17, 23})):
        config = DenseViTConfig(body=get_config(f"rope_mixed_deit_{name}_patch16_LS"))
        assert config.global_indices == expected
        assert (config.window, config.mask_padding) == (14, False)


def influence(built: DenseViT) -> torch.Tensor:
    """Which of 7 x 7 patches change the first token."""
    images = torch.randn(1, 3, 112, 112, requires_grad=True)
    built.run_body(built.body, images, pixel_mask=None)[-1][0, 0].square().sum().backward()
    return images.grad.abs().amax((0, 1)).unflatten(1, (7, 16)).unflatten(0, (7, 16)).amax((1, 3)) > 0


@pytest.mark.parametrize("position", ["none", "rope_axial", "rope_mixed"])
def test_a_window_sees_nothing_of_the_others_and_a_global_block_everything(position):
    near = torch.zeros(7, 7, dtype=torch.bool)
    near[:3, :3] = True
    assert torch.equal(influence(model(position, global_attn_indexes=())), near)
    assert influence(model(position, global_attn_indexes=(1,))).all()


@pytest.mark.parametrize("position", embeddings(VIT_EMBEDDINGS))
def test_it_is_the_plain_vit_where_all_blocks_see_all(position):
    built, plain = (
        model(position, global_attn_indexes=(0, 1, 2, 3), out_indices=(0, 1, 2, 3)),
        ViT(body(position, num_classes=0)),
    )
    plain.load_state_dict(built.body.state_dict(), strict=False)
    images = torch.randn(2, 3, 64, 96)
    expected = plain.eval().forward_intermediates(images, range(4))
    tokens = built.run_body(built.body, images, pixel_mask=None)
    assert_close([x.transpose(1, 2).unflatten(2, (4, 6)) for x in tokens], expected, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["axial", "mixed"])
def test_positions_in_the_window_and_in_the_image_give_the_same_attention(kind):
    rope = MixedRope(16, 2) if kind == "mixed" else None
    frequencies = axial_frequencies(16) if kind == "axial" else None
    attention, x = Attention(32, 2, rope), torch.randn(1, 6 * 9, 32)
    local = attend_in_windows(WindowPartition(6, 9, 3), attention, x, frequencies)
    tokens = x.unflatten(1, (2, 3, 3, 3)).transpose(2, 3).flatten(3, 4).flatten(0, 2)
    there = attention(tokens, window_positions(6, 9, (3, 3)), frequencies)
    there = there.unflatten(1, (3, 3)).unflatten(0, (2, 3)).transpose(1, 2).flatten(0, 3).unsqueeze(0)
    assert_close(local, there, rtol=1e-4, atol=1e-5)


def test_windows_that_the_map_does_not_fill_hold_zeros_as_in_vitdet():
    """Written out for the bottom right window of a 4 x 5 map, whose one row and two columns are real."""
    attention, frequencies = Attention(32, 2), axial_frequencies(16)
    x = torch.randn(1, 20, 32)
    found = (
        attend_in_windows(WindowPartition(4, 5, 3), attention, x, frequencies)
        .unflatten(1, (4, 5))[0, 3:, 3:]
        .flatten(0, 1)
    )
    window = torch.zeros(3, 3, 32)
    window[:1, :2] = x.unflatten(1, (4, 5))[0, 3:, 3:]
    q, k, v = (part.transpose(0, 1) for part in attention.qkv(window.flatten(0, 1)).unflatten(1, (3, 2, 16)).unbind(1))
    q, k = rotate(q, k, torch.tensor([[i % 3, i // 3] for i in range(9)]).float(), frequencies)
    mixed = ((q @ k.transpose(1, 2)) / 4).softmax(-1) @ v
    assert_close(found, attention.proj(mixed.transpose(0, 1).flatten(1))[:2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("position", ["none", "ape", "rope_axial", "rope_mixed_ape"])
@pytest.mark.parametrize("pyramid", [NARROW, PyramidConfig(channels=None, norm="batch")])
def test_masked_padding_gives_an_image_the_same_alone_and_in_any_batch(position, pyramid):
    built = model(position, mask_padding=True, pyramid=pyramid)
    image, batch = torch.randn(1, 3, 70, 101), torch.randn(2, 3, 130, 190)
    batch[0, :, :80, :112] = F.pad(image[0], (0, 11, 0, 10))  # to whole patches; the rest may be anything
    alone, real = built(image)
    together, _ = built(batch, torch.tensor([[70, 101], [130, 190]]))
    for x, keep, y in zip(alone, real, together, strict=True):
        assert_close(y[:1, :, : x.shape[2], : x.shape[3]] * keep[:, None], x * keep[:, None], rtol=1e-4, atol=1e-4)


def test_where_nothing_is_valid_everything_is_seen_so_that_no_softmax_is_empty():
    keys = torch.tensor([[True, False, True], [False, False, False]])
    expected = torch.tensor([[True, False, True], [True, True, True]])
    assert torch.equal(key_mask(keys), expected[:, None, None].expand(2, 1, 3, 3))


def test_images_that_windows_tile_are_the_same_seen_or_masked():
    seen, masked, images = model(window=2), model(window=2, mask_padding=True), torch.randn(2, 3, 64, 96)
    masked.load_state_dict(seen.state_dict())
    assert_close(masked(images).features, seen(images).features, rtol=1e-4, atol=1e-4)
    narrow = images[..., :90]
    assert (masked(narrow).features[0] - seen(narrow).features[0]).abs().max() > 1e-2


def test_seen_padding_is_the_zeros_that_a_caller_may_add():
    built, images = model(), torch.randn(1, 3, 70, 101)
    padded = built(F.pad(images, (0, 27, 0, 26)), torch.tensor([[70, 101]]))
    alone = built(images)
    for first, second in zip(alone.features + alone.pixel_masks, padded.features + padded.pixel_masks, strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("position", embeddings(VIT_EMBEDDINGS))
@pytest.mark.parametrize("changes", [{}, {"mask_padding": True, "final_norm": True, "out_indices": (0, 1, 2, 3)}])
def test_every_parameter_has_a_gradient(position, changes):
    built = model(position, **changes).train()
    sum(x.square().sum() for x in built(torch.randn(2, 3, 70, 101)).features).backward()
    assert [name for name, p in built.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_checkpointing_runs_each_block_twice_and_changes_nothing():
    built, images, gradients, runs = model(mask_padding=True).train(), torch.randn(2, 3, 70, 101), [], []
    for block in built.body.blocks:
        block.norm2.register_forward_hook(lambda *_: runs.append(1))
    for enable, expected in ((False, 4), (True, 8)):
        built.set_grad_checkpointing(enable)
        built.zero_grad()
        runs.clear()
        sum(x.square().mean() for x in built(images).features).backward()
        assert len(runs) == expected
        gradients.append([p.grad.clone() for p in built.parameters()])
    assert_close(*gradients)


def test_stochastic_depth_drops_images_not_windows():
    built = model(body=body(drop_path=0.5), mask_padding=True).train()
    x = torch.randn(1, 24, 32)
    outcomes = {torch.equal(built.body.blocks[0].drop_path(x), torch.zeros_like(x)) for _ in range(20)}
    assert outcomes == {True, False}
    tokens = built.run_body(built.body, torch.randn(2, 3, 64, 96), pixel_mask=torch.ones(2, 4, 6, dtype=torch.bool))
    assert tokens[0].shape == (2, 24, 32)


def test_saved_weights_give_the_same_maps(tmp_path):
    built, images = model("rope_mixed_ape"), torch.randn(1, 3, 70, 101)
    save_file(built.state_dict(), tmp_path / "backbone.safetensors")
    again = model("rope_mixed_ape")
    again.load_state_dict(load_file(tmp_path / "backbone.safetensors"))
    for first, second in zip(built(images).features, again(images).features, strict=True):
        assert torch.equal(first, second)


def test_layers_learn_as_in_the_classifier_and_new_parts_as_its_head():
    built = model("rope_mixed_ape")
    groups = parameter_groups(built, lr=1.0, weight_decay=0.1, layer_decay=0.5)
    scale = {name: (group["lr_scale"], group["weight_decay"]) for group in groups for name in group["names"]}
    assert scale["body.pos_embed"] == (0.5**5, 0)
    assert scale["body.blocks.1.attn.rope.freqs"] == (0.5**3, 0)
    assert scale["body.blocks.3.mlp.fc1.weight"] == (0.5, 0.1)
    assert scale["pyramid.levels.0.reduce.0.weight"] == (1, 0.1)


@pytest.mark.full  # test_vit.py compiles its body; no pyramid is compiled by default
@pytest.mark.usefixtures("unchecked")
def test_one_graph_serves_all_sizes():
    pyramid = PyramidConfig(scales=(1, 0.5), channels=None)
    counter, built = CompileCounter(), model("rope_mixed_ape", depth=2, mask_padding=True, pyramid=pyramid)
    compiled = torch.compile(built, fullgraph=True, dynamic=True, backend=counter)
    with torch.no_grad():
        for height, width in [(64, 96), (70, 101), (96, 96)]:
            images, sizes = torch.randn(2, 3, height, width), torch.tensor([[height, width], [20, 30]])
            found, expected = compiled(images, sizes), built(images, sizes)
            assert_close(found.features, expected.features, rtol=1e-4, atol=1e-4)
    assert counter.frame_count == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 0}, "got window=0; expected a side of at least 1 token"),
        ({"global_attn_indexes": (4,)}, r"got global_attn_indexes=\(4,\); expected blocks from 0 to 3"),
        ({"out_indices": (-1,)}, r"got out_indices=\(-1,\); expected blocks from 0 to 3"),
        ({"out_indices": (1, 3)}, r"got out_indices=\(1, 3\) for 4 levels; expected one block, or 4 in order"),
        (
            {"out_indices": (0, 1, 3, 3)},
            r"got out_indices=\(0, 1, 3, 3\) for 4 levels; expected one block, or 4 in order",
        ),
        ({"out_indices": (3, 2, 1, 0)}, "or 4 in order"),
        ({"out_indices": ()}, "expected one block"),
        ({"out_indices": (1,)}, r"those after the last would be unused: end with 3"),
        ({"body": body(patch_size=14, img_size=(56, 56))}, r"with patches of 14; the strides are not whole pixels"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_configs_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        model(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scales": (1, 2)}, r"got scales=\(1.0, 2.0\); expected some of"),
        ({"scales": ()}, "expected some of"),
        ({"scales": (3,)}, "expected some of"),
        ({"channels": 0}, "got channels=0; expected at least 1, or None"),
        ({"norm": "group"}, "got norm='group'; expected layer or batch"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_pyramids_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        PyramidConfig(**changes)


@pytest.mark.parametrize(
    ("shape", "sizes", "message"),
    [
        ((1, 1, 64, 64), None, r"images of shape \(1, 1, 64, 64\); expected \(B, 3, H, W\)"),
        ((1, 3, 0, 64), None, r"images of shape \(1, 3, 0, 64\)"),
        ((2, 3, 64, 64), torch.tensor([[64, 64]]), r"sizes of shape \(1, 2\) for 2 images"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_images_that_do_not_fit_are_refused(shape, sizes, message):
    with pytest.raises(ValueError, match=message):
        model()(torch.randn(shape), sizes)


def test_the_body_has_neither_prefix_nor_head():
    built = model(body=body(class_token=True, num_registers=2))
    assert built.body.num_prefix_tokens == 0
    assert isinstance(built.body.head, nn.Identity)
    assert isinstance(built.body.norm, nn.Identity)
