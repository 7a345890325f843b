"""Swin backbone for dense tasks: a normalized feature map of each stage."""

from dataclasses import dataclass, replace

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ropevit.arithmetic import ceil_div
from ropevit.models.backbone import (
    Backbone,
    Maps,
    check_image_batch,
    image_sizes,
    make_pixel_mask,
    with_masks,
)
from ropevit.models.pyramid import zero_padding
from ropevit.models.swin import Swin, SwinConfig
from ropevit.models.swin.attention import WindowAttention


@dataclass(frozen=True, kw_only=True)
class DenseSwinConfig:
    """Config of a Swin backbone for dense tasks.

    Raises:
        ValueError: If a field is out of range.
    """

    body: SwinConfig
    """The classifier from which the body is taken, such as `get_config("swin_rope_mixed_tiny_patch4_window7_224")`; its
    window size stays fixed for all image sizes, its head and final norm are removed."""
    out_indices: tuple[int, ...] | None = None
    """Stages that return a map, in order and ending with the last; None for all. DINO with 4 scales takes 1, 2, 3."""
    mask_padding: bool = False
    """Mask padding (of windows at the bottom and right, and of smaller images in a batch), so that an image has the
    same output alone and in any batch; False attends to it, as the published detectors do."""

    def __post_init__(self):
        count = len(self.body.depths)
        if self.out_indices is None:
            return
        object.__setattr__(self, "out_indices", tuple(self.out_indices))
        if (
            not self.out_indices
            or not set(self.out_indices) <= set(range(count))
            or list(self.out_indices) != sorted({*self.out_indices})
        ):
            raise ValueError(
                f"got out_indices={self.out_indices}; expected some of 0 to {count - 1}, in order, each once"
            )
        if self.out_indices[-1] != count - 1:
            raise ValueError(
                f"got out_indices={self.out_indices} of {count}; stages after the last map would be unused: "
                f"end with {count - 1}, or shorten the body"
            )

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride of each map in pixels."""
        return tuple(self.body.patch_size * 2**stage for stage in self.output_stages)

    @property
    def attends_everywhere(self) -> bool:
        """Whether all blocks use global attention: False, as all use windows."""
        return False

    @property
    def output_stages(self) -> tuple[int, ...]:
        """Stages that return a map."""
        return self.out_indices or tuple(range(len(self.body.depths)))


class DenseSwin(Backbone[Swin]):
    """Swin backbone that returns a normalized map of each stage for images of any size.

    Sizes are rounded up: images are padded to whole patches, maps to whole windows for attention, and odd sides before
    patch merging. Every second block shifts its windows for any size of the map, and wrapped regions are masked from
    each other (a classifier does not shift along a side that one window covers).

    >>> backbone = DenseSwin(DenseSwinConfig(body=get_config("swin_rope_mixed_tiny_patch4_window7_224")))
    >>> maps, pixel_masks = backbone(images)  # strides 4, 8, 16, 32; 96, 192, 384, 768 channels

    Args:
        config: Config of the backbone.

    Source: Liu et al. 2021 (arXiv:2103.14030), as a backbone of detectors.
    """

    def __init__(self, config: DenseSwinConfig):
        body = Swin(replace(config.body, num_classes=0))
        super().__init__(body)
        self.config = config
        body.norm = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
        for module in body.modules():
            if isinstance(module, WindowAttention):
                module.attends_to_padding, module.always_shift = not config.mask_padding, True
        self.strides = config.strides
        self.channels = tuple(config.body.width * 2**stage for stage in config.output_stages)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for channels in self.channels)

    def forward(self, images: Float[Tensor, "B c H W"], sizes: Int[Tensor, "B 2"] | None = None) -> Maps:
        """Return the feature maps of images.

        Args:
            images: Images of any height and width; smaller ones at the top left, zeros around them.
            sizes: Height and width of each image in pixels, where the batch is padded; None for whole images.

        Raises:
            ValueError: If the images have a wrong rank or channels, or the sizes do not match them.
        """
        patch = self.config.body.patch_size
        check_image_batch(images, sizes, self.config.body.in_channels)
        real = None
        if self.config.mask_padding and sizes is not None:
            h, w = (ceil_div(side, patch) for side in images.shape[2:])
            real = make_pixel_mask(sizes.to(images.device), h, w, patch)
        outputs = self.body(images, method=self.run_body, pixel_mask=real)
        features = [norm(x).permute(0, 3, 1, 2).contiguous() for norm, x in zip(self.norms, outputs, strict=True)]
        maps = with_masks(features, image_sizes(images, sizes), self.strides)
        if real is None:
            return maps
        masked = [zero_padding(x, mask) for x, mask in zip(maps.features, maps.pixel_masks, strict=True)]
        return Maps(masked, maps.pixel_masks)

    def run_body(
        self, body: Swin, images: Float[Tensor, "B c H W"], *, pixel_mask: Bool[Tensor, "B h w"] | None
    ) -> list[Float[Tensor, "B _ _ _"]]:
        """Return the maps of the selected stages, channels last; run through `body(..., method=)`.

        Args:
            body: The body.
            images: Images.
            pixel_mask: Mask of image tokens; None for all.
        """
        states = enumerate(body.run_stages(body.embed(images, pixel_mask), pixel_mask))
        return [x for stage, x in states if stage in self.config.output_stages]
