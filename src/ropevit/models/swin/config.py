"""Config of a Swin transformer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from ropevit.arithmetic import ceil_div
from ropevit.models.config import ModelConfig, as_pair
from ropevit.models.positions import SWIN_EMBEDDINGS
from ropevit.models.rotary import check_rotation


@dataclass(frozen=True, kw_only=True)
class SwinConfig(ModelConfig):
    """Config of a Swin transformer; stored in its checkpoints.

    Raises:
        ValueError: If a field is out of range or two fields contradict each other.
    """

    embeddings: ClassVar = SWIN_EMBEDDINGS
    crop_pct: ClassVar = 0.875
    paper_sizes: ClassVar = (160, 192, 224, 256, 320, 384)
    windowed: ClassVar = True

    width: int = 96
    """Channels of the first stage, C; each later stage has twice as many as the one before."""
    depths: tuple[int, ...] = (2, 2, 6, 2)
    """Blocks of each stage."""
    heads: tuple[int, ...] = (3, 6, 12, 24)
    """Heads of each stage."""
    patch_size: int = 4
    """Side of a patch in pixels."""
    window_size: int = 7
    """Side of a window in tokens; 1/32 of the image size in the paper."""
    drop_path: float = 0.0
    """Rate of stochastic depth in the last block, growing from 0 in the first."""

    def __post_init__(self):
        super().__post_init__()
        for field in ("depths", "heads"):
            object.__setattr__(self, field, tuple(getattr(self, field)))  # lists if the config was read from JSON
        if min(self.img_size) < 1:
            raise ValueError(f"got img_size={self.img_size}; expected pixels, above 0")
        self.check_least(width=1, patch_size=1, window_size=1)
        self.check_heads()

    @property
    def num_features(self) -> int:
        """Channels of the last stage, which the head takes."""
        return self.width * 2 ** (len(self.depths) - 1)

    def check_heads(self) -> None:
        """Raise ValueError unless heads match depths and divide the channels of each stage."""
        if len(self.depths) != len(self.heads) or not self.depths or min(*self.depths, *self.heads) < 1:
            raise ValueError(f"got depths={self.depths}, heads={self.heads}; expected as many, each at least 1")
        for stage, heads in enumerate(self.heads):
            channels = self.width * 2**stage
            if channels % heads or (self.rope and channels // heads % 4):
                raise ValueError(
                    f"got {channels} channels for {heads} heads in stage {stage}; expected a multiple of the heads, "
                    "and with rotation heads of a multiple of 4 channels"
                )
            check_rotation(self, channels // heads, heads)

    @property
    def attention_grid(self) -> tuple[int, int]:
        """Rows and columns of tokens that attend to each other: those of a window."""
        return self.window_size, self.window_size

    @property
    def multiple(self) -> int:
        """Number of pixels that must divide both sides of an image: 1, as any size is accepted."""
        return 1

    @property
    def stride(self) -> int:
        """Stride of the last stage in pixels."""
        return self.patch_size * 2 ** (len(self.depths) - 1)

    @property
    def example_size(self) -> tuple[int, int]:
        """Height and width in pixels of a generic test image: several windows in each stage."""
        return 2 * self.window_size * self.stride, 3 * self.window_size * self.stride

    def at_size(self, size: int | Sequence[int], trained_at: int | None = None) -> "SwinConfig":
        """Return the config for evaluation at another image size, as in the paper: windows grow with the image.

        Args:
            size: Side of a square, or height and width, in pixels.
            trained_at: Image size in pixels of this config's windows; None for the smaller side of `img_size`.
        """
        size = as_pair(size)
        window = ceil_div(self.window_size * min(size), trained_at or min(self.img_size))
        return replace(self, img_size=size, window_size=window)


def paper_window(height: int, width: int) -> int:
    """Return the paper's window size in tokens: 1/32 of the smaller side of the image, rounded up."""
    return ceil_div(min(height, width), 32)
