"""Fields of a Swin transformer, and their checks."""

from dataclasses import dataclass
from typing import ClassVar

from ropevit.models.config import ModelConfig
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
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches for which an absolute embedding is learned."""
        return -(-self.img_size[0] // self.patch_size), -(-self.img_size[1] // self.patch_size)
