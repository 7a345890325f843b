"""Benchmark shapes: attention layers and models of commonly used sizes."""

from dataclasses import dataclass


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


#: The ViT of the model level, by device type, and for a quick run.
SIZES = {
    "cpu": ModelSize(name="ViT-S/16", width=384, depth=12, heads=6, images=8),
    "cuda": ModelSize(name="ViT-B/16", width=768, depth=12, heads=12, images=256),
    "quick": ModelSize(name="ViT of 2 layers", width=192, depth=2, heads=3, images=2),
}
