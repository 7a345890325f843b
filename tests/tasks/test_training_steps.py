"""Steps of small detectors and segmenters: mixed precision, gradients of everything, recomputed blocks."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from marks import in_turn
from ropevit.tasks.detect.config import DinoConfig
from ropevit.tasks.detect.criterion import dino_losses
from ropevit.tasks.detect.model import Detector, DetectorConfig
from ropevit.tasks.segment.criterion import mask_losses
from ropevit.tasks.segment.model import build_segmenter
from ropevit.tasks.segment.upernet import upernet_losses
from tasks.detect.small import objects
from tasks.segment.small import small_segmenter

DINO = DinoConfig(queries=8, width=64, heads=2, mlp_width=32, encoder_layers=1, decoder_layers=2, denoising=4)
VIT = {"model": "deit_tiny", "width": 32, "depth": 4, "heads": 2, "init": None}
SWIN = {"model": "swin_tiny", "width": 24, "depth": None, "heads": None, "init": None}
VITS = ("none", "ape", "rope_axial", "rope_mixed", "rope_axial_ape", "rope_mixed_ape")
SWINS = ("rpb", "rope_axial", "rope_mixed", "rope_axial_rpb", "rope_mixed_rpb")
TARGETS = [objects(1, 2, 3), objects(4)]
KINDS = ("dino", "upernet", "mask2former")


def model_of(kind, position="rope_mixed", body="deit_tiny"):
    """Build a model, every weight moved away from where it starts, as heads start with zeros."""
    size = VIT if body == "deit_tiny" else SWIN
    if kind == "dino":
        model = Detector(DetectorConfig(position=position, dino=DINO, **size), 5)
    else:
        model = build_segmenter(small_segmenter(kind, position=position, **size), 5)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    return model.train()


def losses_of(kind, model, seed=1):
    """Return the losses of two images with objects, or labels."""
    torch.manual_seed(seed)
    images, labels = torch.randn(2, 3, 64, 96), torch.randint(0, 5, (2, 64, 96))
    if kind == "dino":
        return dino_losses(model(images, [(64, 96)] * 2, TARGETS), TARGETS, replace(model.dino.config, denoising=4))
    return (upernet_losses if kind == "upernet" else mask_losses)(model(images), labels, model.config)


def total(losses):
    return torch.stack(list(losses.values())).sum()


@pytest.mark.parametrize("kind", ["dino", "mask2former"])
def test_mixed_precision_samples_in_float32(kind, monkeypatch):
    torch.manual_seed(0)
    model, seen, sample = model_of(kind), [], F.grid_sample
    exact = total(losses_of(kind, model))

    def watched(values, grid, *args, **kwargs):
        seen.append((values.dtype, grid.dtype))
        return sample(values, grid, *args, **kwargs)

    monkeypatch.setattr(F, "grid_sample", watched)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = total(losses_of(kind, model))
    mixed.backward()
    assert len(seen) > 4
    assert set(seen) == {(torch.float32, torch.float32)}
    assert mixed.item() == pytest.approx(exact.item(), rel=0.03)
    assert all(weight.grad.isfinite().all() for weight in model.parameters())


def test_dino_attends_by_scaled_dot_product_attention_alone(monkeypatch):
    model, calls, attend = model_of("dino"), [], F.scaled_dot_product_attention

    def watched(q, *args, **kwargs):
        calls.append(q.shape[1])
        return attend(q, *args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    losses_of("dino", model)
    assert len(calls) == VIT["depth"] + DINO.decoder_layers
    theirs = [module for module in model.dino.modules() if hasattr(module, "scaling")]
    assert theirs
    assert {module.config._attn_implementation for module in theirs} == {"sdpa"}


def test_mask2formers_queries_attend_to_the_maps_by_scaled_dot_product_attention(monkeypatch):
    model, calls, attend = model_of("mask2former").eval(), [], F.scaled_dot_product_attention
    images, layers = torch.randn(1, 3, 64, 96), model.decoder.decoder.layers

    def watched(*args, **kwargs):
        calls.append(len(args))
        return attend(*args, **kwargs)

    found = model(images)[-1]
    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    model(images)
    assert len(calls) == VIT["depth"] + len(layers)
    for layer in layers:
        layer.cross_attn._forward_pre_hooks.clear()
        layer.cross_attn._forward_pre_hooks_with_kwargs.clear()
    plain = model(images)[-1]
    assert len(calls) == 2 * VIT["depth"] + len(layers)
    torch.testing.assert_close((found.classes, found.masks), (plain.classes, plain.masks), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "body", "position"),
    in_turn(KINDS, [*(("deit_tiny", position) for position in VITS), *(("swin_tiny", position) for position in SWINS)]),
)
def test_every_weight_learns_with_every_position(kind, body, position):
    torch.manual_seed(0)
    model = model_of(kind, position, body)
    total(losses_of(kind, model)).backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []
    assert all(weight.grad.isfinite().all() for weight in model.parameters())
    position_weights = [n for n, _ in model.named_parameters() if "pos" in n or "freq" in n or "bias_table" in n]
    assert bool(position_weights) == (position not in ("none", "rope_axial"))
    assert all(model.get_parameter(name).grad.any() for name in position_weights)


@pytest.mark.parametrize("kind", KINDS)
def test_recomputing_blocks_changes_no_loss_and_no_gradient(kind):
    torch.manual_seed(0)
    model, found = model_of(kind), []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        losses = losses_of(kind, model)
        total(losses).backward()
        found.append((losses, {name: weight.grad.clone() for name, weight in model.named_parameters()}))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)
