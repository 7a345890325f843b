"""What the heads of dense tasks ask of a backbone: maps, their strides and channels, and which of it is image."""

from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ropevit.models.base import BaseModel
from ropevit.models.sizes import check_floats

BodyT = TypeVar("BodyT", bound=BaseModel[Any])

#: What attention makes of padding: it takes part as keys, as in the published detectors, or is hidden.
Padding = Literal["seen", "masked"]


class Maps(NamedTuple):
    """What a backbone gives for a batch, in the order of its `strides`."""

    features: list[Float[Tensor, "B _ _ _"]]
    """Maps (B, C, h, w), h = ceil(H / stride) of the padded images."""
    valid: list[Bool[Tensor, "B _ _"]]
    """For each map, True where a cell begins inside its image, False in the padding."""


class Backbone(nn.Module, Generic[BodyT]):
    """Base of the backbones: the body of a classifier, with its own names behind `body.`, and what turns it into maps.

    Args:
        body: The classifier's body; its head and, unless it is used, final norm are left out.
    """

    mixes_grids: ClassVar[bool] = False
    """Whether some layers attend in windows and others everywhere."""
    config: Any
    """What was built; its `body` is the config of the classifier."""
    strides: tuple[int, ...]
    """Pixels from one cell to the next, for each map."""
    channels: tuple[int, ...]
    """Channels of each map."""

    def __init__(self, body: BodyT):
        super().__init__()
        self.body = body

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory in training: keep only the input of each block."""
        self.body.set_grad_checkpointing(enable)

    def no_weight_decay(self) -> set[str]:
        """Name the parameters that are never decayed besides biases and norms: embeddings, bias tables, frequencies."""
        return {f"body.{name}" for name in self.body.no_weight_decay()}

    def layer_index(self, name: str) -> int:
        """Tell the depth of a parameter for layer-wise learning rates: as in the classifier, new parts as its head."""
        return self.body.layer_index(name.removeprefix("body.") if name.startswith("body.") else "head.")


def check_images(images: Tensor, sizes: Tensor | None, in_channels: int) -> None:
    """Refuse a batch of no floats, with a wrong rank or channels, without pixels, or with sizes of other images."""
    check_floats(images)
    if images.ndim != 4 or images.shape[1] != in_channels or 0 in images.shape[2:]:
        raise ValueError(f"got images of shape {tuple(images.shape)}; expected (B, {in_channels}, H, W)")
    if sizes is not None and sizes.shape != (images.shape[0], 2):
        raise ValueError(
            f"got sizes of shape {tuple(sizes.shape)} for {images.shape[0]} images; expected height and width of each"
        )


def image_sizes(images: Float[Tensor, "B c H W"], sizes: Int[Tensor, "B 2"] | None) -> Int[Tensor, "B 2"]:
    """Give the height and width of each image: as told, or those of the whole batch."""
    if sizes is not None:
        return sizes.to(images.device)
    height, width = (torch.full((images.shape[0],), side, device=images.device) for side in images.shape[2:])
    return torch.stack([height, width], dim=1)


def make_pixel_mask(sizes: Int[Tensor, "B 2"], h: int, w: int, stride: int) -> Bool[Tensor, "B h w"]:
    """Say which cells of an h x w map begin inside their image.

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
    """Add to maps which of them is image."""
    valid = [
        make_pixel_mask(sizes, x.shape[2], x.shape[3], stride) for x, stride in zip(features, strides, strict=True)
    ]
    return Maps(features, valid)
