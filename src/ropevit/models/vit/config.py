"""Fields of a vision transformer, and their checks."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from ropevit.models.config import ModelConfig
from ropevit.models.positions import VIT_EMBEDDINGS
from ropevit.models.rotary import check_rotation
from ropevit.models.sizes import check_frames, check_size
from ropevit.rope import ROPE_TYPES


@dataclass(frozen=True, kw_only=True)
class ViTConfig(ModelConfig):
    """Everything that makes a ViT; written into its checkpoints.

    Raises:
        ValueError: If a field is out of range or two fields do not fit.
    """

    embeddings: ClassVar = VIT_EMBEDDINGS
    crop_pct: ClassVar = 1.0
    paper_sizes: ClassVar = (144, 192, 224, 256, 320, 384, 512)
    dense_fields: ClassVar = {"drop_path_rule": "linear"}  # as in ViTDet, BEiT and mmseg; constant in the classifier

    width: int
    """Channels of a token, C."""
    depth: int
    """Number of blocks."""
    heads: int
    """Number of heads, A; a head has D = C / A channels."""
    patch_size: int = 16
    """Side of a patch in pixels."""
    class_token: bool = True
    """Put a class token in front."""
    num_registers: int = 0
    """Register tokens, between the class token and the patches."""
    pooling: Literal["token", "avg"] = "token"
    """Classify the class token, or the mean of the patch tokens."""
    layer_scale: float | None = 1e-4
    """Start of LayerScale, or None to have none."""
    drop_path_rule: Literal["constant", "linear"] = "constant"
    """The same rate in all blocks (as published), or growing from 0 in the first to the full rate in the last."""
    frames: int | None = None
    """Frames (or slices of a volume) for which a temporal embedding is learned; any number may be fed. None: images."""
    tubelet: int = 1
    """Frames in a patch."""
    pairs: tuple[int, int, int] | None = None
    """Pairs of a head for x, y and t, where a rotation has three axes; None gives t a quarter, and x and y the rest.
    An image with rope_axial may leave the pairs of t unturned, for a video to come."""

    def __post_init__(self):
        super().__post_init__()
        self.check_choice("pooling", ("token", "avg"))
        self.check_choice("drop_path_rule", ("constant", "linear"))
        if self.pooling == "token" and not self.class_token:
            raise ValueError("got pooling='token' without a class token; set class_token=True or pooling='avg'")
        self.check_least(width=1, depth=1, heads=1, patch_size=1, num_registers=0)
        if self.width % self.heads:
            raise ValueError(f"got width={self.width}, heads={self.heads}; the width must be a multiple of the heads")
        channels = self.width // self.heads
        if self.rope and channels % 4:
            raise ValueError(f"got heads of {channels} channels; {self.position} needs a multiple of 4 for x and y")
        self.check_axes()
        check_rotation(self, channels, self.heads)
        check_size(*self.img_size, self.patch_size)

    def check_axes(self) -> None:
        """Refuse what makes no sense for images, or for videos."""
        if self.pairs is not None:
            if isinstance(self.pairs, int) or len(self.pairs) != 3:
                raise ValueError(f"got pairs={self.pairs}; expected three counts: for x, y and t")
            object.__setattr__(self, "pairs", tuple(self.pairs))
            if not self.allows_three_axes or (self.learns_rope and not self.is_video):
                kind = "a video" if self.is_video else "images"
                raise ValueError(f"got pairs={self.pairs} for {self.position} on {kind}, which has no use for them")
        self.check_least(tubelet=1)
        if self.frames is None:
            if self.tubelet != 1:
                raise ValueError(f"got tubelet={self.tubelet} without frames; add frames=, such as {8 * self.tubelet}")
            return
        self.check_least(frames=1)
        check_frames(self.frames, self.tubelet)
        if self.rope is not None and not self.allows_three_axes:
            raise ValueError(f"got frames={self.frames} for {self.position}, which has two axes; take axial or mixed")
        if self.rope == "axial" and self.pairs is None and self.pairs_per_axis == (1, 1, 0):
            raise ValueError("got heads of 4 channels, whose 2 pairs leave none for t; give pairs= or fewer heads")
        if self.scaling is not None:
            raise ValueError(f"got scaling={self.scaling!r} with frames={self.frames}; rules are for images: leave it")

    @property
    def allows_three_axes(self) -> bool:
        """Whether the rotation, if any, can turn along x, y and t."""
        return self.rope is not None and 3 in ROPE_TYPES[self.rope].axes

    @property
    def is_video(self) -> bool:
        """Whether the model takes clips (B, c, T, H, W) rather than images."""
        return self.frames is not None

    @property
    def pairs_per_axis(self) -> tuple[int, ...] | None:
        """Pairs of a head for x, y and t; None, with two axes, shares them equally.

        Source: Yang et al. 2024 (arXiv:2408.06072), CogVideoX: a quarter of the channels for t, if none are given. Here
        at least one pair, where heads are small; heads of 4 channels have none to give.
        """
        if self.pairs is not None or not self.is_video:
            return self.pairs
        total = self.width // self.heads // 2
        spatial = min(round(3 * total / 8), max(1, (total - 1) // 2))
        return spatial, spatial, total - 2 * spatial

    def input_shape(self, height: int, width: int) -> tuple[int, ...]:
        """Return the shape of one image, or clip, of a size in pixels, without the batch."""
        return (self.in_channels, *(() if self.frames is None else (self.frames,)), height, width)

    @property
    def patch(self) -> tuple[int, ...]:
        """Sides of a patch: rows and columns in pixels; of a tubelet also its frames, first."""
        return (self.tubelet,) * self.is_video + (self.patch_size, self.patch_size)

    @property
    def steps(self) -> int | None:
        """Tubelets along t for which a temporal embedding is learned; None for images."""
        return None if self.frames is None else self.frames // self.tubelet
