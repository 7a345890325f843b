"""Image transforms: random augmentation for training, a center crop for evaluation."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from PIL import Image, ImageOps
from torch import Tensor

from ropevit.data.imagenet import MEAN
from ropevit.extras import require

AutoAugment = Literal["three_augment", "rand_augment", "simple", "none"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
#: Image -> uint8 (3, S, S); normalized later, on the device.
Transform: TypeAlias = Callable[[Image.Image], Tensor]

#: Default strength of color jitter for each policy.
_COLOR_JITTER = {"three_augment": 0.3, "rand_augment": 0.0, "simple": 0.0, "none": 0.0}
#: Largest aspect ratio of an evaluation image; more elongated ones are cropped first.
_MAX_ASPECT_RATIO = 16
#: RandAugment policy in timm's notation: magnitude 9 with standard deviation 0.5, two operations, increasing severity.
_RAND_AUGMENT = "rand-m9-mstd0.5-inc1"


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Augmentation of training images; the defaults are those of ViT from scratch.

    Source: DeiT III (Touvron et al. 2022, arXiv:2204.07118), as Heo et al. 2024 (arXiv:2403.13298) use it.
    """

    auto_augment: AutoAugment = "three_augment"
    """three_augment: random crop, flip, one of grayscale, solarize and blur, color jitter. rand_augment: random crop,
    flip, RandAugment. simple: random crop and flip. none: center crop, as in evaluation."""
    color_jitter: float | None = None
    """Color jitter: maximum change of brightness, contrast and saturation, applied last. None: 0.3 with three_augment,
    0 otherwise, as published."""
    hflip: float = 0.5
    """Probability of a horizontal flip."""
    scale: tuple[float, float] = (0.08, 1.0)
    """Minimum and maximum area of a random crop, as a fraction of the image."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Minimum and maximum aspect ratio (width over height) of a random crop."""
    interpolation: Interpolation = "bicubic"
    """Interpolation of resized crops, with antialiasing."""
    random_erasing: float = 0.0
    """Probability of random erasing with noise, on the device (0.25 for Swin)."""
    mixup: float = 0.8
    """Mixup alpha; 0 disables mixup."""
    cutmix: float = 1.0
    """CutMix alpha; 0 disables CutMix."""
    mixup_prob: float = 1.0
    """Probability of applying mixup or CutMix to a batch."""
    mixup_switch_prob: float = 0.5
    """Probability of CutMix instead of mixup, where both are enabled."""
    label_smoothing: float = 0.0
    """Label smoothing (0.1 for Swin and for fine-tuning)."""
    aug_repeats: int = 3
    """Repeated augmentation: how often each image of an epoch is drawn; an epoch has that many times fewer different
    images."""

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("auto_augment", self.auto_augment, get_args(AutoAugment)),
            ("interpolation", self.interpolation, get_args(Interpolation)),
        ):
            if value not in choices:
                raise ValueError(f"got {name} {value!r}; choose one of {', '.join(choices)}")
        for name in ("hflip", "random_erasing", "mixup_prob", "mixup_switch_prob", "label_smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"got {name}={getattr(self, name)}; expected 0 to 1")
        if not 0 < self.scale[0] <= self.scale[1] <= 1 or not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(
                f"got scale={self.scale}, ratio={self.ratio}; expected scale as two fractions up to 1, the smaller one "
                "first, and ratio as two positive numbers likewise"
            )
        if min(self.mixup, self.cutmix, self.jitter) < 0 or self.aug_repeats < 1:
            raise ValueError(
                f"got mixup={self.mixup}, cutmix={self.cutmix}, color_jitter={self.jitter}, "
                f"aug_repeats={self.aug_repeats}; expected none below 0, and repeats of 1 or more"
            )
        if self.auto_augment == "none" and self.jitter:
            raise ValueError(
                f"got color_jitter={self.jitter} with auto_augment=none, which applies no augmentation; choose simple"
            )

    @property
    def jitter(self) -> float:
        """Maximum change of brightness, contrast and saturation."""
        return _COLOR_JITTER[self.auto_augment] if self.color_jitter is None else self.color_jitter


def train_transform(config: AugmentConfig, size: int) -> Transform:
    """Build the random transform of training images.

    It draws from Python's, numpy's and torch's global generators.

    Args:
        config: Augmentation settings.
        size: Side of the result in pixels.

    Raises:
        MissingExtraError: If torchvision or timm is not installed.
    """
    if config.auto_augment == "none":
        return eval_transform(size)
    vision = require("torchvision.transforms", "train")
    mode = vision.InterpolationMode(config.interpolation)
    steps = [
        vision.RandomResizedCrop(size, config.scale, config.ratio, mode),
        vision.RandomHorizontalFlip(config.hflip),
    ]
    if config.auto_augment != "simple":
        steps.append(policy(config, size))
    if config.jitter:
        steps.append(vision.ColorJitter(config.jitter, config.jitter, config.jitter))
    return vision.Compose([*steps, vision.PILToTensor()])


def policy(config: AugmentConfig, size: int) -> Any:
    """Build timm's 3-Augment or RandAugment; RandAugment fills uncovered areas with ImageNet's mean color."""
    timm = require("timm.data.auto_augment", "train")
    if config.auto_augment == "three_augment":
        return timm.auto_augment_transform("3a", {})
    options = {
        "translate_const": int(size * 0.45),
        "img_mean": tuple(round(255 * value) for value in MEAN),
        "interpolation": Image.Resampling[config.interpolation.upper()],
    }
    made = timm.rand_augment_transform(_RAND_AUGMENT, options)
    for op in made.ops:
        if op.name.startswith("Posterize"):
            op.aug_fn = _posterize
    return made


def _posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """Keep the upper `bits` bits of each channel; 0 bits, at the greatest magnitude, give a black image.

    This matches the published trainings: Pillow refuses 0 bits since version 13, which timm does not handle.
    """
    if bits == 0:
        return Image.new(image.mode, image.size)
    return image if bits >= 8 else ImageOps.posterize(image, bits)


def eval_transform(size: int, crop_ratio: float = 1.0, squash: bool = False) -> Transform:
    """Build the evaluation transform: resize (bicubic, antialiased) and center crop.

    Args:
        size: Side of the result in pixels.
        crop_ratio: `size` as a fraction of the shorter side after resizing (timm's crop_pct), rounded down to whole
            pixels: 1 for ViT, 0.875 for Swin.
        squash: Resize the whole image to a square instead, without keeping its aspect ratio (timm's crop_mode squash).

    Raises:
        MissingExtraError: If torchvision is not installed.
        ValueError: If the ratio is not above 0 and at most 1.

    Source: the evaluation of Heo et al. 2024 (arXiv:2403.13298).
    """
    if not 0 < crop_ratio <= 1:
        raise ValueError(f"got crop_ratio={crop_ratio}; expected above 0 and at most 1")
    vision = require("torchvision.transforms", "train")
    side = int(size / crop_ratio)
    resize = vision.Resize((side, side) if squash else side, vision.InterpolationMode.BICUBIC)
    return vision.Compose([_crop_extreme_aspect, resize, vision.CenterCrop(size), vision.PILToTensor()])


def _crop_extreme_aspect(image: Image.Image) -> Image.Image:
    """Crop the middle of a very elongated image before it is resized.

    Resizing all of a 2 x 60,000 pixel image would take gigabytes.
    """
    width, height = image.size
    most = _MAX_ASPECT_RATIO * min(image.size)
    if max(image.size) <= most:
        return image
    left, top = max(0, (width - most) // 2), max(0, (height - most) // 2)
    return image.crop((left, top, left + min(width, most), top + min(height, most)))
