"""Rope types beyond the paper in detectors and segmenters."""

from dataclasses import replace

import pytest
import torch

from ropevit.tasks.detect import model as detect
from ropevit.tasks.detect.recipes import find_recipe
from ropevit.tasks.segment.model import build_segmenter, load_segmenter
from ropevit.tasks.segment.train import train
from tasks.segment.generated import small_training, write_images
from tasks.segment.small import small_segmenter


def test_a_segmenter_is_trained_with_a_new_rope_type(tmp_path):
    config = small_training(write_images(tmp_path / "ade"), tmp_path / "run", steps=2)
    train(
        replace(
            config, model=replace(config.model, position="rope_spiral"), optim=replace(config.optim, warmup_steps=1)
        )
    )
    model, info = load_segmenter(tmp_path / "run/model.safetensors")
    assert info.config.position == model.backbone.body.config.position == "rope_spiral"


@pytest.mark.parametrize(("name", "position"), [("deit_tiny", "rope_polar_ape"), ("swin_tiny", "rope_golden_rpb")])
def test_backbones_of_detectors_and_segmenters_have_the_new_rope_types(name, position):
    shape = (
        {"width": 24, "heads": None, "depth": None} if name == "swin_tiny" else {"width": 32, "heads": 2, "depth": 4}
    )
    options = small_segmenter(model=name, position=position, **shape)
    assert build_segmenter(options, 3).backbone.body.config.position == position
    smoke = find_recipe("detect/dino_smoke").model
    given = {"model": name, "position": position, "init": None, "patch_size": None, "window": None, **shape}
    detector = detect.Detector(replace(smoke, **given), 3).eval()
    assert detector.backbone.body.config.position == position
    assert torch.isfinite(detector.backbone(torch.randn(1, 3, 64, 96))[0][0]).all()


def test_new_rope_types_have_no_published_weights_to_start_from():
    with pytest.raises(ValueError, match="rope_golden_deit_tiny_patch16_LS has no published weights; give"):
        small_segmenter(position="rope_golden", init="published")
