import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.nn import functional as F
from torch.testing import assert_close

from marks import embeddings, in_turn
from ropevit.models import SWIN_EMBEDDINGS, Swin, SwinConfig, parameter_groups
from ropevit.models.dense import DenseSwin, DenseSwinConfig
from ropevit.models.swin.attention import WindowAttention
from ropevit.rope import grid_positions, rotate


def body(position="rope_mixed", **changes) -> SwinConfig:
    small = {"width": 8, "depths": (2, 2, 1), "heads": (1, 2, 4), "img_size": (64, 64), "window_size": 3}
    return SwinConfig(position=position, **(small | changes))


def model(position="rope_mixed", **changes) -> DenseSwin:
    """A backbone whose every weight is random, so that nothing hides behind a zero."""
    built = DenseSwin(DenseSwinConfig(**({"body": body(position)} | changes)))
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if not name.endswith("freqs"):
                parameter.normal_(mean=float("norm" in name and name.endswith("weight")), std=0.2)
    return built.eval()


@pytest.mark.parametrize(
    ("position", "height", "width"), in_turn(embeddings(SWIN_EMBEDDINGS), [(48, 96), (70, 101), (1, 33)])
)
def test_any_size_gives_maps_with_the_declared_strides_and_channels(position, height, width):
    built = model(position)
    maps, pixel_masks = built(torch.randn(2, 3, height, width))
    assert built.strides == (4, 8, 16)
    for x, real, stride, channels in zip(maps, pixel_masks, built.strides, built.channels, strict=True):
        assert x.shape == (2, channels, -(-height // stride), -(-width // stride))
        assert real.all()


def test_valid_says_which_cells_begin_in_their_image():
    _, pixel_masks = model()(torch.randn(2, 3, 64, 64), torch.tensor([[33, 16], [64, 64]]))
    assert [tuple(real[0].nonzero().amax(0) + 1) for real in pixel_masks] == [(9, 4), (5, 2), (3, 1)]
    assert all(real[1].all() for real in pixel_masks)


@pytest.mark.parametrize("position", embeddings(SWIN_EMBEDDINGS))
def test_it_is_the_classifiers_maps_with_norms_where_padding_is_hidden(position):
    built, plain = model(position, mask_padding=True), Swin(body(position, num_classes=0))
    plain.load_state_dict(built.body.state_dict(), strict=False)
    images = torch.randn(2, 3, 70, 101)
    maps = plain.eval().forward_intermediates(images)
    expected = [norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) for norm, x in zip(built.norms, maps, strict=True)]
    assert_close(built(images).features, expected, rtol=0, atol=0)


@pytest.mark.parametrize("shift", [(0, 0), (1, 1)])
def test_seen_padding_is_zeros_that_take_part(shift):
    """Written out: a map of whole windows hides nothing, so pad it first and cut it afterwards."""
    attention = WindowAttention(16, 2, 3, bias=True)
    nn.init.normal_(attention.relative_position_bias_table)
    x = torch.randn(2, 7, 5, 16)
    expected = attention(F.pad(x, (0, 0, 0, 1, 0, 2)), None, shift)[:, :7, :5]
    hidden = attention(x, None, shift)
    attention.attends_to_padding = True
    assert_close(attention(x, None, shift), expected)
    assert not torch.allclose(hidden, expected, atol=1e-3)


def test_padding_is_seen_unless_masked():
    seen, masked = model(), model(mask_padding=True)
    masked.load_state_dict(seen.state_dict())
    whole, odd = torch.randn(1, 3, 48, 96), torch.randn(1, 3, 44, 96)
    assert_close(seen(whole).features[0], masked(whole).features[0], rtol=0, atol=0)
    assert (seen(odd).features[0] - masked(odd).features[0]).abs().max() > 1e-2


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("h", "w"), [(3, 9), (4, 4), (1, 2), (8, 4), (7, 6)])
def test_every_second_block_is_shifted_like_those_of_the_published_detectors(h, w, biased):
    """Written out: fill the map to whole windows, roll it, mark nine regions of it, attend in each window."""
    built = model(body=body("rope_mixed_rpb" if biased else "rope_mixed", depths=(2,), heads=(2,), window_size=4))
    plain, shifted = built.body.layers[0].blocks
    x, window, step = torch.randn(2, h, w, 8), 4, 2
    seen = []
    shifted.attn.register_forward_hook(lambda _, given, output: seen.append((given[0], output)))
    plain_x = plain(x, None)
    shifted(plain_x, None)
    ((given, found),) = seen
    rows, columns = -(-h // window) * window, -(-w // window) * window
    rolled = F.pad(given, (0, 0, 0, columns - w, 0, rows - h)).roll((-step, -step), (1, 2))
    number = torch.zeros(rows, columns, dtype=torch.long)
    for count, (down, right) in enumerate(
        (down, right)
        for down in (slice(0, -window), slice(-window, -step), slice(-step, None))
        for right in (slice(0, -window), slice(-window, -step), slice(-step, None))
    ):
        number[down, right] = count
    expected = torch.empty_like(rolled)
    positions, attn = grid_positions(window, window), shifted.attn
    for top in range(0, rows, window):
        for left in range(0, columns, window):
            inside = (slice(top, top + window), slice(left, left + window))
            tokens, region = rolled[:, *inside].flatten(1, 2), number[inside].flatten()
            q, k, v = attn.qkv(tokens).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
            q, k = rotate(q, k, positions, attn.rope.freqs)
            add = torch.zeros(16, 16).masked_fill(region[:, None] != region, float("-inf"))
            bias = attn.bias(x.device)
            add = add if bias is None else add + bias
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=add.expand(2, 2, -1, -1))
            expected[:, *inside] = attn.proj(mixed.transpose(1, 2).flatten(2)).unflatten(1, (window, window))
    assert_close(found, expected.roll((step, step), (1, 2))[:, :h, :w], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("position", embeddings(SWIN_EMBEDDINGS))
def test_masked_padding_gives_an_image_the_same_alone_and_in_any_batch(position):
    """Among them images so small that one window spans them, which is cut in four by the shift."""
    built, sizes = model(position, mask_padding=True), [(70, 101), (33, 20), (9, 130), (1, 1)]
    images, batch = [torch.randn(1, 3, *size) for size in sizes], torch.randn(5, 3, 106, 134)
    for own, image, (height, width) in zip(batch, images, sizes, strict=False):
        rows, columns = (-(-side // 4) * 4 for side in (height, width))
        own[:, :rows, :columns] = F.pad(image[0], (0, columns - width, 0, rows - height))  # the rest may be anything
    together = built(batch, torch.tensor([*sizes, (106, 134)]))
    for index, image in enumerate(images):
        for x, y, keep in zip(built(image).features, together.features, together.pixel_masks, strict=True):
            assert keep[index, : x.shape[2], : x.shape[3]].all()
            assert not y[index, :, ~keep[index]].any()
            assert_close(y[index, :, : x.shape[2], : x.shape[3]], x[0], rtol=1e-4, atol=1e-4)


def test_by_default_sizes_change_nothing_but_what_is_called_valid():
    built, batch = model("rope_mixed_rpb"), torch.randn(2, 3, 130, 190)
    told, untold = built(batch, torch.tensor([[70, 101], [130, 190]])), built(batch)
    assert all(torch.equal(x, y) for x, y in zip(told.features, untold.features, strict=True))
    assert not told.pixel_masks[0][0].all()


def test_what_pads_smaller_images_gets_no_gradient():
    built, images = model(mask_padding=True).train(), torch.randn(2, 3, 70, 101, requires_grad=True)
    maps = built(images, torch.tensor([[33, 52], [70, 101]]))
    sum(x[0].pow(3).sum() for x in maps.features).backward()
    assert images.grad[0, :, :33, :52].abs().amax(0).all()
    assert not images.grad[0, :, 36:].any()
    assert not images.grad[0, :, :, 52:].any()


def test_the_triton_kernel_is_refused_what_it_cannot_hide():
    built = model(mask_padding=True)
    built.body.layers[0].blocks[0].attn.backend = "triton"
    with pytest.raises(ValueError, match="cannot mask the padding of images in a batch; choose backend='auto'"):
        built(torch.randn(1, 3, 64, 64), torch.tensor([[40, 64]]))


def test_stages_are_shown_as_asked_for():
    every, some = model(), model(out_indices=(1, 2))
    some.load_state_dict(
        {
            name.replace("norms.1", "norms.0").replace("norms.2", "norms.1"): value
            for name, value in every.state_dict().items()
            if not name.startswith("norms.0")
        }
    )
    images = torch.randn(1, 3, 70, 101)
    assert (some.strides, some.channels) == ((8, 16), (16, 32))
    assert_close(some(images).features, every(images).features[1:], rtol=0, atol=0)


@pytest.mark.parametrize("position", embeddings(SWIN_EMBEDDINGS))
def test_every_parameter_has_a_gradient(position):
    built = model(position).train()
    sum(x.pow(3).sum() for x in built(torch.randn(2, 3, 70, 101)).features).backward()
    assert [name for name, p in built.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_checkpointing_runs_each_block_twice_and_changes_nothing():
    built, images, gradients, runs = model().train(), torch.randn(2, 3, 70, 101), [], []
    for stage in built.body.layers:
        for block in stage.blocks:
            block.norm2.register_forward_hook(lambda *_: runs.append(1))
    for enable, expected in ((False, 5), (True, 10)):
        built.set_grad_checkpointing(enable)
        built.zero_grad()
        runs.clear()
        sum(x.pow(3).mean() for x in built(images).features).backward()
        assert len(runs) == expected
        gradients.append([p.grad.clone() for p in built.parameters()])
    assert_close(*gradients)


def test_saved_weights_give_the_same_maps(tmp_path):
    built, images = model("rope_mixed_rpb"), torch.randn(1, 3, 70, 101)
    save_file(built.state_dict(), tmp_path / "backbone.safetensors")
    again = model("rope_mixed_rpb")
    again.load_state_dict(load_file(tmp_path / "backbone.safetensors"))
    for first, second in zip(built(images).features, again(images).features, strict=True):
        assert torch.equal(first, second)


def test_layers_learn_as_in_the_classifier_and_new_parts_as_its_head():
    groups = parameter_groups(model("rope_mixed_rpb"), lr=1.0, weight_decay=0.1, layer_decay=0.5)
    scale = {name: (group["lr_scale"], group["weight_decay"]) for group in groups for name in group["names"]}
    assert scale["body.layers.1.blocks.0.attn.relative_position_bias_table"] == (0.5**3, 0)
    assert scale["body.layers.0.blocks.1.attn.rope.freqs"] == (0.5**4, 0)
    assert scale["norms.0.weight"] == (1, 0)


@pytest.mark.full  # by default a Swin is compiled in test_swin.py
@pytest.mark.parametrize(("mask_padding", "depth"), [(True, 1), (False, 2), (True, 2)])
@pytest.mark.usefixtures("unchecked")
def test_one_graph_serves_all_sizes(mask_padding, depth):
    counter = CompileCounter()
    built = model(body=body("rope_mixed_rpb", depths=(depth,), heads=(2,), width=16), mask_padding=mask_padding)
    compiled = torch.compile(built, fullgraph=True, dynamic=True, backend=counter)
    with torch.no_grad():
        for height, width in [(64, 48), (33, 65), (80, 96), (50, 37)]:
            images, sizes = torch.randn(2, 3, height, width), torch.tensor([[height, width], [20, 30]])
            assert_close(compiled(images, sizes).features, built(images, sizes).features)
    assert counter.frame_count == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out_indices": (0, 3)}, r"got out_indices=\(0, 3\); expected some of 0 to 2, in order, each once"),
        ({"out_indices": (2, 1)}, "in order"),
        ({"out_indices": ()}, "expected some of"),
        ({"out_indices": (0, 1)}, "stages after the last map would be unused: end with 2"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_configs_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        model(**changes)


@pytest.mark.usefixtures("unchecked")
def test_images_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"images of shape \(1, 1, 64, 64\); expected \(B, 3, H, W\)"):
        model()(torch.randn(1, 1, 64, 64))
    with pytest.raises(ValueError, match=r"sizes of shape \(2,\) for 1 images"):
        model()(torch.randn(1, 3, 64, 64), torch.tensor([64, 64]))
