"""What makes a DINO detector, and how it is trained."""

from dataclasses import dataclass
from typing import Annotated

import tyro

#: Groups of the neck's GroupNorm.
GROUPS = 32


@dataclass(frozen=True, kw_only=True)
class DinoConfig:
    """A DINO detector without its backbone; the defaults are detrex's.

    Raises:
        ValueError: If a field is out of range.

    Source: Zhang et al. 2022 (arXiv:2203.03605), with detrex's choices where its published weights depend on them.
    """

    classes: Annotated[int, tyro.conf.Suppress] = 80
    """Classes of objects, K; there is none for the background. A training takes those of its data."""
    queries: int = 900
    """Objects that are looked for in an image, Q."""
    width: int = 256
    """Channels of every token and query, C."""
    heads: int = 8
    """Heads of each attention."""
    levels: int = 4
    """Feature maps that are attended to: the backbone's, and as many coarser ones as are missing."""
    points: int = 4
    """Places that a head samples in each map."""
    mlp_width: int = 2048
    """Hidden channels of the encoder's and the decoder's MLPs."""
    encoder_layers: int = 6
    """Layers that work on the maps."""
    decoder_layers: int = 6
    """Layers that work on the queries; each refines the boxes."""
    dropout: float = 0.0
    """Share of activations that are dropped in training."""
    denoising: int = 100
    """Noisy boxes that an image with one box is trained with, as many again as negatives; 0 switches this off."""
    label_noise: float = 0.5
    """Twice the probability that a denoising query is told a random class."""
    box_noise: float = 1.0
    """Farthest that the corners of a positive denoising box are moved, in half widths and heights; negatives: twice."""
    match_class: float = 2.0
    """Weight of the focal cost when queries are matched with boxes."""
    match_box: float = 5.0
    """Weight of the L1 distance when queries are matched with boxes."""
    match_giou: float = 2.0
    """Weight of the generalised IoU when queries are matched with boxes."""
    loss_class: float = 1.0
    """Weight of the focal losses."""
    loss_box: float = 5.0
    """Weight of the L1 losses."""
    loss_giou: float = 2.0
    """Weight of the losses of generalised IoU."""
    focal_alpha: float = 0.25
    """Weight of positives in the focal loss; negatives weigh 1 - alpha."""
    focal_gamma: float = 2.0
    """How much less a focal loss weighs what is known well."""

    def __post_init__(self):
        positive = "classes", "queries", "width", "heads", "levels", "points", "mlp_width"
        for name in (*positive, "encoder_layers", "decoder_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"got {name}={getattr(self, name)}; expected at least 1")
        weights = "match_class", "match_box", "match_giou", "loss_class", "loss_box", "loss_giou"
        for name in ("denoising", "label_noise", "box_noise", *weights, "focal_gamma"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"got {name}={getattr(self, name)}; expected 0 or more")
        if self.width % self.heads or self.width % GROUPS:
            raise ValueError(f"got width={self.width}; expected a multiple of heads={self.heads} and of {GROUPS}")
        if not 0 <= self.dropout < 1 or not 0 <= self.focal_alpha <= 1 or self.label_noise > 2:
            raise ValueError(
                f"got dropout={self.dropout:g}, focal_alpha={self.focal_alpha:g}, label_noise={self.label_noise:g}; "
                "expected dropout below 1, focal_alpha up to 1, label_noise up to 2"
            )
