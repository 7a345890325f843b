"""ViTDet's decomposed bias, against a loop over every query and key."""

import math

import pytest
import torch
from torch.testing import assert_close

from ropevit.models import ViT, ViTConfig, parameter_groups
from ropevit.models.dense import DenseViT, DenseViTConfig, PyramidConfig
from ropevit.models.layers import Attention
from ropevit.models.vit.relative import DecomposedRelPosBias
from ropevit.models.window_partition import WindowPartition, attend_in_windows
from ropevit.rope import axial_frequencies, grid_positions, rotate
from ropevit.weights import load_dense_weights

SIDE, WIDTH, HEADS = 4, 16, 2


def biased_attention() -> Attention:
    attention = Attention(WIDTH, HEADS)
    attention.relative = DecomposedRelPosBias(SIDE, WIDTH // HEADS)
    for table in attention.relative.parameters():
        torch.nn.init.normal_(table)
    return attention


def vector(table, difference, side):
    """The vector of a difference on an axis so long, from the table that was learned for SIDE, linearly in between."""
    place = (difference + side - 1 + 0.5) * len(table) / (2 * side - 1) - 0.5
    place = min(max(place, 0), len(table) - 1)
    below = math.floor(place)
    above = min(below + 1, len(table) - 1)
    return table[below] * (1 - place + below) + table[above] * (place - below)


def by_hand(attention, x, h, w, frequencies=None, hidden=()):
    """One image: every score by itself; queries for the bias are not rotated."""
    packed = attention.qkv(x[0]).unflatten(1, (3, HEADS, -1))
    plain, k, v = (part.transpose(0, 1) for part in packed.unbind(1))
    q = plain
    if frequencies is not None:
        q, k = rotate(plain, k, grid_positions(h, w), frequencies)
    scores = torch.empty(HEADS, h * w, h * w)
    for i in range(h * w):
        for j in range(h * w):
            bias = vector(attention.relative.rows, i // w - j // w, h) + vector(
                attention.relative.columns, i % w - j % w, w
            )
            scores[:, i, j] = (q[:, i] * k[:, j]).sum(-1) / math.sqrt(WIDTH / HEADS) + plain[:, i] @ bias
            if j in hidden:
                scores[:, i, j] = -torch.inf
    return attention.proj((scores.softmax(-1) @ v).transpose(0, 1).flatten(1))[None]


@pytest.mark.parametrize(("h", "w"), [(SIDE, SIDE), (2, 3), (6, 1), (3, 7)])
@pytest.mark.parametrize("rotary", [False, True])
def test_it_is_what_a_loop_over_queries_and_keys_gives(h, w, rotary):
    attention, x = biased_attention(), torch.randn(1, h * w, WIDTH)
    frequencies = axial_frequencies(WIDTH // HEADS) if rotary else None
    found = attention(x, grid_positions(h, w), frequencies, None, (h, w))
    assert_close(found, by_hand(attention, x, h, w, frequencies), rtol=1e-4, atol=1e-5)


def test_hidden_keys_stay_hidden():
    attention, x = biased_attention(), torch.randn(1, 6, WIDTH)
    mask = torch.tensor([True, True, False, True, False, True]).expand(1, 1, 6, 6)
    found = attention(x, grid_positions(2, 3), None, mask, (2, 3))
    assert_close(found, by_hand(attention, x, 2, 3, hidden=(2, 4)), rtol=1e-4, atol=1e-5)


def test_windows_take_the_grid_of_a_window():
    attention, x = biased_attention(), torch.randn(1, 16, WIDTH)
    found = attend_in_windows(WindowPartition(2, 8, SIDE), attention, x, None).unflatten(1, (2, 8))
    padded = torch.zeros(1, SIDE, SIDE, WIDTH)
    padded[:, :2] = x.unflatten(1, (2, 8))[:, :, 4:]
    expected = by_hand(attention, padded.flatten(1, 2), SIDE, SIDE).unflatten(1, (SIDE, SIDE))
    assert_close(found[:, :, 4:], expected[:, :2], rtol=1e-4, atol=1e-5)


def small(position="ape", **changes) -> DenseViT:
    size = {"width": 32, "depth": 4, "heads": 2, "img_size": (64, 64)}
    body, pyramid = ViTConfig(position=position, **size), PyramidConfig(channels=8)
    return DenseViT(DenseViTConfig(body=body, window=3, pyramid=pyramid, global_attn_indexes=(3,), **changes)).eval()


def test_tables_are_those_of_vitdet_and_start_at_zero():
    built = small(relative_bias=True)
    shapes = [tuple(block.attn.relative.rows.shape) for block in built.body.blocks]
    assert shapes == [(5, 16)] * 3 + [(127, 16)]
    without = small()
    missing, unexpected = without.load_state_dict(built.state_dict(), strict=False)
    assert not missing
    assert {name.split(".attn.")[1] for name in unexpected} == {"relative.rows", "relative.columns"}
    images = torch.randn(2, 3, 70, 101)
    assert_close(built(images).features, without(images).features, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("position", ["ape", "rope_mixed"])
@pytest.mark.parametrize("mask_padding", [False, True])
def test_they_learn_without_decay_with_their_block_also_recomputed(position, mask_padding):
    built = small(position, relative_bias=True, mask_padding=mask_padding).train()
    built.set_grad_checkpointing()
    built(torch.randn(2, 3, 70, 101), torch.tensor([[70, 101], [33, 40]])).features[0].square().sum().backward()
    names = [name for name, _ in built.named_parameters() if ".relative." in name]
    assert len(names) == 8
    assert all(built.get_parameter(name).grad.any() for name in names)
    groups = parameter_groups(built, lr=1.0, weight_decay=0.1, layer_decay=0.5)
    scale = {name: (group["lr_scale"], group["weight_decay"]) for group in groups for name in group["names"]}
    assert scale["body.blocks.1.attn.relative.rows"] == (0.5**3, 0)


def test_a_classifier_leaves_them_as_they_are_and_the_report_says_so():
    built, classifier = (
        small(relative_bias=True),
        ViT(ViTConfig(width=32, depth=4, heads=2, img_size=(64, 64), position="ape")),
    )
    torch.nn.init.ones_(built.body.blocks[3].attn.relative.rows)
    report = load_dense_weights(built, classifier.state_dict())
    assert built.body.blocks[3].attn.relative.rows.eq(1).all()
    assert "body.blocks.3.attn.relative.rows" in report.new
    assert torch.equal(built.body.blocks[3].attn.qkv.weight, classifier.blocks[3].attn.qkv.weight)
