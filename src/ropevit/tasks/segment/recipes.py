"""Recipes: complete configurations for training segmenters on ADE20K, with settings of the literature.

The RoPE paper states that ViTs are trained with UperNet "with ViT training recipe" at 512 px and Swins with
Mask2Former, but not the settings, and of the results only that Mixed+APE (rope_mixed_ape) gains 2.3 and 2.5 mIoU over
the baseline. Recipes of UperNet without a suffix use the settings of BEiT v2, the likeliest choice.
"""

from collections.abc import Callable
from dataclasses import replace

from ropevit.tasks.segment.augment import CropConfig
from ropevit.tasks.segment.config import PROFILES, Mask2FormerConfig, UperNetConfig, UperNetProfile
from ropevit.tasks.segment.inference import SLIDE, InferenceConfig
from ropevit.tasks.segment.model import SegmenterConfig
from ropevit.tasks.segment.train_config import SegmentTrainConfig
from ropevit.tasks.training.config import OptimConfig, RunConfig

#: Evaluation as often as in mmseg on ADE20K: every 13 epochs, about 16 000 steps.
_LONG = RunConfig(val_interval=13)


def upernet(recipe: str, model: str, profile: UperNetProfile, position: str) -> SegmentTrainConfig:
    """Return the training config of a profile."""
    optim = OptimConfig(
        lr=profile.lr,
        weight_decay=profile.weight_decay,
        layer_decay=profile.layer_decay or 1.0,
        epochs=None,
        steps=profile.steps,
        schedule="poly",
        power=profile.power,
        min_lr=0.0,
        warmup_steps=profile.warmup_steps,
        warmup_lr=profile.lr * profile.warmup_start,
    )
    segmenter = SegmenterConfig(
        model=model,
        position=position,
        drop_path=profile.drop_path,
        neck=profile.neck,
        out_indices=profile.out_indices,
        upernet=profile.head,
    )
    return SegmentTrainConfig(
        recipe=f"segment/{recipe}",
        batch_size=profile.batch_size,
        model=segmenter,
        augment=CropConfig(crop_size=profile.crop),
        inference=profile.inference,
        optim=optim,
        run=_LONG,
    )


def upernet_vit_small(position: str = "rope_mixed") -> SegmentTrainConfig:
    """UperNet with a ViT-S: 160 000 steps of 16 crops of 512 px, as ViT-B except for a head of 384 channels.

    No result is published. Cost: 160 000 steps of 16 crops.

    Source: as `upernet_vit_base`.
    """
    profile = replace(PROFILES["beitv2"], head=UperNetConfig(channels=384))
    return upernet("upernet_vit_small", "deit_small", profile, position)


def upernet_vit_base(position: str = "rope_mixed") -> SegmentTrainConfig:
    """UperNet with a ViT-B: 160 000 steps of 16 crops of 512 px, evaluated with sliding windows.

    Expected on ADE20K val, as quoted from the paper: rope_mixed_ape gains 2.3 mIoU over ape; the absolute scores were
    not found. Not reproduced here. Cost: 160 000 steps of 16 crops.

    Source: Heo et al. 2024 (arXiv:2403.13298); Peng et al. 2022 (arXiv:2208.06366), BEiT v2's settings.
    """
    return upernet("upernet_vit_base", "deit_base", PROFILES["beitv2"], position)


def upernet_vit_large(position: str = "rope_mixed") -> SegmentTrainConfig:
    """UperNet with a ViT-L: 160 000 steps of 16 crops of 512 px, evaluated with sliding windows.

    Expected on ADE20K val, as quoted from the paper: rope_mixed_ape gains 2.5 mIoU over ape; the absolute scores were
    not found. Not reproduced here. Cost: 160 000 steps of 16 crops; `--grad-checkpointing` needs less memory.

    Source: as `upernet_vit_base`.
    """
    return upernet("upernet_vit_large", "deit_large", PROFILES["beitv2_large"], position)


def upernet_vit_base_mmseg(position: str = "rope_mixed") -> SegmentTrainConfig:
    """UperNet with a ViT-B and mmseg's settings: another neck, no layer decay, evaluated on whole images.

    mmseg published 45.4 mIoU with a DeiT-B and 47.7 with a ViT-B of ImageNet-21k; not reproduced here. Cost: 160 000
    steps of 16 crops.

    Source: `vit_vit-b16-ln_mln_upernet_8xb2-160k_ade20k-512x512` of mmsegmentation, without its norm of the
    tokens.
    """
    return upernet("upernet_vit_base_mmseg", "deit_base", PROFILES["mmseg"], position)


def upernet_vit_large_xcit(position: str = "rope_mixed") -> SegmentTrainConfig:
    """UperNet with a ViT-L and XCiT's settings, the basis of DeiT III's: no layer decay, evaluated on whole images.

    No result is published. Cost: 160 000 steps of 16 crops; `--grad-checkpointing` needs less memory.

    Source: El-Nouby et al. 2021 (arXiv:2106.09681).
    """
    return upernet("upernet_vit_large_xcit", "deit_large", PROFILES["xcit"], position)


