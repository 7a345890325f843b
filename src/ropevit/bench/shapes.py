"""Benchmark shapes: attention layers and models of commonly used sizes."""

from dataclasses import dataclass, replace
from typing import NamedTuple


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Dimensions of one attention layer."""

    name: str
    h: int
    """Rows of patches of an image or a window."""
    w: int
    """Columns of patches."""
    heads: int = 12
    channels: int = 64
    """Channels per head, D."""
    prefix: int = 1
    """Number of class and register tokens, which come first."""
    windows: int = 1
    """Windows per image; each is one batch row."""
    gpu_images: int = 256
    cpu_images: int = 8

    @property
    def tokens(self) -> int:
        """Tokens per batch row, N."""
        return self.prefix + self.h * self.w

    def rows(self, device: str, images: int | None = None) -> int:
        """Return the batch rows, B, on a device type (cpu, cuda); `images` overrides the default number of images."""
        usual = self.cpu_images if device == "cpu" else self.gpu_images
        return (images or usual) * self.windows

    def elements(self, rows: int) -> int:
        """Return the number of elements of one of q, k and v."""
        return rows * self.tokens * self.heads * self.channels


def swin(stage: int, heads: int) -> Shape:
    """Return the shape of a stage of Swin-B at 224 pixels: windows of 7 x 7 patches, no prefix."""
    windows = 4 ** (4 - stage)
    return Shape(name=f"swin{stage}", h=7, w=7, heads=heads, channels=32, prefix=0, windows=windows)


#: ViT-B/16 at 224, 512 and 1024 pixels; ViT-S; with registers; the stages of Swin-B; wide heads.
SHAPES = {
    shape.name: shape
    for shape in (
        Shape(name="vit224", h=14, w=14),
        Shape(name="vit512", h=32, w=32, gpu_images=64, cpu_images=2),
        Shape(name="vit1024", h=64, w=64, gpu_images=16, cpu_images=1),
        Shape(name="vits224", h=14, w=14, heads=6),
        Shape(name="reg4", h=16, w=16, prefix=5),
        swin(1, 4),
        swin(2, 8),
        swin(3, 16),
        swin(4, 32),
        Shape(name="hd128", h=14, w=14, heads=6, channels=128),
    )
}


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """Dimensions of a ViT with patches of 16 pixels."""

    name: str
    width: int
    depth: int
    heads: int
    images: int
    pixels: int = 224


_QUICK = ModelSize(name="ViT of 2 layers", width=192, depth=2, heads=3, images=2)
#: The ViT of the model level, by device type, and for a quick run.
SIZES = {
    "cpu": ModelSize(name="ViT-S/16", width=384, depth=12, heads=6, images=8),
    "cuda": ModelSize(name="ViT-B/16", width=768, depth=12, heads=12, images=256),
    "quick": _QUICK,
}


class MixedSizes(NamedTuple):
    """A batch of images of several sizes, and the ViT that they are for."""

    model: ModelSize
    images: tuple[tuple[int, int], ...]
    """Height and width in pixels."""


class ScaleSizes(NamedTuple):
    """What the level scale times: each model at several image sizes, the smallest first."""

    vit: tuple[ModelSize, ...]
    swin: tuple[ModelSize, ...]
    mixed: MixedSizes


def _scale_sizes(images: int, mixed_images: int) -> ScaleSizes:
    """Return the sizes of ViT-S and Swin-T; a Swin's are multiples of 224, which need no padding to windows."""
    vit = ModelSize(name="ViT-S/16", width=384, depth=12, heads=6, images=images)
    swin = ModelSize(name="Swin-T", width=96, depth=12, heads=3, images=images)
    sides = ((224, 224), (384, 256), (256, 512), (448, 448), (160, 320), (320, 240), (512, 384), (192, 192))
    return ScaleSizes(
        tuple(replace(vit, pixels=pixels) for pixels in (224, 384, 512, 768, 1024)),
        tuple(replace(swin, pixels=pixels) for pixels in (224, 448, 672, 896)),
        MixedSizes(vit, sides * (mixed_images // len(sides))),
    )


#: Sizes of the level scale, by device type, and for a quick run.
SCALE_SIZES = {
    "cpu": _scale_sizes(images=8, mixed_images=8),
    "cuda": _scale_sizes(images=256, mixed_images=128),
    "quick": ScaleSizes(
        tuple(replace(_QUICK, pixels=side) for side in (64, 128)),
        (),
        MixedSizes(_QUICK, ((64, 64), (96, 64), (32, 128))),
    ),
}
