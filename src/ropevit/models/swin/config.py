"""Fields of a Swin transformer, and their checks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from ropevit.kernels.windows import ceil_div
from ropevit.models.config import ModelConfig, as_pair
from ropevit.models.positions import SWIN_EMBEDDINGS
from ropevit.models.rotary import check_rotation
from ropevit.rope import ROPE_TYPES


@dataclass(frozen=True, kw_only=True)
class SwinConfig(ModelConfig):
    """Everything that makes a Swin transformer; written into its checkpoints.

    Raises:
        ValueError: If a field is out of range or two fields do not fit.
    """

    embeddings: ClassVar = SWIN_EMBEDDINGS
    crop_pct: ClassVar = 0.875
    paper_sizes: ClassVar = (160, 192, 224, 256, 320, 384)
    windowed: ClassVar = True

    width: int = 96
    """Channels of the first stage, C; each later stage has twice those of the one before."""
    depths: tuple[int, ...] = (2, 2, 6, 2)
    """Blocks of each stage."""
    heads: tuple[int, ...] = (3, 6, 12, 24)
    """Heads of each stage."""
    patch_size: int = 4
    """Side of a patch in pixels."""
    window_size: int = 7
    """Side of a window in tokens; the paper takes 1/32 of the image's side."""
    drop_path: float = 0.0
    """Rate of stochastic depth in the last block, growing from 0 in the first."""

    def __post_init__(self):
        super().__post_init__()
        for field in ("depths", "heads"):
            object.__setattr__(self, field, tuple(getattr(self, field)))  # lists, where the config was read from JSON
        if min(self.img_size) < 1:
            raise ValueError(f"got img_size={self.img_size}; expected pixels, above 0")
        self.check_least(width=1, patch_size=1, window_size=1)
        self.check_heads()

    def check_heads(self) -> None:
        """Refuse stages whose channels the heads do not share equally."""
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

    @classmethod
    def default_theta(cls, rope_type: str) -> float:
        """Base of the frequencies of a rope type in windows."""
        return ROPE_TYPES[rope_type].swin_theta

    @property
    def attention_grid(self) -> tuple[int, int]:
        """Rows and columns of tokens that attend to each other: those of a window."""
        return self.window_size, self.window_size

    @property
    def multiple(self) -> int:
        """Number of pixels that must divide both sides of an image: any size will do."""
        return 1

    @property
    def stride(self) -> int:
        """Pixels from one token of the last stage to the next."""
        return self.patch_size * 2 ** (len(self.depths) - 1)

    @property
    def example_size(self) -> tuple[int, int]:
        """Height and width in pixels of an image that is no special case: several windows in each stage."""
        return 2 * self.window_size * self.stride, 3 * self.window_size * self.stride

    def at_size(self, size: int | Sequence[int], trained_at: int | None = None) -> "SwinConfig":
        """Return the config with which the paper evaluates images of another size: its windows grow with the image.

        Args:
            size: Side of a square, or height and width, in pixels.
            trained_at: Side of the images for which the windows of this config are; None takes the smaller one of
                `img_size`.
        """
        size = as_pair(size)
        window = ceil_div(self.window_size * min(size), trained_at or min(self.img_size))
        return replace(self, img_size=size, window_size=window)


def paper_window(height: int, width: int) -> int:
    """Return the side of the windows, in tokens, that the paper takes: 1/32 of the (smaller) side, rounded up."""
    return ceil_div(min(height, width), 32)
