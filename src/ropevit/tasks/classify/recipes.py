"""Recipes: functions that give a complete training; `published.py` has what each is expected to reach.

The published runs used float16 with a loss scaler; here it is bfloat16, which needs none (`--precision float16` takes
them at their word).
"""

from collections.abc import Callable
from dataclasses import replace

from ropevit.data.augment import AugmentConfig
from ropevit.models.cost import count_macs
from ropevit.models.published import TOP1
from ropevit.tasks.classify.config import ClassifierConfig, TrainConfig
from ropevit.tasks.training.config import OptimConfig, RunConfig

#: Training images of ImageNet-1k, and of a tenth of its classes on average.
IMAGENET, IMAGENET_100 = 1_281_167, 128_117


def deit3_small() -> TrainConfig:
    """DeiT III for ViT-S: 400 epochs at 224 px.

    Expected top-1 on ImageNet-1k at 224 px: ape 80.4, rope_axial 80.9, rope_mixed 80.9, rope_axial_ape 80.7,
    rope_mixed_ape 80.9. Cost: 400 epochs of 2048 images per step, published on 8 GPUs.

    Source: Heo et al. 2024 (arXiv:2403.13298), after Touvron et al. 2022 (arXiv:2204.07118).
    """
    optim = OptimConfig(optimizer="lamb", lr=4e-3, weight_decay=0.03, epochs=400, ema_decay=0.99996)
    return TrainConfig(
        recipe="deit3_small",
        batch_size=2048,
        loss="binary",
        crop_pct=1.0,
        model=ClassifierConfig(model="deit_small", size=224),
        augment=AugmentConfig(auto_augment="three_augment", aug_repeats=3, label_smoothing=0.0),
        optim=optim,
        run=RunConfig(precision="bfloat16"),
    )


def deit3_base() -> TrainConfig:
    """DeiT III for ViT-B, pre-training: 400 epochs at 192 px; `deit3_base_finetune` follows.

    Cost: 400 epochs of 2048 images per step, published on 8 GPUs.

    Source: as `deit3_small`.
    """
    small = deit3_small()
    return replace(
        small,
        recipe="deit3_base",
        model=ClassifierConfig(model="deit_base", size=192, drop_path=0.1),
        optim=replace(small.optim, lr=3e-3),
    )


def deit3_large() -> TrainConfig:
    """DeiT III for ViT-L, pre-training: 400 epochs at 192 px; `deit3_large_finetune` follows.

    Cost: 400 epochs of 2048 images per step, published on 64 GPUs.

    Source: as `deit3_small`.
    """
    base = deit3_base()
    return replace(base, recipe="deit3_large", model=ClassifierConfig(model="deit_large", size=192, drop_path=0.4))


def deit3_base_finetune() -> TrainConfig:
    """DeiT III for ViT-B, fine-tuning of the pre-trained weights: 20 epochs at 224 px.

    Expected top-1 on ImageNet-1k at 224 px: ape 83.4, rope_axial 83.6, rope_mixed 83.8, rope_axial_ape 83.7,
    rope_mixed_ape 83.8. Cost: 20 epochs of 512 images per step, published on 8 GPUs.

    Source: as `deit3_small`.
    """
    optim = OptimConfig(lr=1e-5, min_lr=1e-5, weight_decay=0.1, epochs=20, ema_decay=0.99996)
    return TrainConfig(
        recipe="deit3_base_finetune",
        batch_size=512,
        crop_pct=1.0,
        model=ClassifierConfig(model="deit_base", size=224, drop_path=0.2, init="runs/deit3_base/model.safetensors"),
        augment=AugmentConfig(auto_augment="rand_augment", aug_repeats=1, label_smoothing=0.1),
        optim=optim,
        run=RunConfig(precision="bfloat16"),
    )


def deit3_large_finetune() -> TrainConfig:
    """DeiT III for ViT-L, fine-tuning of the pre-trained weights: 20 epochs at 224 px.

    Expected top-1 on ImageNet-1k at 224 px: ape 84.6, rope_axial 84.7, rope_mixed 84.8, rope_axial_ape 84.7,
    rope_mixed_ape 84.9. Cost: 20 epochs of 512 images per step, published on 64 GPUs.

    Source: as `deit3_small`.
    """
    init = "runs/deit3_large/model.safetensors"
    return replace(
        deit3_base_finetune(),
        recipe="deit3_large_finetune",
        model=ClassifierConfig(model="deit_large", size=224, drop_path=0.45, init=init),
    )


def swin_tiny() -> TrainConfig:
    """Swin-T: 300 epochs at 224 px with windows of 7 tokens.

    Expected top-1 on ImageNet-1k at 224 px: rpb 81.2, rope_axial 81.3, rope_mixed 81.4.
    Cost: 300 epochs of 1024 images per step, published on 8 GPUs.

    Source: Heo et al. 2024 (arXiv:2403.13298), after Liu et al. 2021 (arXiv:2103.14030).
    """
    optim = OptimConfig(lr=1e-3, epochs=300, warmup_epochs=20, warmup_prefix=True, clip_grad=5.0)
    return TrainConfig(
        recipe="swin_tiny",
        batch_size=1024,
        model=ClassifierConfig(model="swin_tiny", size=224, drop_path=0.2),
        augment=AugmentConfig(auto_augment="rand_augment", aug_repeats=1, label_smoothing=0.1, random_erasing=0.25),
        optim=optim,
        run=RunConfig(precision="bfloat16"),
    )