def mask2former(recipe: str, model: str, position: str) -> SegmentTrainConfig:
    """Return the official training config of Mask2Former: a tenth of the learning rate in the backbone, clip_grad 0.01.

    The official training uses mixed precision, here `--precision bfloat16`.
    """
    optim = OptimConfig(
        lr=1e-4,
        backbone_lr_scale=0.1,
        weight_decay=0.05,
        epochs=None,
        steps=160_000,
        schedule="poly",
        power=0.9,
        min_lr=0.0,
        warmup_steps=0,
        clip_grad=0.01,
    )
    short_edge_lengths = tuple(int(tenths * 0.1 * 512) for tenths in range(5, 21))
    return SegmentTrainConfig(
        recipe=f"segment/{recipe}",
        batch_size=16,
        model=SegmenterConfig(model=model, position=position, drop_path=0.3, head="mask2former"),
        augment=CropConfig(short_edge_lengths=short_edge_lengths, cat_max_ratio=1.0, pad_value=128),
        inference=InferenceConfig(probabilities=False),
        optim=optim,
        run=_LONG,
    )


def mask2former_swin_tiny(position: str = "rope_mixed") -> SegmentTrainConfig:
    """Mask2Former with a Swin-T: 160 000 steps of 16 crops of 512 px.

    Published with Swin's own bias (rpb): 48.7 mIoU on ADE20K val (mmseg); the RoPE paper's scores were not found. Not
    reproduced here. Cost: 160 000 steps of 16 crops.

    Source: Cheng et al. 2021 (arXiv:2112.01527), the official settings.
    """
    return mask2former("mask2former_swin_tiny", "swin_tiny", position)


def mask2former_swin_small(position: str = "rope_mixed") -> SegmentTrainConfig:
    """Mask2Former with a Swin-S: 160 000 steps of 16 crops of 512 px.

    Published with Swin's own bias (rpb): 51.2 mIoU on ADE20K val (mmseg); the RoPE paper's scores were not found. Not
    reproduced here. Cost: 160 000 steps of 16 crops.

    Source: as `mask2former_swin_tiny`.
    """
    return mask2former("mask2former_swin_small", "swin_small", position)


def mask2former_swin_base(position: str = "rope_mixed") -> SegmentTrainConfig:
    """Mask2Former with a Swin-B of 224 px: 160 000 steps of 16 crops of 512 px.

    The RoPE paper's scores were not found. Not reproduced here. Cost: 160 000 steps of 16 crops.

    Source: as `mask2former_swin_tiny`; the official Swin-B was pre-trained at 384 px and is trained on crops of 640 px.
    """
    return mask2former("mask2former_swin_base", "swin_base", position)


def linear(recipe: str, model: str, position: str) -> SegmentTrainConfig:
    """Return the training config of a linear head on a frozen ViT: the defaults of DINOv3's evaluation.

    Its learning rate follows a cosine after a warm-up, whose length is this package's choice.
    """
    optim = OptimConfig(
        lr=1e-3, weight_decay=1e-2, epochs=None, steps=40_000, min_lr=0.0, warmup_steps=1500, clip_grad=35.0
    )
    return SegmentTrainConfig(
        recipe=f"segment/{recipe}",
        batch_size=16,
        freeze_backbone=True,
        model=SegmenterConfig(model=model, position=position, head="linear"),
        inference=SLIDE,
        optim=optim,
        run=_LONG,
    )


def linear_dinov3_small(position: str = "rope_axial") -> SegmentTrainConfig:
    """Linear head on a frozen DINOv3 ViT-S: 40 000 steps of 16 crops of 512 px, evaluated with sliding windows.

    Not reproduced here. Cost: 40 000 steps of 16 crops; the backbone runs forward only.

    Source: Siméoni et al. 2025 (arXiv:2508.10104), the evaluation's code.
    """
    return linear("linear_dinov3_small", "dinov3_vits16", position)


def linear_dinov3_base(position: str = "rope_axial") -> SegmentTrainConfig:
    """Linear head on a frozen DINOv3 ViT-B: 40 000 steps of 16 crops of 512 px, evaluated with sliding windows.

    Not reproduced here. Cost: 40 000 steps of 16 crops; the backbone runs forward only.

    Source: as `linear_dinov3_small`.
    """
    return linear("linear_dinov3_base", "dinov3_vitb16", position)


def linear_dinov3_large(position: str = "rope_axial") -> SegmentTrainConfig:
    """Linear head on a frozen DINOv3 ViT-L: 40 000 steps of 16 crops of 512 px, evaluated with sliding windows.

    Not reproduced here. Cost: 40 000 steps of 16 crops; the backbone runs forward only.

    Source: as `linear_dinov3_small`.
    """
    return linear("linear_dinov3_large", "dinov3_vitl16", position)


def linear_eva02_base(position: str = "rope_axial_ape") -> SegmentTrainConfig:
    """Linear head on a frozen EVA-02 ViT-B of 14-pixel patches: as `linear_dinov3_base`, with crops of 518 px.

    No result is published. Cost: 40 000 steps of 16 crops; the backbone runs forward only.

    Source: Fang et al. 2023 (arXiv:2303.11331) for the backbone, DINOv3's settings for the head.
    """
    config = linear("linear_eva02_base", "eva02_base_224", position)
    augment = replace(config.augment, crop_size=518, short=518, test_short=518)
    return replace(config, augment=augment, inference=replace(SLIDE, window=518))


