"""Necks and backbones of a ViT for UperNet, as in the profiles."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from ropevit.models.architectures import build_backbone, dense_config
from ropevit.models.dense import DenseViT, PyramidConfig
from ropevit.models.pyramid import SCALES, zero_padding
from ropevit.models.vit import ViTConfig
from ropevit.tasks.segment.config import Neck, UperNetProfile


class ResizedNeck(nn.Module):
    """Neck of 1x1 convolution, bilinear resizing and 3x3 convolution for each map, without norms.

    Args:
        width: Channels of the tokens and of the maps.

    Source: `MultiLevelNeck` of mmsegmentation.
    """

    def __init__(self, width: int):
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in SCALES)
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in SCALES)
        self.channels = (width,) * len(SCALES)
        for conv in (*self.lateral, *self.smooth):
            nn.init.xavier_uniform_(conv.weight)  # type: ignore[arg-type]
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(
        self, features: Sequence[Float[Tensor, "B C h w"]], pixel_masks: Sequence[Bool[Tensor, "B _ _"] | None]
    ) -> list[Float[Tensor, "B C _ _"]]:
        """Compute the feature maps of all levels.

        Args:
            features: Maps of patch tokens, one for each level.
            pixel_masks: For each level, a mask that is False in padding, which is zeroed before the 3x3 convolution;
                None keeps it.
        """
        maps = []
        levels = zip(features, pixel_masks, SCALES, self.lateral, self.smooth, strict=True)
        for x, mask, scale, lateral, smooth in levels:
            x = F.interpolate(lateral(x), scale_factor=scale, mode="bilinear", align_corners=False)
            maps.append(smooth(x if mask is None else zero_padding(x, mask)))
        return maps


def make_vit_backbone(body: ViTConfig, profile: UperNetProfile) -> DenseViT:
    """Build the ViT backbone of a profile of UperNet.

    Its blocks have global attention and LayerScale; the output tokens are not normalized.

    Args:
        body: The classifier's config; the profile's drop path replaces its own.
        profile: A profile, such as `PROFILES["beitv2"]`.

    Raises:
        ValueError: If the profile is for a body of another depth.
    """
    if profile.out_indices[-1] != body.depth - 1:
        raise ValueError(
            f"got a body of {body.depth} blocks for a profile with out_indices={profile.out_indices}; "
            "choose another profile, or replace its out_indices"
        )
    body = replace(body, drop_path=profile.drop_path, drop_path_rule="linear")
    return with_neck(plain_config(body, profile.out_indices), profile.neck)


#: BEiT's neck.
_TRANSPOSED = PyramidConfig(channels=None, norm="batch")

#: The tokens themselves, for the linear head.
TOKENS = PyramidConfig(scales=(1.0,), channels=None)


def plain_config(
    body: Any, out_indices: tuple[int, ...], window: int | None = None, pyramid: PyramidConfig = _TRANSPOSED
) -> Any:
    """Return the config of a ViT backbone, with BEiT's neck or another pyramid on the outputs of some blocks.

    Args:
        body: The classifier's config.
        out_indices: Blocks whose outputs become feature maps, from 0.
        window: Side in tokens of the attention windows of all but four blocks; None has global attention everywhere.
        pyramid: Config of the pyramid.
    """
    if window is None:
        return dense_config(
            body, out_indices=out_indices, pyramid=pyramid, global_attn_indexes=tuple(range(body.depth))
        )
    return dense_config(body, out_indices=out_indices, pyramid=pyramid, window=window)


def with_neck(config: Any, neck: Neck) -> Any:
    """Build a backbone with a neck by name; a hierarchical backbone has no neck, and takes only "transposed"."""
    backbone = build_backbone(config)
    if neck == "resized":
        backbone.pyramid = ResizedNeck(config.body.width)
    return backbone
