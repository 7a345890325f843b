"""Sequence packing: images of different sizes in one batch, with attention masked to each image's own tokens.

Source: Dehghani et al. 2023 (arXiv:2307.06304), NaViT.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from ropevit.device import to_device
from ropevit.models.sizes import check_floats, check_size
from ropevit.rope import grid_positions


class SequenceIds(NamedTuple):
    """Image index of each token of a packed batch, for attention and stochastic depth."""

    sequence_ids: Int[Tensor, "R L"]
    """Index of the image; -1 for padding."""
    mask: Bool[Tensor, "R 1 L L"]
    """True where a query may attend to a key."""
    num_images: int
    """Number of images."""
    shared: bool = True
    """Whether images share rows, so that non-finite values of one must not reach the others."""
    patches: Bool[Tensor, "R L"] | None = None
    """False for class and register tokens; None if all tokens are patches."""


class PackedBatch(NamedTuple):
    """Images of different sizes as R rows of L tokens; each image lies in one row, its prefix tokens first.

    Made by `pack`, read by `ViT.forward_packed`. It holds tensors only, so a compiled model has one graph for all
    packings.
    """

    patches: Float[Tensor, "R L pixels"]
    """Pixels of each patch, channel by channel, row-major; 0 for prefix tokens and padding."""
    positions: Float[Tensor, "R L 2"]
    """Column and row of each patch in its image; 0 for prefix tokens."""
    grids: Float[Tensor, "R L 2"]
    """Columns and rows of patches of the image that a token belongs to."""
    prefix: Int[Tensor, "R L"]
    """Index of the prefix token; -1 for a patch."""
    sequence_ids: Int[Tensor, "R L"]
    """Index of the image that a token belongs to, in input order; -1 for padding."""
    starts: Int[Tensor, "B"]
    """Index of each image's first token in the flattened rows."""

    def to(self, device: torch.device | str) -> "PackedBatch":
        """Move the batch to a device."""
        return PackedBatch(*(to_device(field, torch.device(device)) for field in self))

    def sequences(self) -> SequenceIds:
        """Return image indices and the block-diagonal attention mask."""
        mask = self.sequence_ids.unsqueeze(2) == self.sequence_ids.unsqueeze(1)
        return SequenceIds(self.sequence_ids, mask.unsqueeze(1), self.starts.shape[0], patches=self.prefix < 0)

    def split(self, tokens: Float[Tensor, "R L C"]) -> list[Float[Tensor, "_ C"]]:
        """Split packed tokens by image: prefix, then patches in the order of `keep`.

        Sizes are read on the host, which synchronizes an accelerator: use it after the model, not inside.
        """
        counts = torch.bincount(self.sequence_ids[self.sequence_ids >= 0], minlength=len(self.starts)).tolist()
        flat = tokens.flatten(0, 1)
        return [flat[start : start + count] for start, count in zip(self.starts.tolist(), counts, strict=True)]


def pack(
    images: Sequence[Float[Tensor, "c _ _"]],
    patch_size: int,
    num_prefix_tokens: int = 1,
    keep: Sequence[Int[Tensor, "_"]] | None = None,
    row_tokens: int | None = None,
) -> PackedBatch:
    """Pack images of any sizes and shapes into rows; meant for the collate function of a data loader.

    Rows are filled by first-fit decreasing, which keeps padding low.

    Args:
        images: Images (c, H, W), each tiled by the patches.
        patch_size: Side of a patch in pixels.
        num_prefix_tokens: Class and register tokens of the model: `model.num_prefix_tokens`.
        keep: Row-major indices of the patches that each image keeps (token dropping), as from `random_patches`; None
            keeps all.
        row_tokens: Length of the rows, in tokens; None for the cheapest of one to four times the longest image.

    Raises:
        ValueError: If there are no images, or one is not tiled by the patches, differs in channels, has invalid `keep`
            indices, or is longer than a row.
    """
    if not images or len({image.shape[0] for image in images if image.ndim == 3}) != 1:
        shapes = ", ".join(str(tuple(image.shape)) for image in images)
        raise ValueError(f"got {shapes or 'no images'} to pack; expected images (c, H, W) of the same channels")
    if keep is not None and len(keep) != len(images):
        raise ValueError(f"got kept patches of {len(keep)} images for {len(images)} images; give those of each")
    kept = [None] * len(images) if keep is None else keep
    tokens = [
        _tokens_of(image, patch_size, num_prefix_tokens, chosen) for image, chosen in zip(images, kept, strict=True)
    ]
    lengths = [len(own.prefix) for own in tokens]
    length = cheapest_row(lengths) if row_tokens is None else row_tokens
    if max(lengths) > length:
        raise ValueError(f"got an image of {max(lengths)} tokens for rows of {length}; raise row_tokens or shrink it")
    return _scatter_rows(tokens, length)


