"""What happens to a picture before it is a batch's: random changes to train on, a plain crop to measure on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from PIL import Image, ImageOps
from torch import Tensor

from ropevit.data.imagenet import MEAN
from ropevit.extras import require

Kind = Literal["three_augment", "rand_augment", "simple", "none"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
#: From a picture to uint8 (3, S, S); to be normalised on the device.
Transform: TypeAlias = Callable[[Image.Image], Tensor]

#: Greatest change of brightness, contrast and saturation where the config does not say.
COLOR_JITTER = {"three_augment": 0.3, "rand_augment": 0.0, "simple": 0.0, "none": 0.0}
#: Times that a picture to measure on may be as long as it is wide before its ends are cut off.
MAX_ASPECT_RATIO = 16
#: Magnitude 9 with a spread of 0.5, two operations, harder ones with larger magnitudes.
RAND_AUGMENT = "rand-m9-mstd0.5-inc1"


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How training images are varied; the defaults train ViT from scratch.

    Source: DeiT III (Touvron et al. 2022, arXiv:2204.07118), as Heo et al. 2024 (arXiv:2403.13298) use it.
    """

    kind: Kind = "three_augment"
    """three_augment: random crop, flip, one of grey, solarized and blurred, colours. rand_augment: random crop, flip,
    two operations of RandAugment. simple: random crop and flip. none: the middle, as for measuring."""
    color_jitter: float | None = None
    """Greatest change of brightness, contrast and saturation, after all else. None: 0.3 with three_augment, else none,
    as published (RandAugment has colours of its own)."""
    hflip: float = 0.5
    """Share of images that are mirrored left to right."""
    scale: tuple[float, float] = (0.08, 1.0)
    """Least and greatest area of a random crop, as a share of the image."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Least and greatest ratio of a crop's width to its height."""
    interpolation: Interpolation = "bicubic"
    """How crops are resized; shrinking averages."""
    random_erasing: float = 0.0
    """Share of images of which a random part is replaced by noise, on the device (0.25 for Swin)."""
    mixup: float = 0.8
    """Beta parameter of how much of another image is mixed in; 0 is never."""
    cutmix: float = 1.0
    """Beta parameter of how much of another image is pasted in; 0 is never."""
    mixup_prob: float = 1.0
    """Share of batches that are mixed or pasted."""
    mixup_switch_prob: float = 0.5
    """Share of those that are pasted, where both are on."""
    label_smoothing: float = 0.0
    """Part of each label that is spread over all classes (0.1 for Swin and for fine-tuning)."""
    repeats: int = 3
    """Times that an image of an epoch is drawn (repeated augmentation); epochs have that many times fewer images."""

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("kind", self.kind, get_args(Kind)),
            ("interpolation", self.interpolation, get_args(Interpolation)),
        ):
            if value not in choices:
                raise ValueError(f"got {name} {value!r}; choose one of {', '.join(choices)}")
        for name in ("hflip", "random_erasing", "mixup_prob", "mixup_switch_prob", "label_smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"got {name}={getattr(self, name)}; expected 0 to 1")
        if not 0 < self.scale[0] <= self.scale[1] <= 1 or not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(
                f"got scale={self.scale}, ratio={self.ratio}; expected a scale of two shares up to 1, the smaller one "
                "first, and a ratio likewise of positive numbers"
            )
        if min(self.mixup, self.cutmix, self.jitter) < 0 or self.repeats < 1:
            raise ValueError(
                f"got mixup={self.mixup}, cutmix={self.cutmix}, color_jitter={self.jitter}, repeats={self.repeats}; "
                "expected none below 0, and repeats of 1 or more"
            )
        if self.kind == "none" and self.jitter:
            raise ValueError(f"got color_jitter={self.jitter} with kind none, which changes nothing; choose simple")

    @property
    def jitter(self) -> float:
        """Greatest change of brightness, contrast and saturation."""
        return COLOR_JITTER[self.kind] if self.color_jitter is None else self.color_jitter


def train_transform(config: AugmentConfig, size: int) -> Transform:
    """Make the random transform of training images.

    It draws from Python's, numpy's and torch's global generators.

    Args:
        config: How images are varied.
        size: Side of the result in pixels.

    Raises:
        MissingExtraError: If torchvision or timm is not installed.
    """
    if config.kind == "none":
        return eval_transform(size)
    vision = require("torchvision.transforms", "train")
    mode = vision.InterpolationMode(config.interpolation)
    steps = [
        vision.RandomResizedCrop(size, config.scale, config.ratio, mode),
        vision.RandomHorizontalFlip(config.hflip),
    ]
    if config.kind != "simple":
        steps.append(policy(config, size))
    if config.jitter:
        steps.append(vision.ColorJitter(config.jitter, config.jitter, config.jitter))
    return vision.Compose([*steps, vision.PILToTensor()])


def policy(config: AugmentConfig, size: int) -> Any:
    """Make timm's 3-Augment or RandAugment; the latter fills what it moves in with ImageNet's mean colour."""
    timm = require("timm.data.auto_augment", "train")
    if config.kind == "three_augment":
        return timm.auto_augment_transform("3a", {})
    options = {
        "translate_const": int(size * 0.45),
        "img_mean": tuple(round(255 * value) for value in MEAN),
        "interpolation": Image.Resampling[config.interpolation.upper()],
    }
    made = timm.rand_augment_transform(RAND_AUGMENT, options)
    for op in made.ops:
        if op.name.startswith("Posterize"):
            op.aug_fn = posterize
    return made


def posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """Keep the upper bits of each channel; with none of them left, at the greatest magnitude, the image is black.

    So it was in the published trainings; Pillow refuses 0 bits from version 13 on, and timm does not expect that.
    """
    if bits == 0:
        return Image.new(image.mode, image.size)
    return image if bits >= 8 else ImageOps.posterize(image, bits)


def eval_transform(size: int, crop_ratio: float = 1.0) -> Transform:
    """Make the transform of images to measure on: resize (bicubic, antialiased), cut out the middle.

    Args:
        size: Side of the result in pixels.
        crop_ratio: `size` as a share of the shorter side after resizing, which is rounded down to whole pixels: 1 for
            ViT, 0.875 for Swin.

    Raises:
        MissingExtraError: If torchvision is not installed.
        ValueError: If the ratio is not above 0 and at most 1.

    Source: the evaluation of Heo et al. 2024 (arXiv:2403.13298).
    """
    if not 0 < crop_ratio <= 1:
        raise ValueError(f"got crop_ratio={crop_ratio}; expected above 0 and at most 1")
    vision = require("torchvision.transforms", "train")
    resize = vision.Resize(int(size / crop_ratio), vision.InterpolationMode.BICUBIC)
    return vision.Compose([crop_extreme_aspect, resize, vision.CenterCrop(size), vision.PILToTensor()])


def crop_extreme_aspect(image: Image.Image) -> Image.Image:
    """Cut the ends off a picture many times as long as it is wide, of which the middle is wanted.

    Resized as a whole, one of 2 x 60,000 pixels would take gigabytes.
    """
    width, height = image.size
    most = MAX_ASPECT_RATIO * min(image.size)
    if max(image.size) <= most:
        return image
    left, top = max(0, (width - most) // 2), max(0, (height - most) // 2)
    return image.crop((left, top, left + min(width, most), top + min(height, most)))
