"""Detectors and segmenters on models of other authors: frozen or fine-tuned, with the pixels of their weights."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

import ropevit
from ropevit.cli import main
from ropevit.cli.train import read_config
from ropevit.data.tiny import make_tiny
from ropevit.tasks.dense.init_weights import init_model
from ropevit.tasks.detect.config import DinoConfig
from ropevit.tasks.detect.criterion import dino_losses
from ropevit.tasks.detect.model import Detector, DetectorConfig
from ropevit.tasks.detect.recipes import RECIPES as DETECTORS
from ropevit.tasks.segment.config import LinearConfig
from ropevit.tasks.segment.model import SEGMENTER, SegmenterConfig, build_segmenter, load_segmenter
from ropevit.tasks.segment.recipes import RECIPES as SEGMENTERS
from ropevit.tasks.training.optim import make_optimizer
from tasks.detect.small import objects

SIZE = {"width": 32, "depth": 4, "heads": 2}
NAMES = {"dinov3_vits16": "vit_small_patch16_dinov3_qkvb", "eva02_tiny_224": "eva02_tiny_patch14_224"}
POSITIONS = {"dinov3_vits16": "rope_axial", "eva02_tiny_224": "rope_axial_ape"}
CLIP = [0.48145466, 0.4578275, 0.40821073]


def small_classifier(folder, model):
    """Save a small classifier as a file that `--init-from` takes."""
    classifier = ropevit.create_model(NAMES[model], num_classes=0, **SIZE).eval()
    return classifier, str(ropevit.save_model(folder / "classifier.safetensors", classifier))


def small_segmenter(model="dinov3_vits16", **changes):
    return SegmenterConfig(**({"model": model, "position": POSITIONS[model], "init": None} | SIZE | changes))


def test_a_linear_head_on_a_frozen_backbone_is_trained_from_the_command_line(tmp_path):
    classifier, file = small_classifier(tmp_path, "eva02_tiny_224")
    make_tiny("ade", tmp_path / "tiny", 3, 2)
    size = [word for name, value in SIZE.items() for word in (f"--{name}", str(value))]
    crops = ["--crop-size", "56", "--short", "56", "--long", "112", "--test-short", "56", "--test-long", "112"]
    run = ["--data", str(tmp_path / "tiny"), "--out", str(tmp_path / "run"), "--device", "cpu", "--workers", "0"]
    recipe = ["segment/linear_eva02_base", "--model", "eva02_tiny_224", "--init-from", file]
    main(["train", *recipe, *size, *crops, *run, "--batch-size", "2", "--max-steps", "2", "--warmup-steps", "0"])
    model, info = load_segmenter(tmp_path / "run" / "best.safetensors")
    assert info.metadata["mean"] == CLIP
    own = classifier.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in model.backbone.body.state_dict().items())
    assert model.norm.running_mean.abs().max() > 0
    assert model.classifier.bias.abs().max() > 0
    photo = str(next((tmp_path / "tiny" / "images" / "validation").glob("*.jpg")))
    main(["predict", photo, "--checkpoint", str(tmp_path / "run"), "--out", str(tmp_path / "found")])
    assert len([*(tmp_path / "found" / "labels").iterdir()]) == 1


@torch.no_grad()
def test_the_linear_head_takes_the_last_tokens_of_the_classifier(tmp_path):
    classifier, file = small_classifier(tmp_path, "dinov3_vits16")
    model = init_model(SEGMENTER, small_segmenter(head="linear", init=file), ["one", "two", "three"]).eval()
    images, norm = torch.randn(1, 3, 48, 80), model.norm
    norm.running_mean.normal_()
    (tokens,) = classifier.forward_intermediates(images, [3], norm=True)
    wanted = model.classifier(F.batch_norm(tokens, norm.running_mean, norm.running_var, norm.weight, norm.bias))
    torch.testing.assert_close(model(images), wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.logits(images), F.interpolate(model(images), scale_factor=16, mode="bilinear"))


@pytest.mark.parametrize("head", ["upernet", "mask2former"])
def test_other_heads_take_one_map_from_each_quarter(head):
    config = small_segmenter(head=head)
    with torch.device("meta"):
        backbone = build_segmenter(config, 3).backbone
    assert backbone.config.out_indices == (0, 1, 2, 3)
    assert (backbone.config.attends_everywhere, backbone.config.normalizes) == (True, True)
    assert backbone.body.num_prefix_tokens == 5


@pytest.mark.parametrize("model", ["dinov3_vits16", "eva02_tiny_224"])
def test_a_detector_leaves_a_frozen_backbone_as_it_is(model):
    sizes = {"queries": 12, "width": 32, "heads": 4, "mlp_width": 32, "encoder_layers": 1, "decoder_layers": 1}
    dino = DinoConfig(denoising=4, **sizes)
    config = DetectorConfig(model=model, position=POSITIONS[model], init=None, dino=dino, **SIZE)
    detector = Detector(config, 5)
    detector.backbone.freeze()
    detector.train()
    assert not any(module.training for module in detector.backbone.body.modules())
    assert detector.backbone.pyramid.training
    assert detector.backbone.config.mask_padding
    patch = detector.backbone.config.body.patch_size
    targets, padded = [objects(0, 3), objects(1)], []
    detector.backbone.register_forward_pre_hook(lambda _, inputs: padded.append(tuple(inputs[0].shape[2:])))
    losses = dino_losses(detector(torch.randn(2, 3, 64, 80), [(64, 80), (64, 80)], targets), targets, dino, None)
    torch.stack(list(losses.values())).sum().backward()
    assert padded == [{16: (64, 96), 14: (84, 84)}[patch]]  # to multiples of 32 and of 28
    learning = {name for name, weight in detector.named_parameters() if weight.grad is not None}
    optimized = {
        name
        for group in make_optimizer(detector, DETECTORS["detect/dino_dinov3_base"]().optim).param_groups
        for name in group["names"]
    }
    assert learning == optimized
    assert {name.split(".")[0] for name in learning} == {"backbone", "dino"}
    assert not any(name.startswith("backbone.body.") for name in learning)


def test_a_model_brings_its_position_embedding():
    for name in ("dinov3_vits16", "vit_small_patch16_dinov3_qkvb"):
        model = read_config(["segment/upernet_vit_small", "--model", name]).model
        assert (model.model, model.position) == ("dinov3_vits16", "rope_axial")
    config = read_config(["segment/linear_dinov3_base", "--model", "eva02_base_224", "--no-freeze-backbone"])
    assert (config.model.position, config.freeze_backbone) == ("rope_axial_ape", False)


def test_recipes_start_from_the_weights_of_timm():
    assert SEGMENTERS["segment/linear_dinov3_large"]().model.init_source() == "vit_large_patch16_dinov3_qkvb"
    assert SEGMENTERS["segment/linear_eva02_base"]().model.init_source() == "eva02_base_patch14_224"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 14}, r"got window=14 \(--window-size\) for dinov3_vits16, which attends to class token"),
        ({"model": "eva02_tiny_224"}, "got patch_size=14; the head needs maps of strides .* or head='linear'"),
        ({"head": "linear", "neck": "resized"}, "got head='linear' for a ViT with neck='resized'"),
        ({"head": "linear", "out_indices": (0, 3)}, r"got out_indices=\(0, 3\) for 1 levels"),
        ({"linear": LinearConfig(dropout=0.2)}, "got options of linear with head='upernet'"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_inconsistent_options_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        small_segmenter(**changes)


def test_a_swin_has_no_tokens_of_one_stride():
    with pytest.raises(ValueError, match="got head='linear' for a Swin"):
        replace(SEGMENTERS["segment/mask2former_swin_tiny"]().model, head="linear")
    with pytest.raises(ValueError, match="got dropout=1; expected from 0 to below 1"):
        LinearConfig(dropout=1.0)
