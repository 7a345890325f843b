"""Configuration of DINO: architecture, denoising, matching costs and loss weights."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from ropevit.tasks.dense.config import check_not_negative, check_positive, check_width


@dataclass(frozen=True, kw_only=True)
class DinoConfig:
    """Options of a DINO detector without its backbone; the defaults are detrex's.

    Raises:
        ValueError: If a field is out of range.

    Source: Zhang et al. 2022 (arXiv:2203.03605), with detrex's settings where its published weights depend on them.
    """

    classes: Annotated[int, tyro.conf.Suppress] = 80
    """Number of object classes, K, without a background class; training takes it from the data."""
    queries: int = 900
    """Object queries per image, Q (num_queries in detrex and transformers)."""
    width: int = 256
    """Channels of tokens and queries, C (d_model)."""
    heads: int = 8
    """Attention heads."""
    levels: int = 4
    """Feature levels (num_feature_levels): the backbone's maps, and coarser ones added up to this number."""
    points: int = 4
    """Sampling points per head and level (n_points)."""
    mlp_width: int = 2048
    """Hidden channels of the MLPs in encoder and decoder."""
    encoder_layers: int = 6
    """Encoder layers."""
    decoder_layers: int = 6
    """Decoder layers; each refines the boxes."""
    dropout: float = 0.0
    """Dropout rate."""
    denoising: int = 100
    """Positive denoising queries per image, with as many negatives (dn_number); 0 disables denoising."""
    label_noise: float = 0.5
    """Twice the probability that a denoising query has a random class (label_noise_ratio)."""
    box_noise: float = 1.0
    """Maximum shift of the corners of a positive denoising box, in half widths and heights (box_noise_scale); negatives
    twice that."""
    match_class: float = 2.0
    """Weight of the focal cost in matching (cost_class)."""
    match_box: float = 5.0
    """Weight of the L1 cost in matching (cost_bbox)."""
    match_giou: float = 2.0
    """Weight of the GIoU cost in matching (cost_giou)."""
    loss_class: float = 1.0
    """Weight of the focal loss."""
    loss_box: float = 5.0
    """Weight of the L1 loss of boxes."""
    loss_giou: float = 2.0
    """Weight of the GIoU losses."""
    focal_alpha: float = 0.25
    """Alpha of the focal loss: weight of positives; negatives weigh 1 - alpha."""
    focal_gamma: float = 2.0
    """Focusing exponent of the focal loss."""

    def __post_init__(self):
        check_positive(self, "classes", "queries", "width", "heads", "levels", "points", "mlp_width")
        check_positive(self, "encoder_layers", "decoder_layers")
        check_not_negative(self, "denoising", "label_noise", "box_noise", "match_class", "match_box", "match_giou")
        check_not_negative(self, "loss_class", "loss_box", "loss_giou", "focal_gamma")
        check_width(self.width, self.heads)
        if not 0 <= self.dropout < 1 or not 0 <= self.focal_alpha <= 1 or self.label_noise > 2:
            raise ValueError(
                f"got dropout={self.dropout:g}, focal_alpha={self.focal_alpha:g}, label_noise={self.label_noise:g}; "
                "expected dropout below 1, focal_alpha up to 1, label_noise up to 2"
            )
