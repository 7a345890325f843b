"""Configuration of UperNet, Mask2Former and the linear head, and published settings of UperNet on a ViT."""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import tyro

from ropevit.tasks.dense.config import check_not_negative, check_positive, check_width
from ropevit.tasks.segment.inference import SLIDE, InferenceConfig


@dataclass(frozen=True, kw_only=True)
class UperNetConfig:
    """Options of UperNet, without its backbone; the defaults are mmseg's.

    Raises:
        ValueError: If a field is out of range.

    Source: Xiao et al. 2018 (arXiv:1807.10221), with mmseg's auxiliary head and dropout.
    """

    classes: Annotated[int, tyro.conf.Suppress] = 150
    """Number of classes, K. A training takes those of its data."""
    channels: int = 512
    """Channels of the head's feature maps."""
    pool_sizes: tuple[int, ...] = (1, 2, 3, 6)
    """Grid sizes of pyramid pooling on the coarsest map (mmseg pool_scales)."""
    dropout: float = 0.1
    """Rate of channel dropout (Dropout2d) before the classification layers of both heads."""
    auxiliary_map: int = 2
    """Feature map of the auxiliary head, from 0 (mmseg in_index)."""
    auxiliary_channels: int = 256
    """Channels of the auxiliary head."""
    auxiliary_weight: float = 0.4
    """Weight of the auxiliary loss."""

    def __post_init__(self):
        object.__setattr__(self, "pool_sizes", tuple(self.pool_sizes))
        check_positive(self, "classes", "channels", "auxiliary_channels")
        if not self.pool_sizes or min(self.pool_sizes) < 1:
            raise ValueError(f"got pool_sizes={self.pool_sizes}; expected at least one, each at least 1")
        if not 0 <= self.dropout < 1 or not self.auxiliary_weight > 0 or not 0 <= self.auxiliary_map <= 3:
            raise ValueError(
                f"got dropout={self.dropout:g}, auxiliary_weight={self.auxiliary_weight:g}, "
                f"auxiliary_map={self.auxiliary_map}; expected dropout from 0 to below 1, a weight above 0, a map "
                "from 0 to 3"
            )


#: How the feature maps of a ViT are upsampled: transposed convolutions (BEiT, XCiT), or resizing between convolutions.
Neck = Literal["transposed", "resized"]


@dataclass(frozen=True, kw_only=True)
class UperNetProfile:
    """A paper's settings for UperNet with a ViT on ADE20K: 160 000 steps of 16 crops of 512 pixels, with AdamW.

    All blocks have global attention, at any image size. Biases and vectors have no weight decay.
    """

    head: UperNetConfig
    """Options of UperNet."""
    out_indices: tuple[int, int, int, int]
    """Blocks whose outputs become feature maps, from 0; the last one is the last block."""
    drop_path: float
    """Rate of stochastic depth in the last block, growing linearly from 0 in the first."""
    lr: float
    """Peak learning rate."""
    weight_decay: float
    """Weight decay of matrices."""
    inference: InferenceConfig
    """Inference settings, for images with a shorter side of 512 pixels and a longer one of at most 2048."""
    layer_decay: float | None = None
    """Layer-wise learning rate decay from a block to the one before; None uses one learning rate for all."""
    neck: Neck = "transposed"
    """Neck of the ViT."""
    batch_size: int = 16
    """Crops per step, over all processes."""
    steps: int = 160_000
    """Training steps."""
    crop: int = 512
    """Side of the crops in pixels."""
    warmup_steps: int = 1500
    """Steps of linear learning rate warmup."""
    warmup_start: float = 1e-6
    """Learning rate at the first step, relative to the peak."""
    power: float = 1.0
    """Power of the polynomial learning rate schedule."""


_BEITV2 = UperNetProfile(
    head=UperNetConfig(channels=768),
    out_indices=(3, 5, 7, 11),
    drop_path=0.15,
    lr=5e-5,
    weight_decay=0.05,
    layer_decay=0.75,
    inference=SLIDE,
)

#: Profiles by name; each is for a ViT of a certain depth.
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
class LinearConfig:
    """Options of the linear head, without its backbone; the defaults are those of DINOv3's evaluation.

    Raises:
        ValueError: If a field is out of range.

    Source: Siméoni et al. 2025 (arXiv:2508.10104).
    """

    classes: Annotated[int, tyro.conf.Suppress] = 150
    """Number of classes, K. A training takes those of its data."""
    dropout: float = 0.1
    """Rate of channel dropout (Dropout2d) before the classification layer."""

    def __post_init__(self):
        check_positive(self, "classes")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"got dropout={self.dropout:g}; expected from 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class Mask2FormerConfig:
    """Options of Mask2Former, without its backbone; the defaults are the official ones for ADE20K.

    Raises:
        ValueError: If a field is out of range.

    Source: Cheng et al. 2021 (arXiv:2112.01527).
    """

    classes: Annotated[int, tyro.conf.Suppress] = 150
    """Number of classes, K, without "no object". A training takes those of its data."""
    queries: int = 100
    """Number of queries, Q (num_queries)."""
    width: int = 256
    """Channels of feature maps, tokens and queries, C (hidden_dim)."""
    heads: int = 8
    """Attention heads."""
    encoder_layers: int = 6
    """Layers of the pixel decoder's encoder."""
    encoder_mlp_width: int = 1024
    """Hidden channels of its MLPs."""
    decoder_layers: int = 9
    """Layers of the transformer decoder; in training, each of them and the initial queries predict masks."""
    decoder_mlp_width: int = 2048
    """Hidden channels of its MLPs."""
    dropout: float = 0.0
    """Dropout rate."""
    class_weight: float = 2.0
    """Weight of the cross-entropy of classes, in the loss and in the matching cost."""
    mask_weight: float = 5.0
    """Weight of the cross-entropy of masks, in the loss and in the matching cost."""
    dice_weight: float = 5.0
    """Weight of the dice loss of masks, in the loss and in the matching cost."""
    nothing_weight: float = 0.1
    """Weight of the class "no object" in the cross-entropy (no_object_weight)."""
    points: int = 12544
    """Points sampled per mask for its losses (train_num_points)."""
    oversample: float = 3.0
    """Candidate points per sampled point (oversample_ratio)."""
    uncertain_share: float = 0.75
    """Fraction of the points that are the most uncertain candidates (importance_sample_ratio); others are uniform."""

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
