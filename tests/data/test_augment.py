import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps
from torch.testing import assert_close
from torchvision import transforms

from ropevit.data.augment import AugmentConfig, eval_transform, train_transform
from ropevit.data.loading import seeded


@pytest.fixture
def photo():
    return Image.merge("RGB", [Image.effect_noise((90, 60), 90) for _ in range(3)])


def steps(**options):
    return {type(step).__name__: step for step in train_transform(AugmentConfig(**options), 64).transforms}


def test_the_defaults_are_those_of_deit_iii():
    config = AugmentConfig()
    assert (config.auto_augment, config.jitter, config.hflip, config.interpolation) == (
        "three_augment",
        0.3,
        0.5,
        "bicubic",
    )
    assert (config.scale, config.ratio) == ((0.08, 1.0), (3 / 4, 4 / 3))
    assert (config.mixup, config.cutmix, config.mixup_prob, config.mixup_switch_prob) == (0.8, 1.0, 1.0, 0.5)
    assert (config.random_erasing, config.label_smoothing, config.aug_repeats) == (0.0, 0.0, 3)


def test_three_augment_has_the_published_steps_and_parameters():
    found = steps()
    assert list(found) == ["RandomResizedCrop", "RandomHorizontalFlip", "AutoAugment", "ColorJitter", "PILToTensor"]
    crop, jitter = found["RandomResizedCrop"], found["ColorJitter"]
    assert (crop.size, crop.scale, crop.ratio) == ((64, 64), (0.08, 1.0), (3 / 4, 4 / 3))
    assert crop.interpolation == transforms.InterpolationMode.BICUBIC
    assert found["RandomHorizontalFlip"].p == 0.5
    assert jitter.brightness == jitter.contrast == jitter.saturation == (0.7, 1.3)
    assert jitter.hue is None


def test_three_augment_applies_one_of_grayscale_solarize_and_blur(photo, monkeypatch):
    policy, radii = steps()["AutoAugment"], []
    monkeypatch.setattr(ImageFilter, "GaussianBlur", lambda radius: radii.append(radius) or ImageFilter.BoxBlur(0))
    ours = {"solarized": ImageOps.solarize(photo, 128), "gray": photo.convert("L").convert("RGB"), "blurred": photo}
    names = {image.tobytes(): name for name, image in ours.items()}
    random.seed(0)
    seen = [names[policy(photo).tobytes()] for _ in range(1500)]
    assert all(abs(seen.count(name) / 1500 - 1 / 3) < 0.04 for name in ours), "each as often, and never nothing"
    assert len(radii) == seen.count("blurred")
    low, middle, high = np.quantile(radii, [0, 0.5, 1])
    assert 0.1 <= low < 0.12
    assert abs(middle - 1.05) < 0.1
    assert 1.98 < high <= 2


def test_rand_augment_has_the_published_settings():
    found = steps(auto_augment="rand_augment")
    assert list(found) == ["RandomResizedCrop", "RandomHorizontalFlip", "RandAugment", "PILToTensor"]
    policy = found["RandAugment"]
    assert policy.num_layers == 2
    assert policy.choice_weights is None
    assert sorted(op.name for op in policy.ops) == [
        "AutoContrast", "BrightnessIncreasing", "ColorIncreasing", "ContrastIncreasing", "Equalize", "Invert",
        "PosterizeIncreasing", "Rotate", "SharpnessIncreasing", "ShearX", "ShearY", "SolarizeAdd", "SolarizeIncreasing",
        "TranslateXRel", "TranslateYRel",
    ]  # fmt: skip
    for op in policy.ops:
        assert (op.magnitude, op.magnitude_std, op.prob) == (9, 0.5, 0.5)
        assert (op.kwargs["fillcolor"], op.kwargs["resample"]) == ((124, 116, 104), Image.Resampling.BICUBIC)


def test_rand_augment_works_at_every_magnitude(photo):
    small = photo.resize((8, 8))
    for op in steps(auto_augment="rand_augment")["RandAugment"].ops:
        op.prob = 1.0
        for seed in range(200):  # one draw in 44 is the greatest magnitude
            with seeded(seed):
                assert op(small).size == (8, 8)
        if op.name == "PosterizeIncreasing":
            op.magnitude, op.magnitude_std = 10, 0
            assert op(small).getextrema() == ((0, 0),) * 3
            op.magnitude = 9
            assert op(small).getcolors(), "one bit a channel is left"
            assert {value for _, color in op(small).getcolors() for value in color} == {0, 128}


def test_every_policy_returns_square_uint8_tensors_in_shareable_memory(photo):
    for kind in ("three_augment", "rand_augment", "simple", "none"):
        transform = train_transform(AugmentConfig(auto_augment=kind), 48)
        with seeded(1):
            image = transform(photo)
        random.random(), np.random.random(), torch.rand(1)  # noqa: NPY002
        with seeded(1):
            again = pickle.loads(pickle.dumps(transform))(photo)
        assert (image.shape, image.dtype) == ((3, 48, 48), torch.uint8)
        assert_close(image, again, rtol=0, atol=0)
        with seeded(2):
            assert torch.equal(transform(photo), image) == (kind == "none")


def test_the_evaluation_crop_is_that_of_the_published_evaluations():
    found = eval_transform(224, 0.875).transforms
    assert (found[1].size, found[1].interpolation) == (256, transforms.InterpolationMode.BICUBIC)
    for size in (144, 160, 192, 224, 256, 320, 384, 512):
        assert eval_transform(size, 0.875).transforms[1].size == int(256 / 224 * size)
        assert eval_transform(size).transforms[1].size == size
    ramp = Image.fromarray(np.tile(np.arange(90, dtype=np.uint8), (60, 1))).convert("RGB")
    assert eval_transform(60)(ramp)[0, 30].tolist() == list(range(15, 75)), "the middle"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"auto_augment": "auto"}, "auto_augment 'auto'; choose one of three_augment, rand_augment, simple, none"),
        ({"interpolation": "random"}, "interpolation 'random'; choose"),
        ({"hflip": 1.5}, "hflip=1.5; expected 0 to 1"),
        ({"random_erasing": -0.1}, "random_erasing=-0.1"),
        ({"scale": (0.5, 0.1)}, "the smaller one first"),
        ({"aug_repeats": 0}, "repeats of 1 or more"),
        ({"auto_augment": "none", "color_jitter": 0.1}, "which applies no augmentation"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_invalid_settings_raise(options, message):
    with pytest.raises(ValueError, match=message):
        AugmentConfig(**options)
    with pytest.raises(ValueError, match="crop_ratio=0"):
        eval_transform(32, 0)


def test_a_very_elongated_image_is_cropped_before_resizing(monkeypatch):
    sizes, resize = [], Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda self, size, *a, **k: sizes.append(size) or resize(self, size, *a, **k)
    )
    thin = Image.new("RGB", (60000, 2))
    thin.paste("red", (29000, 0, 31000, 2))
    assert eval_transform(32)(thin)[0].min() == 255, "the middle"
    assert eval_transform(32)(thin.transpose(Image.Transpose.ROTATE_90))[0].min() == 255
    assert sizes == [(32 * 16, 32), (32, 32 * 16)]
