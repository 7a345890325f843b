"""Recipes have the numbers of detrex's configs, as read there."""

from dataclasses import replace

import pytest
import torch

from ropevit.tasks.detect.model import Detector
from ropevit.tasks.detect.recipes import RECIPES, find_recipe

#: Steps of a training of so many epochs, those after which the rate falls to a tenth, and those of the warm-up.
SCHEDULES = {12: (90000, 82500, 0), 36: (270000, 225000, 0), 50: (375000, 300000, 0)}

DROP_PATH = {"vitdet_base": 0.1, "vitdet_large": 0.4, "swin_tiny": 0.1, "swin_small": 0.2, "swin_base": 0.2}

#: Channels of the maps of strides 8, 16, 32 and so on.
CHANNELS = {
    "vitdet_base": (256,) * 4,
    "vitdet_large": (256,) * 4,
    "swin_tiny": (192, 384, 768),
    "swin_small": (192, 384, 768),
    "swin_base": (256, 512, 1024),
}

#: Recipes that detrex does not have.
OWN = {"detect/dino_smoke", "detect/dino_dinov3_base"}

FULL = [name for name in RECIPES if name not in OWN]


def backbone(name):
    return "_".join(name.removeprefix("detect/dino_").split("_")[:2])


def test_every_backbone_has_recipes():
    vit = {f"detect/dino_vitdet_{size}{kind}" for size in ("base", "large") for kind in ("", "_50ep")}
    swin = {f"detect/dino_swin_{s}{kind}" for s in ("tiny", "small", "base") for kind in ("", "_36ep", "_5scale")}
    assert set(RECIPES) == vit | swin | OWN


@pytest.mark.parametrize("name", FULL)
def test_recipes_have_the_optimizer_settings_of_detrex(name):
    config = find_recipe(name)
    optim = config.optim
    assert (optim.optimizer, optim.lr, optim.backbone_lr_scale, optim.weight_decay) == ("adamw", 1e-4, 0.1, 1e-4)
    assert (optim.clip_grad, optim.layer_decay, config.batch_size, config.run.precision) == (0.1, 1, 16, "float32")
    assert optim.epochs == (50 if name.endswith("50ep") else 36 if name.endswith("36ep") else 12)
    steps, fall, warm = SCHEDULES[optim.epochs]
    if "vitdet_large" in name:
        fall, warm = 300000 * steps // 375000, 250
        assert optim.warmup_lr == pytest.approx(0.001 * optim.lr)
    assert optim.schedule == "step"
    assert [share * steps for share in optim.milestones] == pytest.approx([fall])
    assert optim.warmup_epochs / optim.epochs * steps == pytest.approx(warm)
    scale = config.scale
    assert (scale.short_edge_lengths, scale.max_size, scale.test_size) == (tuple(range(480, 801, 32)), 1333, 800)
    assert (scale.pre_crop_edge_lengths, scale.flip) == ((400, 500, 600), 0.5)


@pytest.mark.parametrize("name", FULL)
def test_recipes_build_the_detector_of_detrex(name):
    config, kind, five = find_recipe(name), backbone(name), name.endswith("5scale")
    with torch.device("meta"):
        model = Detector(config.model, 80)
    channels = CHANNELS[kind]
    expected = (channels[0] // 2, *channels) if five else channels
    assert model.backbone.channels == expected
    assert model.backbone.strides == (4, 8, 16, 32, 64)[not five :][: len(expected)]
    dino = model.dino.config
    assert (dino.levels, dino.queries, dino.denoising, len(model.dino.neck.extra_convs)) == (
        5 if five else 4,
        900,
        100,
        0 if "vitdet" in name else 1,
    )
    assert config.run.grad_checkpointing == five
    body = model.backbone.config.body
    assert (body.drop_path, getattr(body, "window_size", 7)) == (DROP_PATH[kind], 7)
    if "vitdet" in name:
        rates = [block.drop_path.rate for block in model.backbone.body.blocks]
        assert (rates[0], rates[-1]) == (0, DROP_PATH[kind])
        assert rates[1] == pytest.approx(DROP_PATH[kind] / (len(rates) - 1))


def test_dino_without_its_backbone_has_the_parameters_of_detrex():
    for name, millions in (("vitdet_base", 18.8), ("swin_tiny", 20.7), ("swin_base", 21.4)):
        with torch.device("meta"):
            dino = Detector(find_recipe(f"detect/dino_{name}").model, 80).dino
        assert sum(p.numel() for p in dino.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize("name", list(RECIPES))
def test_docstrings_of_recipes_name_epochs_and_cost(name):
    config, said = find_recipe(name), RECIPES[name].__doc__
    assert f"{config.optim.epochs} epochs" in said
    assert "Cost: " in said
    assert RECIPES[name].__name__ == name.removeprefix("detect/")
    assert RECIPES[name](position="rope_axial").model.position == "rope_axial"


def test_invalid_out_indices_are_refused():
    vit, swin = find_recipe("detect/dino_vitdet_base").model, find_recipe("detect/dino_swin_tiny").model
    with pytest.raises(ValueError, match=r"got out_indices=\(2, 3\) \(--out-indices\) for deit_base; "):
        replace(vit, out_indices=(2, 3))
    with pytest.raises(ValueError, match=r"got out_indices=\(\); expected some of 0 to 3"):
        replace(swin, out_indices=())
    with pytest.raises(ValueError, match=r"got dino.levels=3 with 4 maps of the backbone; expected 4 or more"):
        replace(swin, out_indices=(0, 1, 2, 3), dino=replace(swin.dino, levels=3))


def test_relative_bias_is_for_a_vit_only():
    vit, swin = find_recipe("detect/dino_vitdet_base").model, find_recipe("detect/dino_swin_tiny").model
    assert not vit.relative_bias
    with torch.device("meta"):
        blocks = Detector(replace(vit, relative_bias=True), 80).backbone.body.blocks
    assert [len(block.attn.relative.columns) for block in blocks] == [27, 27, 127] * 4
    with pytest.raises(ValueError, match="got relative_bias=True for swin_tiny; it is for a ViT: a Swin's own bias"):
        replace(swin, relative_bias=True)
