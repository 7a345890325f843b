"""From a ViT's tokens to UperNet's maps, as the profiles say."""

from collections.abc import Sequence
from dataclasses import replace

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from ropevit.models.dense import DenseViT, DenseViTConfig, PyramidConfig
from ropevit.models.pyramid import SCALES, zero_padding
from ropevit.models.vit import ViTConfig
from ropevit.tasks.segment.config import Neck, UperNetProfile


class ResizedNeck(nn.Module):
    """Maps by a 1x1 convolution, bilinear resizing and a 3x3 convolution, without norms.

    Args:
        width: Channels of the tokens, and of the maps.

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
        self, taps: Sequence[Float[Tensor, "B C h w"]], valid: Sequence[Bool[Tensor, "B _ _"] | None]
    ) -> list[Float[Tensor, "B C _ _"]]:
        """Make the maps.

        Args:
            taps: Maps of patch tokens, one for each level.
            valid: For each level, which cells are image; the others are set to zero before neighbours see them. None
                lets all be seen.
        """
        maps = []
        for x, keep, scale, lateral, smooth in zip(taps, valid, SCALES, self.lateral, self.smooth, strict=True):
            x = F.interpolate(lateral(x), scale_factor=scale, mode="bilinear", align_corners=False)
            maps.append(smooth(x if keep is None else zero_padding(x, keep)))
        return maps


def make_vit_backbone(body: ViTConfig, profile: UperNetProfile) -> DenseViT:
    """Build the backbone that a profile trains UperNet on.

    Its blocks attend everywhere and keep LayerScale; the tapped tokens are not normalised.

    Args:
        body: The classifier's config; the profile's drop path replaces its own.
        profile: Such as `PROFILES["beitv2"]`.

    Raises:
        ValueError: If the profile's taps are for a body of another depth.
    """
    if profile.taps[-1] != body.depth - 1:
        raise ValueError(
            f"got a body of {body.depth} blocks for a profile with taps={profile.taps}, of {profile.taps[-1] + 1}; "
            "choose another profile, or replace its taps"
        )
    return with_neck(
        vit_config(replace(body, drop_path=profile.drop_path, drop_path_rule="linear"), profile.taps), profile.neck
    )


def vit_config(body: ViTConfig, taps: tuple[int, ...], window: int | None = None) -> DenseViTConfig:
    """Describe a ViT whose tapped tokens become maps with BEiT's neck.

    Args:
        body: The classifier's config.
        taps: Blocks whose tokens become maps, from 0.
        window: Side of the windows in tokens in which all but four blocks attend; None attends everywhere.
    """
    pyramid = PyramidConfig(channels=None, norm="batch")
    if window is None:
        return DenseViTConfig(body=body, taps=taps, pyramid=pyramid, global_blocks=tuple(range(body.depth)))
    return DenseViTConfig(body=body, taps=taps, pyramid=pyramid, window=window)


def with_neck(config: DenseViTConfig, neck: Neck) -> DenseViT:
    """Build a ViT with a neck by name."""
    backbone = DenseViT(config)
    if neck == "resized":
        backbone.pyramid = ResizedNeck(config.body.width)  # pyright: ignore[reportAttributeAccessIssue]
    return backbone
