"""UperNet on a dense backbone, from the parts in transformers."""

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
    """Class logits at stride 4."""
    auxiliary: Float[Tensor, "B K h2 w2"] | None
    """Class logits of the auxiliary head, at the stride of its map; None in eval mode."""


class UperNet(SegmentationModel):
    """transformers' UperNet, with the initialization and regularization of mmseg.

    In training, batch norm needs two images per process, or synchronized norms on several GPUs
    (`nn.SyncBatchNorm.convert_sync_batchnorm(model)`), as in the published trainings.

    >>> profile = PROFILES["beitv2"]
    >>> backbone = make_vit_backbone(get_config("rope_mixed_deit_base_patch16_LS"), profile)
    >>> model = UperNet(backbone, profile.head)
    >>> losses = upernet_losses(model(images), labels, model.config)
    >>> labels = segment(model.eval().logits, [images], (683, 512), profile.inference)

    Args:
        backbone: A backbone with feature maps of strides 4, 8, 16 and 32.
        config: Options of UperNet.

    Raises:
        MissingExtraError: If transformers is not installed.
        ValueError: If the feature maps have other strides.

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
            head.classifier = nn.Sequential(nn.Dropout2d(config.dropout), head.classifier)  # theirs has no dropout

    def forward(self, images: Float[Tensor, "B c H W"]) -> PixelLogits:
        """Compute the logits of pixels.

        Args:
            images: Normalized images, all of one size.

        Raises:
            ValueError: In training, for one image without synchronized batch norms.
        """
        if self.training:
            self.check_batch(len(images))
        maps = self.backbone(images).features
        return PixelLogits(self.head(maps), self.auxiliary_head(maps) if self.training else None)

    def logits(self, images: Float[Tensor, "B c H W"]) -> Float[Tensor, "B K H W"]:
        """Return class logits at the resolution of the images, in float32, for `segment`."""
        return resize_logits(self(images).logits.float(), STRIDES[0], (images.shape[2], images.shape[3]))

    def check_batch(self, images: int) -> None:
        """Raise ValueError for one image in training: batch norm over a 1 x 1 map would see one value per channel."""
        together = dist.is_initialized() and dist.get_world_size() > 1
        norms = [module for module in self.head.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        synchronized = together and all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
        if images < 2 and not synchronized and any(norm.training for norm in norms):
            raise ValueError(
                f"got {images} image in training, too few for batch norm; give each process at least 2 images, or "
                "synchronize processes with nn.SyncBatchNorm.convert_sync_batchnorm(model)"
            )


def upernet_losses(
    output: PixelLogits, labels: Shaped[Tensor, "B H W"], config: UperNetConfig
) -> dict[str, Float[Tensor, ""]]:
    """Return the losses of a UperNet; the training minimizes their sum.

    Args:
        output: Output of the model in training mode.
        labels: Class of each pixel of the images, from 0, or IGNORED.
        config: Options of UperNet; its weight of the auxiliary loss is used.

    Returns:
        Weighted losses: loss_pixels and loss_auxiliary.

    Raises:
        ValueError: If the output was computed in eval mode.
    """
    if output.auxiliary is None:
        raise ValueError("got an output without auxiliary logits, as in eval mode; call model.train() first")
    coarse = STRIDES[config.auxiliary_map]
    return {
        "loss_pixels": pixel_loss(output.logits, labels, STRIDES[0]),
        "loss_auxiliary": config.auxiliary_weight * pixel_loss(output.auxiliary, labels, coarse),
    }


def _init_as_mmseg(head: nn.Module) -> None:
    """Initialize a head as mmseg does: Kaiming initialization, and small weights in the classification layer."""
    for name, module in head.named_modules():
        if isinstance(module, nn.Conv2d) and name == "classifier":
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
