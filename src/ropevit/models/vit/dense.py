"""ViTDet backbone for dense tasks: a plain ViT with window attention in most blocks, and a feature pyramid."""

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from ropevit.arithmetic import ceil_div
from ropevit.models.backbone import (
    Backbone,
    Maps,
    check_image_batch,
    image_sizes,
    make_pixel_mask,
    with_masks,
)
from ropevit.models.packed import SequenceIds
from ropevit.models.pyramid import PyramidConfig, SimpleFeaturePyramid, zero_padding
from ropevit.models.vit import ViT, ViTConfig
from ropevit.models.vit.relative import DecomposedRelPosBias
from ropevit.models.window_partition import WindowPartition, key_mask

#: Image size in pixels for which the relative position bias of global blocks is learned.
_RELATIVE_SIZE = 1024


@dataclass(frozen=True, kw_only=True)
class DenseViTConfig:
    """Config of a ViT backbone for dense tasks.

    Raises:
        ValueError: If a field is out of range or two fields contradict each other.
    """

    body: ViTConfig
    """The classifier from which the body is taken, such as `get_config("rope_mixed_deit_base_patch16_LS")`; its head
    is removed."""
    prefix_tokens: bool | None = None
    """Keep class token and registers beside the patches, in blocks that all have global attention. None keeps them for
    models of other authors (with a `rope_convention`), whose patches attend to them, and removes them otherwise."""
    window: int = 14
    """Side of a window in tokens; 14 is the grid of pre-training at 224 pixels."""
    global_attn_indexes: tuple[int, ...] | None = None
    """Blocks with global attention; None for the last of each quarter (2, 5, 8, 11 of 12; 5, 11, 17, 23 of 24), or for
    all with `prefix_tokens`."""
    out_indices: tuple[int, ...] | None = None
    """Blocks whose outputs feed the pyramid: one for all levels, or one per level; None for the last block."""
    final_norm: bool | None = None
    """Apply the classifier's final norm to the tokens of each output block; None does so for models of other authors,
    as they do, unless theirs follows the pooling."""
    pyramid: PyramidConfig = field(default_factory=PyramidConfig)
    """Config of the feature pyramid."""
    mask_padding: bool = False
    """Mask padding (of windows, of images to whole patches and of smaller images in a batch), so that an image has the
    same output alone and in any batch; False attends to it, as ViTDet does."""
    relative_bias: bool = False
    """Add ViTDet's decomposed relative position bias, initialized to zero, to the scores of any position embedding."""

    def __post_init__(self):
        if self.body.is_video:
            raise ValueError(f"got a body with frames={self.body.frames}; a dense backbone takes models of images")
        if self.window < 1:
            raise ValueError(f"got window={self.window}; expected a side of at least 1 token")
        for name in ("global_attn_indexes", "out_indices"):
            blocks = getattr(self, name)
            if blocks is None:
                continue
            object.__setattr__(self, name, tuple(blocks))
            if not set(blocks) <= set(range(self.body.depth)):
                raise ValueError(f"got {name}={tuple(blocks)}; expected blocks from 0 to {self.body.depth - 1}")
        if self.relative_bias and self.body.distance is not None:
            raise ValueError(f"got relative_bias=True for {self.body.position}, a bias itself; take one of them")
        self.check_family()
        self.check_out_indices()
        self.pyramid.strides(self.body.patch_size)

    def check_family(self) -> None:
        """Raise ValueError for options that prefix tokens, or the conventions of other authors, do not go with."""
        if self.final_norm and (self.body.pooled_norm or not self.body.final_norm):
            why = "whose norm follows the pooling" if self.body.pooled_norm else "that has no final norm"
            raise ValueError(f"got final_norm=True for a body {why}; leave it out")
        if self.body.is_other_family and self.prefix_tokens is False:
            raise ValueError(
                f"got prefix_tokens=False for a body with {self.body.rope_convention}, whose patches were trained "
                "beside them; leave it out"
            )
        if not self.keeps_prefix:
            return
        if not self.attends_everywhere:
            raise ValueError(
                f"got global_attn_indexes={self.global_attn_indexes} with class token and registers, to which windows "
                "do not attend; leave it out, so that all blocks attend globally"
            )
        if self.relative_bias:
            raise ValueError("got relative_bias=True with class token and registers, which have no place in it")

    @property
    def keeps_prefix(self) -> bool:
        """Whether the body keeps class token and registers."""
        return self.body.is_other_family if self.prefix_tokens is None else self.prefix_tokens

    @property
    def normalizes(self) -> bool:
        """Whether the tokens pass the final norm of the classifier."""
        after_blocks = self.body.final_norm and not self.body.pooled_norm
        return self.body.is_other_family and after_blocks if self.final_norm is None else self.final_norm

    def check_out_indices(self) -> None:
        """Raise ValueError unless the output blocks match the pyramid's levels and end with the last block."""
        if self.out_indices is None:
            return
        levels = len(self.pyramid.scales)
        if len(self.out_indices) not in (1, levels) or list(self.out_indices) != sorted(set(self.out_indices)):
            raise ValueError(
                f"got out_indices={self.out_indices} for {levels} levels; expected one block, or {levels} in order"
            )
        if self.out_indices[-1] != self.body.depth - 1:
            raise ValueError(
                f"got out_indices={self.out_indices} of {self.body.depth} blocks; those after the last would be "
                f"unused: end with {self.body.depth - 1}, or shorten the body"
            )

    @property
    def global_indices(self) -> frozenset[int]:
        """Blocks with global attention."""
        if self.global_attn_indexes is not None:
            return frozenset(self.global_attn_indexes)
        if self.keeps_prefix:
            return frozenset(range(self.body.depth))
        return frozenset(self.body.depth * quarter // 4 - 1 for quarter in range(1, 5)) - {-1}

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride of each map in pixels."""
        return self.pyramid.strides(self.body.patch_size)

    @property
    def attends_everywhere(self) -> bool:
        """Whether all blocks use global attention."""
        return len(self.global_indices) == self.body.depth

    @property
    def output_blocks(self) -> tuple[int, ...]:
        """Blocks whose outputs feed the pyramid."""
        return self.out_indices or (self.body.depth - 1,)


class DenseViT(Backbone[ViT]):
    """ViTDet backbone: feature maps at several strides for images of any size.

    Blocks attend in windows of 14 x 14 tokens, except four with global attention; all are global beside class token and
    registers. Images are padded with zeros at the bottom and right to whole cells of the coarsest convolved map.

    Coordinates that depend on the grid (DINOv3, EVA-02, Perception Encoder) refer to the patches that begin inside each
    image, whatever padding the batch has; with RoPE scaling, they refer to the padded batch.

    >>> backbone = DenseViT(DenseViTConfig(body=get_config("rope_mixed_deit_base_patch16_LS")))
    >>> maps, pixel_masks = backbone(images)  # strides 4, 8, 16, 32; 256 channels each

    Args:
        config: Config of the backbone.

    Source: Li et al. 2022 (arXiv:2203.16527), ViTDet.
    """

    mixes_grids = True

    def __init__(self, config: DenseViTConfig):
        body = ViT(_headless(config))
        super().__init__(body)
        self.config = config
        # dynamo cannot trace these properties
        self.global_indices, self.own_grids = config.global_indices, config.body.is_other_family
        if not config.normalizes:
            body.norm = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
        if config.relative_bias:
            whole = max(_RELATIVE_SIZE // config.body.patch_size, 1)
            for index, block in enumerate(body.blocks):
                side = whole if index in config.global_indices else config.window
                block.attn.relative = DecomposedRelPosBias(side, config.body.width // config.body.heads)  # pyright: ignore[reportAttributeAccessIssue]
        self.pyramid = SimpleFeaturePyramid(config.body.width, config.pyramid)
        self.strides = config.strides
        self.channels = self.pyramid.channels

    def forward(self, images: Float[Tensor, "B c H W"], sizes: Int[Tensor, "B 2"] | None = None) -> Maps:
        """Return the feature maps of images.

        Args:
            images: Images of any height and width; smaller ones at the top left, zeros around them.
            sizes: Height and width of each image in pixels, where the batch is padded; None for whole images.

        Raises:
            ValueError: If the images have a wrong rank or channels, or the sizes do not match them.
        """
        patch, masked = self.config.body.patch_size, self.config.mask_padding
        check_image_batch(images, sizes, self.config.body.in_channels)
        same, sizes = sizes is None, image_sizes(images, sizes)
        images = pad_to(images, max(patch, *self.strides[: len(self.config.pyramid.scales)]))
        h, w = images.shape[2] // patch, images.shape[3] // patch
        inside = make_pixel_mask(sizes[:1] if same and not masked else sizes, h, w, patch)
        real = inside if masked else None
        tokens = self.body(images, method=self.run_body, pixel_mask=real, inside=inside)
        features = [x.transpose(1, 2).unflatten(2, (h, w)) for x in tokens]
        features = [zero_padding(x, real) for x in features] if real is not None else features
        levels = self.strides[: len(self.config.pyramid.scales)]
        keep = [make_pixel_mask(sizes, h * patch // s, w * patch // s, s) if masked else None for s in levels]
        return with_masks(self.pyramid(features, keep), sizes, self.strides)

    def run_body(
        self,
        body: ViT,
        images: Float[Tensor, "B c H W"],
        *,
        pixel_mask: Bool[Tensor, "B h w"] | None,
        inside: Bool[Tensor, "b h w"] | None = None,
    ) -> list[Float[Tensor, "B N C"]]:
        """Return the patch tokens after the output blocks; called by `body(..., method=)`.

        Args:
            body: The body.
            images: Images that the patches tile.
            pixel_mask: Mask of tokens that may be attended to; None for all, including the zero padding of windows.
            inside: Mask of the patches of each image, or one for all images, whose grid the coordinates refer to; None
                for that of the batch.
        """
        config = self.config
        if pixel_mask is not None and body.scaling is not None:
            raise ValueError(
                f"got mask_padding=True with scaling={body.config.scaling!r}; RoPE scaling uses the grid of the batch, "
                "and every image has its own: remove one of them"
            )
        grids = inside if self.own_grids and body.scaling is None else pixel_mask
        tokens, positions = body.embed(images, grids)
        h, w = images.shape[2] // config.body.patch_size, images.shape[3] // config.body.patch_size
        partition = WindowPartition(h, w, config.window, pixel_mask)
        partitions = [None if index in self.global_indices else partition for index in range(config.body.depth)]
        rows = None if pixel_mask is None else _whole_rows(pixel_mask, body.num_prefix_tokens)
        states = body.run_blocks(tokens, positions, rows, partitions, (h, w))
        return [
            body.norm(x[:, body.num_prefix_tokens :]) for index, x in enumerate(states) if index in config.output_blocks
        ]


def _headless(config: DenseViTConfig) -> ViTConfig:
    """Return the config of the body: without a head and, unless they are kept, class token and registers."""
    without = {} if config.keeps_prefix else {"class_token": False, "num_registers": 0, "embed_prefix": False}
    return replace(config.body, pooling="avg", num_classes=0, **without)


def _whole_rows(pixel_mask: Bool[Tensor, "B h w"], num_prefix_tokens: int) -> SequenceIds:
    """Return sequence ids of unpacked rows, one image each, with a mask of the prefix and the image tokens."""
    images = pixel_mask.shape[0]  # `len` would fix the batch of a traced program
    keys = torch.cat([pixel_mask.new_ones(images, num_prefix_tokens), pixel_mask.flatten(1)], dim=1)
    image = torch.arange(images, device=keys.device).unsqueeze(1).expand_as(keys)
    return SequenceIds(image, key_mask(keys), images, shared=False)


def pad_to(images: Float[Tensor, "B c H W"], multiple: int) -> Float[Tensor, "B c H2 W2"]:
    """Pad images with zeros at the bottom and right until a number divides both sides."""
    height, width = images.shape[2:]
    rows, columns = ceil_div(height, multiple) * multiple, ceil_div(width, multiple) * multiple
    return F.pad(images, (0, columns - width, 0, rows - height))
