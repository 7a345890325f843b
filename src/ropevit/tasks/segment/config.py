"""Configuration of UperNet and Mask2Former, and published settings of UperNet on a ViT."""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import tyro

from ropevit.tasks.dense.config import check_not_negative, check_positive, check_width
from ropevit.tasks.segment.inference import SLIDE, InferenceConfig


@dataclass(frozen=True, kw_only=True)
class UperNetConfig:
    """A UperNet without its backbone; the defaults are mmseg's.

    Raises:
        ValueError: If a field is out of range.

    Source: Xiao et al. 2018 (arXiv:1807.10221), with mmseg's auxiliary head and dropout.
    """

    classes: Annotated[int, tyro.conf.Suppress] = 150
    """Classes of pixels, K. A training takes those of its data."""
    channels: int = 512
    """Channels of the head's maps."""
    pool_sizes: tuple[int, ...] = (1, 2, 3, 6)
    """Sides of the grids to which the coarsest map is pooled."""
    dropout: float = 0.1
    """Share of channels that are dropped before the pixels are classified, in both heads, in training."""
    auxiliary_map: int = 2
    """Map that the auxiliary head classifies in training, from 0."""
    auxiliary_channels: int = 256
    """Channels of the auxiliary head."""
    auxiliary_weight: float = 0.4
    """Weight of its loss."""

    def __post_init__(self):
        object.__setattr__(self, "pool_sizes", tuple(self.pool_sizes))
        check_positive(self, "classes", "channels", "auxiliary_channels")
        if not self.pool_sizes or min(self.pool_sizes) < 1:
            raise ValueError(f"got pool_sizes={self.pool_sizes}; expected one at least, each at least 1")
        if not 0 <= self.dropout < 1 or not self.auxiliary_weight > 0 or not 0 <= self.auxiliary_map <= 3:
            raise ValueError(
                f"got dropout={self.dropout:g}, auxiliary_weight={self.auxiliary_weight:g}, "
                f"auxiliary_map={self.auxiliary_map}; expected dropout from 0 to below 1, a weight above 0, a map "
                "from 0 to 3"
            )


#: How maps are made of a ViT's tokens: by transposed convolutions (BEiT, XCiT), or resized between two convolutions.
Neck = Literal["transposed", "resized"]


@dataclass(frozen=True, kw_only=True)
class UperNetProfile:
    """How a paper trains UperNet on a ViT on ADE20K: 160 000 steps of 16 crops of 512 pixels, by AdamW.

    All blocks attend everywhere, at any size of images. Biases and vectors are not decayed.
    """

    head: UperNetConfig
    """The head."""
    out_indices: tuple[int, int, int, int]
    """Blocks whose tokens become maps, from 0; the last one is the body's last."""
    drop_path: float
    """Share of residual branches that are dropped in the last block, from 0 in the first."""
    lr: float
    """Highest learning rate."""
    weight_decay: float
    """Of matrices."""
    inference: InferenceConfig
    """How it is tested, with the short side at 512 pixels and the long one at most 2048."""
    layer_decay: float | None = None
    """Ratio of the learning rates of a block and the next one; None learns all at the same rate."""
    neck: Neck = "transposed"
    """How maps are made."""
    batch_size: int = 16
    """Crops of a step, of all processes."""
    steps: int = 160_000
    """Steps of the training."""
    crop: int = 512
    """Side of the crops in pixels."""
    warmup_steps: int = 1500
    """Steps in which the learning rate rises linearly."""
    warmup_start: float = 1e-6
    """Learning rate at the first step over that after the warm-up."""
    power: float = 1.0
    """Of the polynomial by which the learning rate falls to 0."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of AdamW."""


_BEITV2 = UperNetProfile(
    head=UperNetConfig(channels=768),
    out_indices=(3, 5, 7, 11),
    drop_path=0.15,
    lr=5e-5,
    weight_decay=0.05,
    layer_decay=0.75,
    inference=SLIDE,
)

#: Profiles by name; the sizes of the bodies that they are for are part of it, others are `replace(...)`.
PROFILES = {
    "beitv2": _BEITV2,
    "beitv2_large": replace(
        _BEITV2,
        head=UperNetConfig(channels=1024),
        out_indices=(7, 11, 15, 23),
        drop_path=0.2,
        lr=4e-5,
        layer_decay=0.9,
    ),
    "xcit": UperNetProfile(
        head=UperNetConfig(channels=512),
        out_indices=(7, 11, 15, 23),
        drop_path=0.1,
        lr=6e-5,
        weight_decay=0.01,
        inference=InferenceConfig(),
    ),
    "mmseg": UperNetProfile(
        head=UperNetConfig(channels=512, auxiliary_map=3),
        out_indices=(2, 5, 8, 11),
        drop_path=0.1,
        lr=6e-5,
        weight_decay=0.01,
        inference=InferenceConfig(),
        neck="resized",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Mask2FormerConfig:
    """A Mask2Former without its backbone; the defaults are the official ones, for ADE20K.

    Raises:
        ValueError: If a field is out of range.

    Source: Cheng et al. 2021 (arXiv:2112.01527).
    """

    classes: Annotated[int, tyro.conf.Suppress] = 150
    """Classes of pixels, K; one more for queries that stand for nothing. A training takes those of its data."""
    queries: int = 100
    """Masks that are made of an image, Q."""
    width: int = 256
    """Channels of maps, tokens and queries, C."""
    heads: int = 8
    """Heads of each attention."""
    encoder_layers: int = 6
    """Layers that work on the maps."""
    encoder_mlp_width: int = 1024
    """Hidden channels of their MLPs."""
    decoder_layers: int = 9
    """Layers that work on the queries; each, and the queries before the first, makes masks in training."""
    decoder_mlp_width: int = 2048
    """Hidden channels of their MLPs."""
    dropout: float = 0.0
    """Share of activations that are dropped in training."""
    class_weight: float = 2.0
    """Weight of the classes' cross-entropy, in the loss and in the matching."""
    mask_weight: float = 5.0
    """Weight of the masks' cross-entropy, likewise."""
    dice_weight: float = 5.0
    """Weight of the masks' dice loss, likewise."""
    nothing_weight: float = 0.1
    """Weight of queries that stand for nothing among the classes'."""
    points: int = 12544
    """Points of each mask that are compared."""
    oversample: float = 3.0
    """Points that are drawn for each point that is compared, to choose from."""
    uncertain_share: float = 0.75
    """Share of the points that are the least certain of those; the others are anywhere."""

    def __post_init__(self):
        counts = "classes", "queries", "width", "heads", "encoder_layers", "encoder_mlp_width", "decoder_layers"
        check_positive(self, *counts, "decoder_mlp_width", "points", "oversample")
        check_not_negative(self, "class_weight", "mask_weight", "dice_weight", "nothing_weight")
        check_width(self.width, self.heads)
        if not 0 <= self.dropout < 1 or not 0 <= self.uncertain_share <= 1:
            raise ValueError(
                f"got dropout={self.dropout:g}, uncertain_share={self.uncertain_share:g}; expected dropout from 0 to "
                "below 1, uncertain_share from 0 to 1"
            )
