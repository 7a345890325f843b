"""Recipes: functions that return the complete config of a detector's training, with detrex's settings.

The 12-epoch recipes are written out; longer ones (`_50ep`, `_36ep`) and those with five maps (`_5scale`) are derived
from them. The paper's results with its own backbones were obtained with unpublished code.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ropevit.tasks.detect.augment import ScaleConfig
from ropevit.tasks.detect.config import DinoConfig
from ropevit.tasks.detect.model import DetectorConfig
from ropevit.tasks.detect.train_config import DetectTrainConfig
from ropevit.tasks.training.config import OptimConfig, RunConfig

#: Function of the backbone's position embedding that returns a configuration.
Recipe = Callable[..., DetectTrainConfig]

#: AdamW with a tenth of the rate for the backbone and gradients clipped at 0.1; divided by 10 for the last epoch.
_TWELVE_EPOCHS = OptimConfig(
    lr=1e-4,
    backbone_lr_scale=0.1,
    weight_decay=1e-4,
    epochs=12,
    warmup_epochs=0.0,
    schedule="step",
    milestones=(11 / 12,),
    clip_grad=0.1,
)

#: In detrex: 12 epochs are 90000 steps.
_STEPS_PER_EPOCH = 7500


def dino_vitdet_base(position: str = "rope_mixed") -> DetectTrainConfig:
    """DINO with a ViT-B in windows (ViTDet): 12 epochs at 480 to 800 px.

    Published AP on COCO val2017: ape 49.4, rope_axial 50.8, rope_mixed 51.2; not reproduced
    here. ViTDet's decomposed position bias is off (`--relative-bias`). Cost: 12 epochs of 16 images per step.

    Source: Heo et al. 2024 (arXiv:2403.13298); Ren et al. 2023 (arXiv:2306.07265), detrex.
    """
    model = DetectorConfig(model="deit_base", position=position, drop_path=0.1)
    return DetectTrainConfig(recipe="detect/dino_vitdet_base", model=model, optim=_TWELVE_EPOCHS)


def dino_vitdet_large(position: str = "rope_mixed") -> DetectTrainConfig:
    """DINO with a ViT-L in windows (ViTDet): 12 epochs at 480 to 800 px, after a short warm-up.

    Published AP on COCO val2017: ape 51.1, rope_axial 52.2, rope_mixed 52.9; not reproduced
    here. Cost: 12 epochs of 16 images per step; with `--grad-checkpointing` it needs far less memory.

    Source: as `dino_vitdet_base`.
    """
    optim = replace(_TWELVE_EPOCHS, milestones=(0.8,), warmup_epochs=250 / _STEPS_PER_EPOCH, warmup_lr=1e-7)
    model = DetectorConfig(model="deit_large", position=position, drop_path=0.4)
    return DetectTrainConfig(recipe="detect/dino_vitdet_large", model=model, optim=optim)


def dino_swin_tiny(position: str = "rope_mixed") -> DetectTrainConfig:
    """DINO with a Swin-T: 12 epochs at 480 to 800 px.

    Published with Swin's own bias (rpb): AP 51.3 on COCO val2017; not reproduced here. Cost: 12 epochs of 16 images a
    step.

    Source: Zhang et al. 2022 (arXiv:2203.03605); Ren et al. 2023 (arXiv:2306.07265), detrex.
    """
    model = DetectorConfig(model="swin_tiny", position=position, drop_path=0.1)
    return DetectTrainConfig(recipe="detect/dino_swin_tiny", model=model, optim=_TWELVE_EPOCHS)


def dino_swin_small(position: str = "rope_mixed") -> DetectTrainConfig:
    """DINO with a Swin-S: 12 epochs at 480 to 800 px.

    Published with Swin's own bias (rpb): AP 53.0 on COCO val2017; not reproduced here. Cost: 12 epochs of 16 images a
    step.

    Source: as `dino_swin_tiny`.
    """
    model = DetectorConfig(model="swin_small", position=position, drop_path=0.2)
    return DetectTrainConfig(recipe="detect/dino_swin_small", model=model, optim=_TWELVE_EPOCHS)


def dino_swin_base(position: str = "rope_mixed") -> DetectTrainConfig:
    """DINO with a Swin-B of 224 px and windows of 7: 12 epochs at 480 to 800 px.

    Not reproduced here. The published AP of 55.8 on COCO val2017 is for another Swin-B: 384 px, windows of 12,
    pre-trained on ImageNet-22k. Cost: 12 epochs of 16 images per step.

    Source: as `dino_swin_tiny`.
    """
    model = DetectorConfig(model="swin_base", position=position, drop_path=0.2)
    return DetectTrainConfig(recipe="detect/dino_swin_base", model=model, optim=_TWELVE_EPOCHS)


def dino_dinov3_base(position: str = "rope_axial") -> DetectTrainConfig:
    """DINO on a frozen DINOv3 ViT-B with global attention: 12 epochs at 480 to 800 px.

    No result is published: DINOv3's evaluation has another detector on larger data. Cost: 12 epochs of 16 images per
    step; the backbone runs forward only. Fine-tuned: `--no-freeze-backbone --backbone-lr-scale 0.1 --drop-path 0.1`.

    Source: Siméoni et al. 2025 (arXiv:2508.10104) for the backbone; detrex's settings, as `dino_vitdet_base`.
    """
    return DetectTrainConfig(
        recipe="detect/dino_dinov3_base",
        freeze_backbone=True,
        model=DetectorConfig(model="dinov3_vitb16", position=position),
        optim=replace(_TWELVE_EPOCHS, backbone_lr_scale=1.0),
    )


def _with_epochs(recipe: Recipe, epochs: int, milestones: tuple[float, ...]) -> Recipe:
    """Return a recipe with another number of epochs.

    Args:
        recipe: The recipe of 12 epochs.
        epochs: Number of epochs.
        milestones: Fractions of the training at which the learning rate is divided by 10.
    """

    def change(config: DetectTrainConfig) -> DetectTrainConfig:
        return replace(config, optim=replace(config.optim, epochs=epochs, milestones=milestones))

    drops = ", ".join(f"{epochs * share:g}" for share in milestones)
    description = (
        f"for {epochs} epochs, with a tenth of the learning rate from epoch {drops} on.\n\n"
        f"    Not reproduced here. Cost: {epochs} epochs of 16 images per step."
    )
    return _derive_recipe(recipe, f"{epochs}ep", description, change)


def _five_scales(recipe: Recipe) -> Recipe:
    """Return a recipe with five levels: the four stages of a Swin, from stride 4 on, and one coarser level."""

    def change(config: DetectTrainConfig) -> DetectTrainConfig:
        model = replace(config.model, out_indices=(0, 1, 2, 3), dino=replace(config.model.dino, levels=5))
        return replace(config, model=model, run=replace(config.run, grad_checkpointing=True))

    description = """with five maps, from stride 4 on, instead of four: 12 epochs.

    Not reproduced here. Cost: 12 epochs of 16 images per step with four times the tokens; gradient checkpointing is on.
    """
    return _derive_recipe(recipe, "5scale", description, change)


def _derive_recipe(
    recipe: Recipe, suffix: str, description: str, change: Callable[[DetectTrainConfig], DetectTrainConfig]
) -> Recipe:
    """Return a recipe derived from another one.

    Args:
        recipe: The other recipe.
        suffix: Suffix of its name.
        description: Its docstring, after the model of the other recipe.
        change: Changes the config.
    """
    name = f"{recipe.__name__}_{suffix}"

    def made(position: str = "rope_mixed") -> DetectTrainConfig:
        return replace(change(recipe(position)), recipe=f"detect/{name}")

    made.__name__ = made.__qualname__ = name
    made.__doc__ = f"{(recipe.__doc__ or '').partition(':')[0]}, {description}"
    return made


def dino_smoke(position: str = "rope_mixed") -> DetectTrainConfig:
    """A small DINO on the data of `ropevit data make-tiny coco DIR`, in minutes on a CPU: no published result.

    Cost: 80 epochs of 10 images at 64 px.
    """
    dino = DinoConfig(
        queries=20, width=64, heads=4, mlp_width=128, encoder_layers=1, decoder_layers=2, denoising=20, box_noise=0.4
    )
    size: dict[str, Any] = {"width": 64, "depth": 2, "heads": 2, "patch_size": 8, "window": 4}
    return DetectTrainConfig(
        recipe="detect/dino_smoke",
        data="tiny_coco",
        batch_size=5,
        model=DetectorConfig(model="deit_tiny", position=position, init=None, dino=dino, **size),
        scale=ScaleConfig(short_edge_lengths=(64,), max_size=64, pre_crop_edge_lengths=(), test_size=64),
        optim=replace(_TWELVE_EPOCHS, lr=1e-3, backbone_lr_scale=1.0, epochs=80, milestones=(0.8,)),
        run=RunConfig(workers=0, log_interval=10, val_interval=20),
    )


VITDETS, SWINS = (dino_vitdet_base, dino_vitdet_large), (dino_swin_tiny, dino_swin_small, dino_swin_base)

RECIPES: dict[str, Recipe] = {
    f"detect/{recipe.__name__}": recipe
    for recipe in (
        *VITDETS,
        *(_with_epochs(recipe, 50, milestones=(40 / 50,)) for recipe in VITDETS),
        *SWINS,
        *(_with_epochs(recipe, 36, milestones=(30 / 36,)) for recipe in SWINS),
        *(_five_scales(recipe) for recipe in SWINS),
        dino_dinov3_base,
        dino_smoke,
    )
}


def find_recipe(name: str) -> DetectTrainConfig:
    """Return the configuration of a recipe by name, such as "detect/dino_vitdet_base".

    Raises:
        ValueError: If there is no such recipe.
    """
    if name not in RECIPES:
        raise ValueError(f"no recipe named {name!r}; choose one of {', '.join(RECIPES)}")
    return RECIPES[name]()


def recipe_facts(config: DetectTrainConfig) -> dict[str, str]:
    """Return facts for `ropevit train --list`."""
    return {"pixels": str(config.scale.test_size)}
