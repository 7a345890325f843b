"""UperNet: each pixel's class from all maps of a backbone, pooled and merged from coarse to fine."""

from typing import Any, NamedTuple

import torch.distributed as dist
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from ropevit.extras import require
from ropevit.models.dense import Backbone
from ropevit.tasks.segment.base import STRIDES, SegmentationModel, pixel_loss, resize_logits
from ropevit.tasks.segment.config import UperNetConfig


class PixelLogits(NamedTuple):
    """Predictions of a UperNet for a batch."""

    logits: Float[Tensor, "B K h w"]
    """Of each class, in cells of 4 pixels."""
    auxiliary: Float[Tensor, "B K h2 w2"] | None
    """Those of the auxiliary head, at the size of its map; None in eval mode."""


class UperNet(SegmentationModel):
    """Classify pixels by transformers' UperNet, started and regularised as mmseg does.

    Its batch norms need two images a process in training, or several processes on GPUs whose norms are synchronised:
    `nn.SyncBatchNorm.convert_sync_batchnorm(model)`, which the published trainings do.

    >>> profile = PROFILES["beitv2"]
    >>> backbone = make_vit_backbone(get_config("rope_mixed_deit_base_patch16_LS"), profile)
    >>> model = UperNet(backbone, profile.head)
    >>> losses = upernet_losses(model(images), labels, model.config)
    >>> labels = segment(model.eval().logits, [images], (683, 512), profile.inference)

    Args:
        backbone: With maps of strides 4, 8, 16 and 32.
        config: What the heads are made of.

    Raises:
        MissingExtraError: If transformers is not installed.
        ValueError: If the backbone has other maps.

    Source: Xiao et al. 2018 (arXiv:1807.10221); auxiliary head: Zhao et al. 2016 (arXiv:1612.01105), 3.3.
    """

    def __init__(self, backbone: Backbone, config: UperNetConfig):
        super().__init__(backbone)
        parts: Any = require("transformers.models.upernet.modeling_upernet", "dense")
        self.config = config
        theirs = parts.UperNetConfig(
            num_labels=config.classes,
            hidden_size=config.channels,
            pool_scales=config.pool_sizes,
            auxiliary_channels=config.auxiliary_channels,
        )
        self.head: Any = parts.UperNetHead(theirs, backbone.channels)
        self.auxiliary_head: Any = parts.UperNetFCNHead(theirs, backbone.channels, in_index=config.auxiliary_map)
        for head in (self.head, self.auxiliary_head):
            _init_as_mmseg(head)
            head.classifier = nn.Sequential(nn.Dropout2d(config.dropout), head.classifier)  # theirs drops nothing

    def forward(self, images: Float[Tensor, "B c H W"]) -> PixelLogits:
        """Classify pixels.

        Args:
            images: Normalised images, all of one size.

        Raises:
            ValueError: In training, if there is one image and norms over one image alone.
        """
        if self.training:
            self.check_batch(len(images))
        maps = self.backbone(images).features
        return PixelLogits(self.head(maps), self.auxiliary_head(maps) if self.training else None)

    def logits(self, images: Float[Tensor, "B c H W"]) -> Float[Tensor, "B K H W"]:
        """Give the logits of the pixels at the size of the images, in float32, as `segment` takes them."""
        return resize_logits(self(images).logits.float(), STRIDES[0], (images.shape[2], images.shape[3]))

    def check_batch(self, images: int) -> None:
        """Refuse a batch whose norms, over a map of one cell, would have a single value a channel."""
        together = dist.is_initialized() and dist.get_world_size() > 1
        norms = [module for module in self.head.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        synchronised = together and all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
        if images < 2 and not synchronised and any(norm.training for norm in norms):
            raise ValueError(
                f"got {images} image in training, over which no batch norm can be taken; give each process 2 at least, "
                "or synchronise several with nn.SyncBatchNorm.convert_sync_batchnorm(model)"
            )


def upernet_losses(
    output: PixelLogits, labels: Shaped[Tensor, "B H W"], config: UperNetConfig
) -> dict[str, Float[Tensor, ""]]:
    """Return the losses of a UperNet; the training minimises their sum.

    Args:
        output: In training mode.
        labels: Class of each pixel of the images, from 0, or IGNORED.
        config: The weight of the auxiliary loss.

    Returns:
        Weighted losses: loss_pixels and loss_auxiliary.

    Raises:
        ValueError: If the output is one of eval mode.
    """
    if output.auxiliary is None:
        raise ValueError("got an output without auxiliary logits, as in eval mode; call model.train() first")
    coarse = STRIDES[config.auxiliary_map]
    return {
        "loss_pixels": pixel_loss(output.logits, labels, STRIDES[0]),
        "loss_auxiliary": config.auxiliary_weight * pixel_loss(output.auxiliary, labels, coarse),
    }


def _init_as_mmseg(head: nn.Module) -> None:
    """Draw the first weights of a head as mmseg does: Kaiming's before norms, small ones for the classes."""
    for name, module in head.named_modules():
        if isinstance(module, nn.Conv2d) and name == "classifier":
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