def upernet_dinov3_base(position: str = "rope_axial") -> SegmentTrainConfig:
    """UperNet with a DINOv3 ViT-B, fine-tuned: 160 000 steps of 16 crops of 512 px, evaluated with sliding windows.

    No result is published. Cost: 160 000 steps of 16 crops. `--freeze-backbone` trains the neck and the head alone.

    Source: Siméoni et al. 2025 (arXiv:2508.10104) for the backbone; BEiT v2's settings, as `upernet_vit_base`.
    """
    config = upernet("upernet_dinov3_base", "dinov3_vitb16", PROFILES["beitv2"], position)
    return replace(config, model=replace(config.model, out_indices=None))  # of any size: --model dinov3_vitl16


def mask2former_dinov3_base(position: str = "rope_axial") -> SegmentTrainConfig:
    """Mask2Former on a frozen DINOv3 ViT-B, with BEiT's neck: 160 000 steps of 16 crops of 512 px.

    No result is published: DINOv3's evaluation has a ViT-Adapter in place of the neck, and other settings. Cost:
    160 000 steps of 16 crops; the backbone runs forward only. Fine-tuned: `--no-freeze-backbone --backbone-lr-scale 0.1
    --drop-path 0.3`.

    Source: Cheng et al. 2021 (arXiv:2112.01527), the official settings; Siméoni et al. 2025 (arXiv:2508.10104).
    """
    config = mask2former("mask2former_dinov3_base", "dinov3_vitb16", position)
    model, optim = replace(config.model, drop_path=0.0), replace(config.optim, backbone_lr_scale=1.0)
    return replace(config, freeze_backbone=True, model=model, optim=optim)


#: Image sizes and run options of the smoke recipes.
SMALL = CropConfig(crop_size=64, long=128, test_short=64, test_long=128)
SHORT = RunConfig(workers=0, log_interval=10, save_interval=50, val_interval=25)


def upernet_smoke(position: str = "rope_mixed") -> SegmentTrainConfig:
    """A small UperNet on the data of `ropevit data make-tiny ade DIR`, in a minute on a CPU; no published result.

    Cost: 200 steps of 6 crops of 64 px.
    """
    size = {"width": 64, "depth": 4, "heads": 2, "init": None}
    head = UperNetConfig(channels=32, auxiliary_channels=32)
    return replace(
        upernet_vit_small(position),
        recipe="segment/upernet_smoke",
        data="tiny_ade",
        batch_size=6,
        model=SegmenterConfig(model="deit_tiny", position=position, upernet=head, **size),
        augment=replace(SMALL, short=64, ratio_range=(0.8, 1.4)),
        inference=InferenceConfig(),
        optim=OptimConfig(lr=1e-2, epochs=None, steps=200, schedule="poly", min_lr=0.0, warmup_steps=10),
        run=SHORT,
    )


def mask2former_smoke(position: str = "rope_mixed") -> SegmentTrainConfig:
    """A small Mask2Former on the data of `ropevit data make-tiny ade DIR`, in minutes on a CPU; no published result.

    Cost: 200 steps of 6 crops of 64 px.
    """
    size = {"width": 64, "depth": 4, "heads": 2, "init": None}
    head = Mask2FormerConfig(
        queries=12, width=64, heads=4, encoder_layers=1, encoder_mlp_width=128, decoder_layers=2, decoder_mlp_width=128
    )
    official = mask2former_swin_tiny()
    return replace(
        official,
        recipe="segment/mask2former_smoke",
        data="tiny_ade",
        batch_size=6,
        model=SegmenterConfig(
            model="deit_tiny", position=position, head="mask2former", mask2former=replace(head, points=512), **size
        ),
        augment=replace(SMALL, short_edge_lengths=(51, 58, 64, 70, 77, 83, 90), cat_max_ratio=1.0, pad_value=128),
        optim=replace(official.optim, lr=1e-3, backbone_lr_scale=1.0, steps=200, warmup_steps=10, clip_grad=None),
        run=SHORT,
    )


RECIPES: dict[str, Callable[..., SegmentTrainConfig]] = {
    f"segment/{recipe.__name__}": recipe
    for recipe in (
        upernet_vit_small,
        upernet_vit_base,
        upernet_vit_large,
        upernet_vit_base_mmseg,
        upernet_vit_large_xcit,
        mask2former_swin_tiny,
        mask2former_swin_small,
        mask2former_swin_base,
        linear_dinov3_small,
        linear_dinov3_base,
        linear_dinov3_large,
        linear_eva02_base,
        upernet_dinov3_base,
        mask2former_dinov3_base,
        upernet_smoke,
        mask2former_smoke,
    )
}


def recipe_facts(config: SegmentTrainConfig) -> dict[str, str]:
    """Return the columns of a recipe in `ropevit train --list`."""
    return {"pixels": str(config.augment.crop_size)}
