"""Feature maps of several levels as one sequence of tokens, and the box proposals of the tokens."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from ropevit.device import to_device
from ropevit.tasks.dense.sampling import cell_centers

#: Side of the proposals of the finest level, as a fraction of the image; it doubles with each level.
_SMALLEST = 0.05

#: Proposals with a coordinate closer than this to 0 or 1 are not used.
_MARGIN = 0.01


@dataclass(frozen=True)
class Levels:
    """Shapes and masks of the levels, whose N tokens form one sequence: the finest first, each row-major."""

    shapes: tuple[tuple[int, int], ...]
    """Rows and columns of each level."""
    masks: tuple[Bool[Tensor, "B _ _"], ...]
    """True where a level covers the image rather than padding."""

    @property
    def attention_mask(self) -> Bool[Tensor, "B N"]:
        """Mask of the tokens inside the image."""
        return torch.cat([mask.flatten(1) for mask in self.masks], dim=1)

    @property
    def ratios(self) -> Float[Tensor, "B L 2"]:
        """Fraction of the columns and rows (x, y) of each level inside the image (valid ratios)."""
        counts = to_device(torch.tensor([(w, h) for h, w in self.shapes]), self.masks[0].device)
        return torch.stack([_valid_extent(mask) for mask in self.masks], dim=1) / counts

    @property
    def centers(self) -> Float[Tensor, "B N 2"]:
        """Center (x, y) of each token, as fractions of its image."""
        centers = [
            cell_centers(h, w, mask.device) / _valid_extent(mask)[:, None]
            for (h, w), mask in zip(self.shapes, self.masks, strict=True)
        ]
        return torch.cat(centers, dim=1)

    def layer_arguments(self) -> dict[str, object]:
        """Return the keyword arguments that describe the levels to the layers of transformers."""
        shapes = to_device(torch.tensor(self.shapes), self.masks[0].device)
        starts = shapes.prod(1).cumsum(0) - shapes.prod(1)
        return {"spatial_shapes": shapes, "spatial_shapes_list": list(self.shapes), "level_start_index": starts}


def _valid_extent(mask: Bool[Tensor, "B h w"]) -> Float[Tensor, "B 2"]:
    """Return the number of columns and of rows inside the image."""
    return torch.stack([mask[:, 0].sum(1), mask[:, :, 0].sum(1)], dim=1).float()


def padding_mask(sizes: Sequence[tuple[int, int]], height: int, width: int) -> Bool[Tensor, "B H W"]:
    """Return the padding mask of a batch whose images lie in the top left corners.

    Args:
        sizes: Height and width of each image in pixels.
        height: Height of the batch in pixels.
        width: Width of the batch in pixels.

    Returns:
        True at padding.

    Raises:
        ValueError: If an image is larger than the batch, or empty.
    """
    padding = torch.ones(len(sizes), height, width, dtype=torch.bool)
    for row, (h, w) in zip(padding, sizes, strict=True):
        if not (0 < h <= height and 0 < w <= width):
            raise ValueError(f"got an image of {h} x {w} pixels; expected 1 x 1 to the batch's {height} x {width}")
        row[:h, :w] = False
    return padding


def make_levels(maps: Sequence[Tensor], padding: Bool[Tensor, "B H W"] | None) -> Levels:
    """Return the geometry of the tokens of maps (B, C, h, w), given the padding mask of the images, if any.

    Raises:
        ValueError: If the mask is for another number of images.
    """
    shapes = tuple((x.shape[2], x.shape[3]) for x in maps)
    count, device = maps[0].shape[0], maps[0].device
    if padding is None:
        return Levels(shapes, tuple(torch.ones(count, *shape, dtype=torch.bool, device=device) for shape in shapes))
    if padding.shape[0] != count:
        raise ValueError(f"got padding of {padding.shape[0]} images with maps of {count}; expected one mask per image")
    pixels = padding[None].to(device, torch.float32)
    return Levels(shapes, tuple(~F.interpolate(pixels, size=shape)[0].bool() for shape in shapes))


def gather_rows(x: Float[Tensor, "B N c"], indices: Int[Tensor, "B n"]) -> Float[Tensor, "B n c"]:
    """Select rows of each image; `take_along_dim` would fix the batch size of a traced program."""
    return x.gather(1, indices[..., None].expand(-1, -1, x.shape[2]))


def propose_boxes(levels: Levels) -> tuple[Float[Tensor, "B N 4"], Bool[Tensor, "B N"]]:
    """Return a box proposal around the center of each token.

    Returns:
        Logits of the boxes (infinite where a token has no proposal), and a mask of the tokens with one: those inside
        the image whose coordinates are between 0.01 and 0.99.
    """
    centers = levels.centers
    sides = [centers.new_full((h * w, 2), _SMALLEST * 2**level) for level, (h, w) in enumerate(levels.shapes)]
    boxes = torch.cat([centers, torch.cat(sides).expand_as(centers)], dim=-1)
    usable = ((boxes > _MARGIN) & (boxes < 1 - _MARGIN)).all(-1)  # centers in the padding are beyond 1
    logits = torch.log(boxes / (1 - boxes)).masked_fill(~usable[..., None], math.inf)
    return logits, usable
