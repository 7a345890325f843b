"""Models with a distance bias: every layer, packing, windows, compilation, checkpoints."""

import math

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.nn import functional as F
from torch.testing import assert_close

import ropevit
from marks import by_default
from ropevit.models import SWIN_EMBEDDINGS, VIT_EMBEDDINGS, Swin, SwinConfig, ViT, ViTConfig, inflate, parameter_groups
from ropevit.models.dense import DenseViT, DenseViTConfig
from ropevit.models.memory import LiveStorages
from ropevit.models.positions import describe_positions, is_published, position_label, position_style
from ropevit.rope import DISTANCE_BIAS_TYPES, grid_positions, register_distance_bias_type, rotate
from ropevit.weights import WeightsError, load_weights

ALONE = [name for name, row in DISTANCE_BIAS_TYPES.items() if not row.combines_with_rope]
NAMES = [*ALONE, "rope_axial_decay", "rope_mixed_decay", "rope_mixed_gaussian"]


def make(position, **changes) -> ViT:
    """A small model in which everything matters: no weight is near 0."""
    small = {"width": 32, "depth": 2, "heads": 4, "patch_size": 4, "img_size": (16, 16), "num_classes": 5}
    model = ViT(ViTConfig(position=position, **(small | changes))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def test_names_are_the_rows_alone_or_behind_every_rotation():
    assert set(ALONE) == {"alibi", "alibi_learned", "log_cpb", "fire", "lookhere"}
    assert set(NAMES) <= set(VIT_EMBEDDINGS)
    assert "rope_golden_gaussian" in VIT_EMBEDDINGS
    assert set(VIT_EMBEDDINGS) & {"decay", "gaussian", "rope_axial_alibi", "alibi_ape"} == set()
    assert "lookhere" not in SWIN_EMBEDDINGS
    assert {"log_cpb", "rope_mixed_decay"} <= set(SWIN_EMBEDDINGS)
    assert not any(map(is_published, NAMES))
    labels = ("ALiBi", "RoPE-Mixed + distance decay")
    assert tuple(map(position_label, ("alibi", "rope_mixed_decay"))) == labels
    assert len({position_style(name) for name in [*NAMES, "rope_mixed", "rope_mixed_ape", "ape"]}) == len(NAMES) + 3
    assert "lookhere" in describe_positions()


@pytest.mark.parametrize("position", NAMES)
def test_a_layer_is_attention_with_the_bias_written_out(position):
    model = make(position, num_registers=1)
    x, positions = model.embed(torch.randn(2, 3, 12, 20))
    layer, shared = model.blocks[1].attn, None if model.rope is None else model.rope.frequencies()
    q, k, v = layer.qkv(x).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4)
    if "rope" in position:
        q, k = rotate(q, k, positions, shared if layer.rope is None else layer.rope.freqs, 2)
    scores = q @ k.transpose(-1, -2) / math.sqrt(8)
    scores[:, :, 2:, 2:] += layer.distance(positions)
    expected = layer.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    assert_close(layer(x, positions, shared), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("position", ["alibi", "fire", "rope_mixed_gaussian"])
def test_without_prefix_all_patches_are_seen_as_shifted(position):
    model = make(position, class_token=False, pooling="avg")
    x, positions = model.embed(torch.randn(1, 3, 12, 20))
    moved = positions + torch.tensor([40.0, -3.0])
    assert_close(model.encode(x, moved), model.encode(x, positions), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("position", ["alibi_learned", "fire", "lookhere", "rope_axial_decay", "rope_mixed_gaussian"])
def test_gradients_of_a_packed_batch_are_those_of_each_image_alone(position):
    model = make(position, num_registers=1).double()
    images = [torch.randn(3, 4 * h, 4 * w, dtype=torch.float64) for h, w in ((3, 5), (1, 7), (4, 4))]
    names, parameters = zip(*model.named_parameters(), strict=True)
    weight = torch.randn(len(images), 5, dtype=torch.float64)
    packed = torch.autograd.grad((model.forward_packed(model.pack(images)) * weight).sum(), parameters)
    alone = torch.autograd.grad((torch.cat([model(image[None]) for image in images]) * weight).sum(), parameters)
    for name, ours, theirs in zip(names, packed, alone, strict=True):
        assert_close(ours, theirs, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("position", by_default(["alibi", "fire", "rope_mixed_decay", "rope_mixed_gaussian"], NAMES))
def test_one_graph_of_a_bias_serves_all_grids(position):
    bias, counter = make(position, depth=1).blocks[0].attn.distance, CompileCounter()
    torch._dynamo.reset()
    compiled = torch.compile(bias, backend=counter, fullgraph=True, dynamic=True)
    with torch.no_grad():
        for h, w in ((3, 5), (7, 4), (16, 10)):
            assert_close(compiled(grid_positions(h, w)), bias(grid_positions(h, w)), rtol=1e-4, atol=1e-4)
    assert counter.frame_count == 1


@pytest.mark.full  # by default each bias is compiled by itself, above, and a model in test_vit.py
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("position", NAMES)
def test_one_graph_serves_all_sizes(position):
    model, counter = make(position, depth=1), CompileCounter()
    torch._dynamo.reset()
    compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=True)
    with torch.no_grad():
        for h, w in ((12, 20), (28, 16), (64, 40)):
            images = torch.randn(3, 3, h, w)
            assert_close(compiled(images), model(images), rtol=1e-4, atol=1e-4)
    assert counter.frame_count == 1


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("position", by_default([], ["alibi", "rope_mixed_decay", "rope_mixed_gaussian"]))
def test_one_exported_program_serves_all_sizes(position):
    model, side = make(position, depth=1), torch.export.Dim.DYNAMIC
    program = torch.export.export(model, (torch.randn(2, 3, 12, 20),), dynamic_shapes=({0: side, 2: side, 3: side},))
    images = torch.randn(5, 3, 40, 24)
    assert_close(program.module()(images), model(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("position", NAMES)
def test_windows_see_distances_inside_them_and_global_blocks_all(position):
    body = ViTConfig(position=position, width=32, depth=2, heads=4, patch_size=4, img_size=(16, 16))
    model = DenseViT(DenseViTConfig(body=body, window=3, global_attn_indexes=(1,))).eval()
    x, shared = torch.randn(1, 36, 32), None if model.body.rope is None else model.body.rope.frequencies()
    from ropevit.models.window_partition import WindowPartition, attend_in_windows

    layer, places = model.body.blocks[0].attn, grid_positions(3, 3)
    found = attend_in_windows(WindowPartition(6, 6, 3), layer, x, shared)
    corner = x.unflatten(1, (6, 6))[:, 3:, 3:].flatten(1, 2)
    assert_close(found.unflatten(1, (6, 6))[:, 3:, 3:].flatten(1, 2), layer(corner, places, shared))


def test_a_backbone_has_one_bias():
    body = ViTConfig(position="alibi", width=32, depth=2, heads=4)
    with pytest.raises(ValueError, match=r"relative_bias=True for alibi"):
        DenseViTConfig(body=body, relative_bias=True)


@pytest.mark.parametrize("position", ["log_cpb", "rope_mixed_decay", "rope_mixed_gaussian"])
def test_checkpointing_changes_nothing(position):
    model, images = make(position).train(), torch.randn(2, 3, 12, 20)
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        gradients.append(torch.autograd.grad(model(images).square().sum(), list(model.parameters())))
    for plain, recomputed in zip(*gradients, strict=True):
        assert_close(plain, recomputed)


@pytest.mark.parametrize("position", ["alibi_learned", "log_cpb", "fire", "rope_axial_gaussian"])
def test_no_parameter_of_a_bias_is_decayed(position):
    model = make(position)
    own = {name for name, _ in model.named_parameters() if ".distance." in name}
    decayed = {name for group in parameter_groups(model, 1, 0.1) if group["weight_decay"] for name in group["names"]}
    assert own
    assert own <= model.no_weight_decay()
    assert not own & decayed


@pytest.mark.parametrize("position", NAMES)
def test_a_reset_model_starts_as_a_new_one(position):
    model = make(position)
    model.reset_parameters()
    new = ViT(model.config)
    for name, parameter in model.named_parameters():
        if "raw_slope" in name or "curvature" in name:
            assert_close(parameter, new.get_parameter(name))
        elif ".distance." in name:
            assert parameter.abs().max() <= 1  # drawn anew: 0.3 of noise more would pass 1 somewhere
    assert sum(".distance." in name for name, _ in model.named_parameters()) == 2 * {
        "log_cpb": 3, "fire": 4, "alibi": 0, "lookhere": 0
    }.get(position, 1)  # fmt: skip


def test_a_file_without_a_config_does_not_fill_a_model_with_fixed_slopes(tmp_path):
    torch.save(make("none").state_dict(), tmp_path / "plain.pth")
    with pytest.raises(WeightsError, match="assumed to have no distance bias"):
        load_weights(make("alibi"), tmp_path / "plain.pth")
    load_weights(make("none"), tmp_path / "plain.pth")


def test_a_file_of_another_bias_is_refused(tmp_path):
    ropevit.save_model(tmp_path / "model.safetensors", make("alibi"))
    with pytest.raises(WeightsError, match="position: 'alibi' instead of 'lookhere'"):
        load_weights(make("lookhere"), tmp_path / "model.safetensors")


def test_scaling_changes_the_rotation_and_not_the_distances():
    plain, scaled = (make("rope_mixed_decay", class_token=False, pooling="avg") for _ in range(2))
    scaled.load_state_dict(plain.state_dict())
    ropevit.models.set_scaling(scaled, "pi", (3, 3))
    x, positions = torch.randn(1, 36, 32), grid_positions(6, 6)
    layer = plain.blocks[0].attn
    q, k, v = layer.qkv(x).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4)
    q, k = rotate(q, k, positions, layer.rope.freqs / 2)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=layer.distance(positions))
    expected = layer.proj(mixed.transpose(1, 2).flatten(2))
    assert_close(scaled.blocks[0].attn(x, positions), expected, rtol=1e-4, atol=1e-4)
    seen = []
    scaled.blocks[0].attn.distance.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    ropevit.models.set_scaling(scaled, "jitter(shift=1)", (3, 3))
    scaled.blocks[0].attn(x, positions, jitter=torch.tensor([[0.3, 0.2], [1.0, 1.0]]))
    assert torch.equal(seen[0], positions)  # whole numbers, which the channels of half precision need
    with pytest.raises(ValueError, match="has no RoPE"):
        ViTConfig(position="alibi", width=32, depth=1, heads=4, scaling="pi")


@pytest.mark.parametrize("position", ["rope_mixed_gaussian", "rope_mixed_decay", "fire"])
def test_mixed_precision_stays_near_single_precision(position):
    model, images = make(position, layer_scale=0.1), torch.randn(2, 3, 40, 40)
    with torch.no_grad():
        exact = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model(images).float()
    assert (rounded - exact).norm() < 0.05 * exact.norm()


def test_memory_of_the_gaussian_decay_is_that_of_the_rotation():
    peaks = {}
    for position in ("rope_mixed", "rope_mixed_gaussian", "rope_mixed_decay"):
        model, images = make(position, width=64, depth=1), torch.randn(1, 3, 96, 96)
        with LiveStorages() as live, torch.no_grad():
            model(images)
        peaks[position] = live.peak
    assert peaks["rope_mixed_gaussian"] < 1.5 * peaks["rope_mixed"]
    assert peaks["rope_mixed_decay"] > 4 * peaks["rope_mixed"]


@pytest.mark.parametrize("position", ["alibi", "log_cpb", "rope_axial_decay", "rope_axial_gaussian"])
def test_a_swin_adds_the_bias_in_its_windows(position):
    config = SwinConfig(position=position, img_size=(32, 32), width=8, depths=(2, 1), heads=(2, 2), window_size=4)
    attention = Swin(config).layers[0].blocks[0].attn
    x, places = torch.randn(1, 4, 4, 8), grid_positions(4, 4)
    q, k, v = attention.qkv(x.flatten(1, 2)).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
    shared = Swin(config).layers[0].rope
    if shared is not None:
        q, k = rotate(q, k, places, shared.frequencies())
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attention.distance(places))
    expected = attention.proj(mixed.transpose(1, 2).flatten(2)).unflatten(1, (4, 4))
    found = attention(x, None if shared is None else shared.frequencies(), (0, 0))
    assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_videos_measure_distances_in_time_too():
    image = make("rope_mixed_decay", num_registers=1)
    video = inflate(image, frames=4, tubelet=2)
    frame = torch.randn(1, 3, 12, 20)
    still = frame.unsqueeze(2).expand(-1, -1, 2, -1, -1)
    assert_close(video(still), image(frame), rtol=1e-4, atol=1e-4)
    assert video(torch.randn(1, 3, 4, 12, 20)).shape == (1, 5)
    with pytest.raises(ValueError, match="has two axes"):
        make("lookhere", frames=4)


def test_a_row_of_ones_own_is_a_position_embedding_of_every_model():
    register_distance_bias_type("far", DISTANCE_BIAS_TYPES["alibi"])
    try:
        assert torch.equal(make("far").blocks[0].attn.distance(grid_positions(2, 2))[0, 0, 0, 1], torch.tensor(-0.25))
        assert "far" in SWIN_EMBEDDINGS
    finally:
        del DISTANCE_BIAS_TYPES["far"]
