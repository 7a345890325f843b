"""What is timed on: the attention layers and the models whose sizes people use."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of one attention layer."""

    name: str
    h: int
    """Rows of patches, of an image or of a window."""
    w: int
    """Columns of patches."""
    heads: int = 12
    channels: int = 64
    """Channels per head, D."""
    prefix: int = 1
    """Class and register tokens in front."""
    windows: int = 1
    """Windows of an image; each is a row of the batch."""
    gpu_images: int = 256
    cpu_images: int = 8

    @property
    def tokens(self) -> int:
        """Tokens in a row of the batch, N."""
        return self.prefix + self.h * self.w

    def rows(self, device: str, images: int | None = None) -> int:
        """Rows of the batch, B, on a kind of device (cpu, cuda); `images` replaces the usual number of images."""
        usual = self.cpu_images if device == "cpu" else self.gpu_images
        return (images or usual) * self.windows

    def elements(self, rows: int) -> int:
        """Numbers in one of q, k and v."""
        return rows * self.tokens * self.heads * self.channels


def swin(stage: int, heads: int) -> Shape:
    """Give a stage of Swin-B at 224 pixels: windows of 7 x 7 patches, no prefix."""
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
    """Sizes of a whole ViT with patches of 16 pixels."""

    name: str
    width: int
    depth: int
    heads: int
    images: int
    pixels: int = 224


#: The ViT of the model level, by kind of device, and for a first taste.
SIZES = {
    "cpu": ModelSize(name="ViT-S/16", width=384, depth=12, heads=6, images=8),
    "cuda": ModelSize(name="ViT-B/16", width=768, depth=12, heads=12, images=256),
    "quick": ModelSize(name="ViT of 2 layers", width=192, depth=2, heads=3, images=2),
}