class Tokens(NamedTuple):
    """The tokens of one image; fields as in `PackedBatch`."""

    patches: Float[Tensor, "n pixels"]
    positions: Float[Tensor, "n 2"]
    grids: Float[Tensor, "n 2"]
    prefix: Int[Tensor, "n"]


def _tokens_of(
    image: Float[Tensor, "c H W"], patch_size: int, num_prefix_tokens: int, keep: Int[Tensor, "m"] | None
) -> Tokens:
    """Split one image into the patches that it keeps, with space for its prefix tokens in front."""
    check_floats(image)
    check_size(image.shape[1], image.shape[2], patch_size)
    h, w = image.shape[1] // patch_size, image.shape[2] // patch_size
    patches = image.unflatten(2, (w, patch_size)).unflatten(1, (h, patch_size)).permute(1, 3, 0, 2, 4)
    patches, positions = patches.flatten(2).flatten(0, 1), grid_positions(h, w, device=image.device)
    if keep is not None:
        if len(keep) == 0 or keep.min() < 0 or keep.max() >= h * w:
            raise ValueError(f"got kept patches {keep.tolist()}; expected at least one, each from 0 to {h * w - 1}")
        patches, positions = patches[keep], positions[keep]
    front = (0, 0, num_prefix_tokens, 0)
    grids = torch.tensor([float(w), float(h)], device=image.device).expand(num_prefix_tokens + len(patches), 2)
    prefix = torch.arange(-num_prefix_tokens, len(patches), device=image.device).clamp(max=0)
    prefix = torch.where(prefix < 0, prefix + num_prefix_tokens, -1)
    return Tokens(F.pad(patches, front), F.pad(positions, front), grids, prefix)