def swin_small() -> TrainConfig:
    """Swin-S: 300 epochs at 224 px with windows of 7 tokens.

    Expected top-1 on ImageNet-1k at 224 px: rpb 82.9, rope_axial 83.1, rope_mixed 83.0.
    Cost: 300 epochs of 1024 images per step, published on 8 GPUs.

    Source: as `swin_tiny`.
    """
    return replace(
        swin_tiny(), recipe="swin_small", model=ClassifierConfig(model="swin_small", size=224, drop_path=0.3)
    )


def swin_base() -> TrainConfig:
    """Swin-B: 300 epochs at 224 px with windows of 7 tokens.

    Expected top-1 on ImageNet-1k at 224 px: rpb 83.3, rope_axial 83.6, rope_mixed 83.7.
    Cost: 300 epochs of 1024 images per step, published on 8 GPUs.

    Source: as `swin_tiny`.
    """
    return replace(swin_tiny(), recipe="swin_base", model=ClassifierConfig(model="swin_base", size=224, drop_path=0.5))


def deit3_small_100ep() -> TrainConfig:
    """ViT-S in 100 epochs instead of 400, for comparing embeddings: no published result to expect.

    Cost: a quarter of `deit3_small`.
    """
    small = deit3_small()
    return replace(small, recipe="deit3_small_100ep", optim=replace(small.optim, epochs=100))


def swin_tiny_100ep() -> TrainConfig:
    """Swin-T in 100 epochs instead of 300, for comparing embeddings: no published result to expect.

    Cost: a third of `swin_tiny`.
    """
    tiny = swin_tiny()
    return replace(tiny, recipe="swin_tiny_100ep", optim=replace(tiny.optim, epochs=100, warmup_epochs=7))


def deit3_small_imagenet100() -> TrainConfig:
    """ViT-S on 100 classes of ImageNet, 200 epochs of 512 images per step: no published result to expect.

    Cost: about a twentieth of `deit3_small`.
    """
    small = deit3_small()
    optim = replace(small.optim, lr=2e-3, epochs=200, ema_decay=0.9999)
    return replace(small, recipe="deit3_small_imagenet100", batch_size=512, optim=optim)


def fashion() -> TrainConfig:
    """A ViT of four layers on the embedded images at 28 px, in minutes on a CPU: no published result to expect.

    Cost: 8 epochs of 10,000 images.
    """
    return TrainConfig(
        recipe="fashion",
        data="fashion",
        batch_size=128,
        crop_pct=1.0,
        model=ClassifierConfig(model="deit_tiny", size=28, width=64, depth=4, heads=4, patch_size=4),
        augment=AugmentConfig(auto_augment="simple", scale=(0.8, 1.0), mixup=0.0, cutmix=0.0, aug_repeats=1),
        optim=OptimConfig(lr=4e-3, epochs=8, warmup_epochs=1),
        run=RunConfig(workers=0, log_interval=10),
    )


RECIPES: dict[str, Callable[[], TrainConfig]] = {
    recipe.__name__: recipe
    for recipe in (
        deit3_small, deit3_base, deit3_base_finetune, deit3_large, deit3_large_finetune,
        swin_tiny, swin_small, swin_base,
        deit3_small_100ep, swin_tiny_100ep, deit3_small_imagenet100, fashion,
    )
}  # fmt: skip

#: Recipes whose weights the paper reports on.
PUBLISHED = (
    "deit3_small", "deit3_base_finetune", "deit3_large_finetune", "swin_tiny", "swin_small", "swin_base",
)  # fmt: skip


def find_recipe(name: str) -> TrainConfig:
    """Return the config of a recipe by name.

    Raises:
        ValueError: If there is no such recipe.
    """
    if name not in RECIPES:
        raise ValueError(f"no recipe named {name!r}; choose one of {', '.join(RECIPES)}")
    return RECIPES[name]()


def expected_top1(config: TrainConfig) -> float | None:
    """Return the published top-1 of a recipe at 224 px, in percent; None if there is none."""
    return TOP1.get(config.model.name, {}).get(224) if config.recipe in PUBLISHED else None


def _training_images(config: TrainConfig) -> int:
    """Return the number of training images."""
    return {"fashion": 10_000, "deit3_small_imagenet100": IMAGENET_100}.get(config.recipe, IMAGENET)


def images_seen(config: TrainConfig) -> float:
    """Return the number of images seen in a training, over all epochs."""
    images = _training_images(config)
    return config.optim.length_in_epochs(images / config.batch_size) * images


def training_cost(config: TrainConfig) -> float:
    """Return the MACs of a training: three times a forward pass (forward and backward) for every image."""
    per_image = count_macs(config.model.build(num_classes=1000), config.model.size, config.model.size)
    return 3.0 * per_image * images_seen(config)


def recipe_facts(config: TrainConfig) -> dict[str, str]:
    """Return the columns of a recipe in `ropevit train --list`."""
    expected = expected_top1(config)
    return {
        "pixels": str(config.model.size),
        "expected": "" if expected is None else f"{expected:.1f}",
        "cost": f"{training_cost(config) / 1e18:.2g}",
    }
