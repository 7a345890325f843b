from dataclasses import replace

import pytest

from ropevit.models.published import TOP1
from ropevit.tasks.classify.config import ClassifierConfig, TrainConfig
from ropevit.tasks.classify.recipes import RECIPES, expected_top1, find_recipe, training_cost

#: recipe -> what the paper and its code say of it
PUBLISHED = {
    "deit3_small": {
        "epochs": 400, "size": 224, "batch_size": 2048, "optimizer": "lamb", "lr": 4e-3, "weight_decay": 0.03,
        "drop_path": 0.0, "loss": "binary", "label_smoothing": 0.0, "auto_augment": "three_augment", "jitter": 0.3,
        "aug_repeats": 3, "ema_decay": 0.99996, "crop_pct": 1.0,
    },
    "deit3_base": {
        "epochs": 400, "size": 192, "batch_size": 2048, "optimizer": "lamb", "lr": 3e-3, "weight_decay": 0.03,
        "drop_path": 0.1, "loss": "binary", "label_smoothing": 0.0, "auto_augment": "three_augment", "aug_repeats": 3,
    },
    "deit3_base_finetune": {
        "epochs": 20, "size": 224, "batch_size": 512, "optimizer": "adamw", "lr": 1e-5, "weight_decay": 0.1,
        "drop_path": 0.2, "loss": "soft", "label_smoothing": 0.1, "auto_augment": "rand_augment", "jitter": 0.0,
        "aug_repeats": 1,
    },
    "deit3_large": {
        "epochs": 400, "size": 192, "batch_size": 2048, "optimizer": "lamb", "lr": 3e-3, "weight_decay": 0.03,
        "drop_path": 0.4, "loss": "binary", "label_smoothing": 0.0, "auto_augment": "three_augment", "aug_repeats": 3,
    },
    "deit3_large_finetune": {
        "epochs": 20, "size": 224, "batch_size": 512, "optimizer": "adamw", "lr": 1e-5, "weight_decay": 0.1,
        "drop_path": 0.45, "loss": "soft", "label_smoothing": 0.1, "auto_augment": "rand_augment", "aug_repeats": 1,
    },
    "swin_tiny": {
        "epochs": 300, "warmup_epochs": 20, "warmup_prefix": True, "size": 224, "batch_size": 1024,
        "optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.05, "clip_grad": 5.0, "drop_path": 0.2, "loss": "soft",
        "label_smoothing": 0.1, "auto_augment": "rand_augment", "random_erasing": 0.25, "aug_repeats": 1,
        "ema_decay": None, "crop_pct": 0.875,
    },
    "swin_small": {"drop_path": 0.3, "lr": 1e-3},
    "swin_base": {"drop_path": 0.5, "lr": 1e-3},
}  # fmt: skip

#: The same in all published recipes.
COMMON = {"mixup": 0.8, "cutmix": 1.0, "mixup_prob": 1.0, "mixup_switch_prob": 0.5, "opt_eps": 1e-8, "warmup_lr": 1e-6,
          "min_lr": 1e-5, "scale": (0.08, 1.0), "hflip": 0.5, "interpolation": "bicubic"}  # fmt: skip


def value(config, name):
    """Find a field in a config or in one of its parts."""
    parts = [part for part in (config, config.model, config.augment, config.optim) if hasattr(part, name)]
    return getattr(parts[0], name)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_is_the_published_one(name):
    config = find_recipe(name)
    wanted = COMMON | PUBLISHED[name]
    assert {field: value(config, field) for field in wanted} == wanted
    assert config.recipe == name
    if name.startswith("deit3"):
        assert config.optim.warmup_epochs == 5
        assert not config.optim.warmup_prefix
        assert config.optim.clip_grad is None  # LAMB clips by itself


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_says_what_it_costs_and_what_to_expect(name):
    text = RECIPES[name].__doc__ or ""
    assert "Cost: " in text
    assert "Expected top-1" in text or "no published result" in text or "follows" in text
    config = find_recipe(name)
    assert expected_top1(config) is None or f"rope_mixed {expected_top1(config)}" in text
    for position, family in (("rope_axial", "deit_"), ("rpb", "swin_")):
        other = (
            replace(config, model=replace(config.model, position=position)) if family in config.model.model else None
        )
        expected = None if other is None else expected_top1(other)
        assert expected is None or f"{position} {TOP1[other.model.name][224]}" in text


def test_the_cost_is_three_forward_passes_for_each_image_of_each_epoch():
    small = find_recipe("deit3_small")  # 4.6 G multiply-adds an image, as the literature has it
    assert training_cost(small) == pytest.approx(3 * 4.6e9 * 400 * 1_281_167, rel=0.01)


def test_an_unknown_recipe_is_refused_with_the_names_of_all():
    with pytest.raises(ValueError, match="no recipe named 'resnet'; choose one of deit3_small"):
        find_recipe("resnet")


def test_smoothed_labels_do_not_fit_the_binary_loss():
    small = find_recipe("deit3_small")
    with pytest.raises(ValueError, match=r"got label_smoothing=0.1 with loss='binary'"):
        replace(small, augment=replace(small.augment, label_smoothing=0.1))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": "resnet"}, "no model named 'resnet'; see ropevit.list_models"),
        ({"position": "rpb"}, "got position 'rpb' for deit_small; choose one of none, ape"),
        ({"model": "swin_tiny", "width": 96, "depth": 3}, "no option named depth"),
        ({"size": 100}, "16"),
    ],
)
def test_a_model_that_does_not_exist_is_refused_before_anything_is_read(fields, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(recipe="mine", model=ClassifierConfig(**fields))
