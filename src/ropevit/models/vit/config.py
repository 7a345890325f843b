"""Config of a vision transformer."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from ropevit.models.config import ModelConfig
from ropevit.models.mlp import MLPS
from ropevit.models.positions import VIT_EMBEDDINGS
from ropevit.models.rotary import check_rotation
from ropevit.models.sizes import check_frames, check_size
from ropevit.rope import DISTANCE_BIAS_TYPES, ROPE_TYPES, RopeConvention


@dataclass(frozen=True, kw_only=True)
class ViTConfig(ModelConfig):
    """Config of a ViT; stored in its checkpoints.

    Raises:
        ValueError: If a field is out of range or two fields contradict each other.
    """

    embeddings: ClassVar = VIT_EMBEDDINGS
    crop_pct: ClassVar = 1.0
    paper_sizes: ClassVar = (144, 192, 224, 256, 320, 384, 512)
    later_fields: ClassVar = (
        "rope_convention",
        "mlp",
        "norm_eps",
        "qkv_bias",
        "key_bias",
        "mask_token",
        "pooled_norm",
        "embed_prefix",
        "pre_norm",
        "pool_heads",
        "attn_norm",
        "final_norm",
    )
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
    """Prepend a class token."""
    num_registers: int = 0
    """Number of register tokens, between the class token and the patches."""
    pooling: Literal["token", "avg", "map"] = "token"
    """Pooling: the class token, the mean of the patch tokens, or multihead attention pooling over all tokens."""
    layer_scale: float | None = 1e-4
    """Initial value of LayerScale, or None for none."""
    drop_path_rule: Literal["constant", "linear"] = "constant"
    """The same rate in all blocks (as published), or growing from 0 in the first to the full rate in the last."""
    frames: int | None = None
    """Frames (or slices of a volume) for which a temporal embedding is learned; inputs may differ. None: images."""
    tubelet: int = 1
    """Frames per patch."""
    pairs: tuple[int, int, int] | None = None
    """Pairs of a head for x, y and t, for RoPE with three axes; None gives t a quarter, and x and y the rest.
    An image model with rope_axial may reserve unrotated pairs for t, to be inflated to video later."""
    rope_convention: RopeConvention = RopeConvention()  # noqa: RUF009 (frozen)
    """Convention of positions and pairs in the family of the weights; the default is that of the published models."""
    mlp: Literal["gelu", "swiglu", "swiglu_norm"] = "gelu"
    """MLP of the blocks: two layers with a GELU between them; or SwiGLU, optionally with a norm on the hidden channels
    (timm: scale_mlp)."""
    norm_eps: float = 1e-6
    """Epsilon of the norms."""
    qkv_bias: bool = True
    """Whether the projection to queries, keys and values has a bias."""
    key_bias: bool = True
    """Whether the bias of the keys is used; False stores, but ignores it, as DINOv3 does."""
    pooled_norm: bool = False
    """Apply the final norm after pooling; features are then not normalized."""
    embed_prefix: bool = False
    """Beside the absolute embedding of the patches, learn one of the class and register tokens."""
    pre_norm: bool = False
    """Apply a norm to all tokens before the blocks; the projection of the patches then has no bias."""
    attn_norm: bool = False
    """Apply LayerNorm to the concatenated head outputs, before the output projection (timm: scale_attn_norm)."""
    final_norm: bool = True
    """Whether there is a final norm, after the blocks or after the pooling."""
    pool_heads: int = 8
    """Number of heads of attention pooling."""
    mask_token: bool = False
    """Hold the token of masked patches in pre-training, as files of DINOv3 do; the model does not use it."""

    def __post_init__(self):
        super().__post_init__()
        self.check_choice("pooling", ("token", "avg", "map"))
        self.check_choice("drop_path_rule", ("constant", "linear"))
        self.check_choice("mlp", tuple(MLPS))
        if not self.norm_eps > 0:
            raise ValueError(f"got norm_eps={self.norm_eps}; expected above 0, such as 1e-6")
        if self.embed_prefix and not (self.absolute and (self.class_token or self.num_registers)):
            raise ValueError(
                f"got embed_prefix=True for {self.position}; expected an absolute embedding and prefix tokens"
            )
        if self.pooling == "map" and (self.pool_heads < 1 or self.width % self.pool_heads):
            raise ValueError(f"got pool_heads={self.pool_heads}; expected a divisor of the width {self.width}")
        if self.pooled_norm and not self.final_norm:
            raise ValueError("got pooled_norm=True without a final norm; leave out final_norm=False")
        if not (self.qkv_bias or self.key_bias):
            raise ValueError("got qkv_bias=False, key_bias=False; without biases leave key_bias out")
        if self.pooling == "token" and not self.class_token:
            raise ValueError("got pooling='token' without a class token; set class_token=True or pooling='avg'")
        self.check_least(width=1, depth=1, heads=1, patch_size=1, num_registers=0)
        if self.width % self.heads:
            raise ValueError(f"got width={self.width}, heads={self.heads}; the width must be a multiple of the heads")
        channels = self.width // self.heads
        if self.rope and channels % 4:
            raise ValueError(f"got heads of {channels} channels; {self.position} needs a multiple of 4 for x and y")
        self.check_axes()
        self.check_convention()
        check_rotation(self, channels, self.heads)
        check_size(*self.img_size, self.patch_size)

    def check_axes(self) -> None:
        """Raise ValueError for options that do not apply to images, or to videos."""
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
        if self.distance is not None and 3 not in DISTANCE_BIAS_TYPES[self.distance].axes:
            raise ValueError(f"got frames={self.frames} for {self.position}, which has two axes; take another bias")
        if self.rope == "axial" and self.pairs is None and self.pairs_per_axis == (1, 1, 0):
            raise ValueError("got heads of 4 channels, whose 2 pairs leave none for t; give pairs= or fewer heads")
        if self.scaling is not None:
            raise ValueError(
                f"got scaling={self.scaling!r} with frames={self.frames}; expected scaling=None for videos"
            )

    def check_convention(self) -> None:
        """Raise ValueError for a rotation convention with options that it does not go with."""
        if self.rope_convention == RopeConvention():
            return
        if self.rope != "axial" or self.distance is not None or self.is_video or self.pairs is not None:
            raise ValueError(
                f"got a rope_convention for {self.position} with frames={self.frames}, pairs={self.pairs}; it is for "
                "rope_axial and rope_axial_ape on images, with equally many pairs for x and y: leave it out"
            )

    @property
    def num_prefix_tokens(self) -> int:
        """Number of class and register tokens, which precede the patches."""
        return int(self.class_token) + self.num_registers

    @property
    def is_other_family(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether it is a model of other authors, with a rotation convention of its own."""
        return self.rope_convention != ViTConfig.rope_convention

    @property
    def allows_three_axes(self) -> bool:
        """Whether the RoPE type supports three axes: x, y and t."""
        return self.rope is not None and 3 in ROPE_TYPES[self.rope].axes

    @property
    def is_video(self) -> bool:
        """Whether the model takes clips (B, c, T, H, W) rather than images."""
        return self.frames is not None

    @property
    def pairs_per_axis(self) -> tuple[int, ...] | None:
        """Pairs of a head for x, y and t; None, with two axes, for an equal split.

        Source: Yang et al. 2024 (arXiv:2408.06072), CogVideoX: a quarter of the channels for t by default. Here
        at least one pair for small heads; heads of 4 channels have no pair for t.
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