def random_patches(
    images: Sequence[Float[Tensor, "c _ _"]], patch_size: int, share: float, generator: torch.Generator | None = None
) -> list[Int[Tensor, "_"]]:
    """Choose random patches that each image keeps (at least one), in row-major order.

    Args:
        images: Images (c, H, W).
        patch_size: Side of a patch in pixels.
        share: Fraction of the patches to keep, above 0 and at most 1.
        generator: Random generator, on the CPU; None for PyTorch's default.

    Raises:
        ValueError: If the fraction is out of range.
    """
    if not 0 < share <= 1:
        raise ValueError(f"got share={share}; expected the fraction of patches to keep, above 0 and at most 1")
    counts = [(image.shape[1] // patch_size) * (image.shape[2] // patch_size) for image in images]
    orders = [torch.randperm(count, generator=generator) for count in counts]
    kept = [order[: max(1, round(share * len(order)))].sort().values for order in orders]
    return [chosen.to(image.device) for chosen, image in zip(kept, images, strict=True)]


def first_fit_decreasing(lengths: Sequence[int], row: int) -> tuple[list[int], int]:
    """Assign images to rows, longest first, each to the first row with enough space.

    Returns:
        Index of each image's first token in the flattened rows, and the number of rows.
    """
    starts, used = [0] * len(lengths), []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        place = next((place for place, tokens in enumerate(used) if tokens + lengths[index] <= row), len(used))
        if place == len(used):
            used.append(0)
        starts[index] = place * row + used[place]
        used[place] += lengths[index]
    return starts, len(used)


def cheapest_row(lengths: Sequence[int], width: int = 384) -> int:
    """Return the cheapest row length of one to four times the longest image: longer rows pad less but attend to more.

    Args:
        lengths: Tokens of each image.
        width: Channels, C, of the model: a token costs about 24 C^2 MACs in products with weights, and 4 C for each
            token of its row in attention.
    """

    def cost(row: int) -> int:
        return first_fit_decreasing(lengths, row)[1] * row * (6 * width + row)

    return min((times * max(lengths) for times in range(1, 5)), key=cost)


def _scatter_rows(tokens: Sequence[Tokens], row: int) -> PackedBatch:
    """Scatter the tokens of all images into padded rows."""
    lengths = [len(own.prefix) for own in tokens]
    starts, rows = first_fit_decreasing(lengths, row)
    joined = Tokens(*(torch.cat(field) for field in zip(*tokens, strict=True)))
    device = joined.prefix.device
    first = torch.tensor(starts, device=device)
    image = torch.repeat_interleave(torch.arange(len(tokens)), torch.tensor(lengths)).to(device)
    order = torch.cat([torch.arange(length) for length in lengths]).to(device)
    places = first[image] + order

    def in_rows(field: Tensor, rest: float) -> Tensor:
        empty = field.new_full((rows * row, *field.shape[1:]), rest)
        return empty.index_copy(0, places, field).unflatten(0, (rows, row))

    fields = zip(joined, (0.0, 0.0, 1.0, -1), strict=True)  # padding has a grid of 1 x 1
    return PackedBatch._make([*(in_rows(field, rest) for field, rest in fields), in_rows(image, -1), first])


def sample_embedding(
    embedding: Float[Tensor, "1 N C"],
    grid: tuple[int, int],
    positions: Float[Tensor, "*B 2"],
    grids: Float[Tensor, "*B 2"],
) -> Float[Tensor, "*B C"]:
    """Sample an absolute embedding at single positions, equal to `resize_embedding` for whole grids.

    Args:
        embedding: One vector for each patch of `grid`, row-major.
        grid: Rows and columns for which the embedding was learned.
        positions: Column and row of each token in its image.
        grids: Columns and rows of its image.

    Source: Keys 1981, cubic convolution with a = -0.75; half-pixel centers, edges repeated, as PyTorch's bicubic.
    """
    dtype = torch.promote_types(embedding.dtype, torch.float32)
    size = torch.tensor(grid[::-1], dtype=positions.dtype, device=positions.device)
    place = (positions + 0.5) * size / grids - 0.5
    near = place.floor()
    taps = near.unsqueeze(-1) + torch.arange(-1, 3, device=place.device)
    weights = _cubic_weights((place.unsqueeze(-1) - taps).abs())
    taps = taps.clamp(min=0).minimum(size.unsqueeze(-1) - 1).long()
    index = taps[..., 1, :, None] * grid[1] + taps[..., 0, None, :]
    weight = weights[..., 1, :, None] * weights[..., 0, None, :]
    bags = index.flatten(-2).flatten(0, -2), weight.flatten(-2).flatten(0, -2).to(dtype)
    vectors = F.embedding_bag(bags[0], embedding[0].to(dtype), per_sample_weights=bags[1], mode="sum")
    return vectors.unflatten(0, positions.shape[:-1]).to(embedding.dtype)


def embed_images(
    embedding: Float[Tensor, "1 M C"], grid: tuple[int, int], pixel_mask: Bool[Tensor, "B h w"]
) -> Float[Tensor, "B N C"]:
    """Resize an absolute embedding to each image of a padded batch, as `resize_embedding` does for a whole grid.

    Args:
        embedding: One vector for each patch of `grid`, row-major.
        grid: Rows and columns for which the embedding was learned.
        pixel_mask: True for image tokens, which lie at the top left; the result is meaningless elsewhere.
    """
    count, h, w = pixel_mask.shape
    positions = grid_positions(h, w, device=pixel_mask.device).expand(count, -1, -1)
    return sample_embedding(embedding, grid, positions, image_grids(pixel_mask).unsqueeze(1).expand_as(positions))


def image_grids(pixel_mask: Bool[Tensor, "B h w"]) -> Float[Tensor, "B 2"]:
    """Return the columns and rows of each image of a padded batch, at least 1.

    Args:
        pixel_mask: True for image tokens, which lie at the top left.
    """
    return torch.stack([pixel_mask[:, 0].sum(1), pixel_mask[:, :, 0].sum(1)], dim=1).clamp(min=1).float()


def _cubic_weights(distance: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return the bicubic weight of a neighbor at a distance from 0 to 2 (Keys 1981, a = -0.75)."""
    a, d = -0.75, distance
    inner = ((a + 2) * d - (a + 3)) * d * d + 1
    outer = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return torch.where(d <= 1, inner, outer)


def mean_patch(tokens: Float[Tensor, "R L C"], packed: PackedBatch) -> Float[Tensor, "B C"]:
    """Average the patch tokens of each image."""
    image, count = packed.sequence_ids.flatten().clamp(min=0), packed.starts.shape[0]
    values = tokens.flatten(0, 1).to(torch.promote_types(tokens.dtype, torch.float32))
    patch = ((packed.prefix < 0) & (packed.sequence_ids >= 0)).flatten()
    sums = values.new_zeros(count, values.shape[-1]).index_add(0, image, values.masked_fill(~patch.unsqueeze(1), 0))
    patch = patch.to(values.dtype)
    return (sums / values.new_zeros(count).index_add(0, image, patch).unsqueeze(1)).to(tokens.dtype)


def encode_isolated(
    packed: PackedBatch, embed: Callable[[PackedBatch], Tensor], encode: Callable[[Tensor], Tensor]
) -> tuple[Float[Tensor, "R L C"], Bool[Tensor, "B"]]:
    """Embed and encode a packed batch so that infinite or NaN values of an image affect no other image.

    Args:
        packed: The batch.
        embed: Maps the batch to tokens.
        encode: Maps tokens to features, in blocks that call `zero_nonfinite_tokens`.

    Returns:
        Features, and a mask of images with non-finite pixels or activations, whose features are 0.
    """
    damaged = _not_finite(packed.patches, packed)
    features = encode(embed(packed._replace(patches=packed.patches.masked_fill(belongs_to(damaged, packed), 0))))
    damaged = damaged | _not_finite(features, packed)
    return features.masked_fill(belongs_to(damaged, packed), 0), damaged


def zero_nonfinite_tokens(x: Float[Tensor, "R L C"], sequences: SequenceIds) -> Float[Tensor, "R L C"]:
    """Set tokens with infinite or NaN values to 0, if images share rows of the batch.

    In attention a masked key still contributes 0 times its value, which is NaN for a non-finite value.
    """
    return x.masked_fill(~x.isfinite().all(-1, keepdim=True), 0) if sequences.shared else x


def belongs_to(images: Bool[Tensor, "B"], packed: PackedBatch) -> Bool[Tensor, "R L 1"]:
    """Return a mask of the tokens that belong to the given images."""
    return (images[packed.sequence_ids.clamp(min=0)] & (packed.sequence_ids >= 0)).unsqueeze(-1)


def _not_finite(values: Float[Tensor, "R L C"], packed: PackedBatch) -> Bool[Tensor, "B"]:
    """Return a mask of the images with an infinite or NaN value."""
    bad = (~values.isfinite().all(-1) & (packed.sequence_ids >= 0)).flatten()
    return torch.zeros_like(packed.starts).index_add(0, packed.sequence_ids.clamp(min=0).flatten(), bad.long()) > 0
