"""Interface between backbones and the heads of dense tasks: feature maps, strides, channels and padding masks."""

from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ropevit.models.base import BaseModel
from ropevit.models.sizes import check_floats

BodyT = TypeVar("BodyT", bound=BaseModel[Any])


class Maps(NamedTuple):
    """Output of a backbone for a batch, in the order of its `strides`."""

    features: list[Float[Tensor, "B _ _ _"]]
    """Feature maps (B, C, h, w), h = ceil(H / stride) of the padded images."""
    pixel_masks: list[Bool[Tensor, "B _ _"]]
    """For each map, True for cells whose top left corner lies inside the image, False in the padding."""


class Backbone(nn.Module, Generic[BodyT]):
    """Base class of dense backbones: the body of a classifier, under `body.`, and layers that make feature maps of it.

    Args:
        body: The classifier's body, without its head and, unless used, its final norm.
    """

    mixes_grids: ClassVar[bool] = False
    """Whether some layers use window attention and others global attention."""
    config: Any
    """Config of the backbone; its `body` is the config of the classifier."""
    strides: tuple[int, ...]
    """Stride of each map in pixels."""
    channels: tuple[int, ...]
    """Channels of each map."""
    frozen: bool = False
    """Whether the body is frozen; `freeze` changes it."""

    def __init__(self, body: BodyT):
        super().__init__()
        self.body = body

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Enable activation checkpointing: keep only the input of each block and recompute the rest."""
        self.body.set_grad_checkpointing(enable)

    def freeze(self) -> None:
        """Freeze the body for a training: no gradients, and eval mode whatever `train` sets; other layers still learn.

        As neither its weights nor images need gradients, no activations of the body are kept.
        """
        self.frozen = True
        self.body.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Any:
        """Set training mode, except for a frozen body."""
        super().train(mode)
        if self.frozen:
            self.body.eval()
        return self

    def no_weight_decay(self) -> set[str]:
        """Return parameters without weight decay besides biases and norms: embeddings, bias tables, learned RoPE."""
        return {f"body.{name}" for name in self.body.no_weight_decay()}

    def layer_index(self, name: str) -> int:
        """Return a parameter's layer for layer-wise learning rates; layers that the classifier lacks count as head."""
        return self.body.layer_index(name.removeprefix("body.") if name.startswith("body.") else "head.")


def check_image_batch(images: Tensor, sizes: Tensor | None, in_channels: int) -> None:
    """Raise ValueError for batches of integers, of wrong rank or channels, empty, or with sizes that do not match."""
    check_floats(images)
    if images.ndim != 4 or images.shape[1] != in_channels or 0 in images.shape[2:]:
        raise ValueError(f"got images of shape {tuple(images.shape)}; expected (B, {in_channels}, H, W)")
    if sizes is not None and sizes.shape != (images.shape[0], 2):
        raise ValueError(
            f"got sizes of shape {tuple(sizes.shape)} for {images.shape[0]} images; expected height and width of each"
        )


def image_sizes(images: Float[Tensor, "B c H W"], sizes: Int[Tensor, "B 2"] | None) -> Int[Tensor, "B 2"]:
    """Return the height and width of each image: `sizes`, or those of the whole batch."""
    if sizes is not None:
        return sizes.to(images.device)
    height, width = (torch.full((images.shape[0],), side, device=images.device) for side in images.shape[2:])
    return torch.stack([height, width], dim=1)


def make_pixel_mask(sizes: Int[Tensor, "B 2"], h: int, w: int, stride: int) -> Bool[Tensor, "B h w"]:
    """Return a mask of the cells of an h x w map whose top left corner lies inside their image.

    Args:
        sizes: Height and width of each image in pixels.
        h: Rows of the map.
        w: Columns of the map.
        stride: Pixels from one cell to the next.
    """
    rows = torch.arange(h, device=sizes.device) * stride < sizes[:, :1]
    columns = torch.arange(w, device=sizes.device) * stride < sizes[:, 1:]
    return rows.unsqueeze(2) & columns.unsqueeze(1)


def with_masks(features: list[Tensor], sizes: Int[Tensor, "B 2"], strides: tuple[int, ...]) -> Maps:
    """Return maps with their padding masks."""
    pixel_masks = [
        make_pixel_mask(sizes, x.shape[2], x.shape[3], stride) for x, stride in zip(features, strides, strict=True)
    ]
    return Maps(features, pixel_masks)
