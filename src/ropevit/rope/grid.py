"""Positions of tokens, (..., N, ndim): of grids, windows, crops, kept tokens and packed batches.

The columns of a position are x (column of the patch grid), y (row), then z or time; tokens of a grid are row-major.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

Device = torch.device | str | None


def grid_positions(*sizes: int, device: Device = None) -> Float[Tensor, "N ndim"]:
    """Make the integer positions of a grid, counted from its first corner: 0..w-1 along x, 0..h-1 along y.

    Args:
        sizes: Tokens along each axis, slowest axis first as in an image's shape: (n,), (h, w) or (t, h, w).
        device: Device of the result.

    Returns:
        Integer positions in float32, row-major; columns (x,), (x, y) or (x, y, t).

    Raises:
        ValueError: If there is no size, or a negative one.
    """
    if not sizes or min(sizes) < 0:
        raise ValueError(f"got sizes {sizes}; expected the number of tokens along each axis, none negative")
    axes = [torch.arange(size, dtype=torch.float32, device=device) for size in sizes]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1).flatten(0, -2)


def crop_positions(
    top: float, left: float, h: int, w: int, scale: float = 1.0, device: Device = None
) -> Float[Tensor, "N 2"]:
    """Make the positions of a crop's h x w tokens in the coordinates of the whole image.

    Args:
        top: Row of the crop's first token, in patches of the whole image; fractions are allowed.
        left: Column of the crop's first token.
        h: Rows of tokens.
        w: Columns of tokens.
        scale: Patches of the whole image that one patch of the crop spans (0.5 for a crop enlarged twice).
        device: Device of the result.

    Returns:
        Float positions of the crop's tokens, row-major, columns (x, y).
    """
    return grid_positions(h, w, device=device) * scale + torch.tensor([left, top], device=device)


def window_positions(h: int, w: int, window: tuple[int, int], device: Device = None) -> Float[Tensor, "windows n 2"]:
    """Partition the positions of an h x w grid into windows, as window attention partitions its tokens.

    Args:
        h: Rows of tokens; a multiple of the window's.
        w: Columns of tokens; a multiple of the window's.
        window: Rows and columns of a window.
        device: Device of the result.

    Returns:
        Positions in the whole grid, windows and their tokens both row-major, columns (x, y).

    Raises:
        ValueError: If the windows do not tile the grid.
    """
    rows, columns = window
    if rows < 1 or columns < 1 or h % rows or w % columns:
        raise ValueError(f"got a grid of {h} x {w} tokens; windows of {rows} x {columns} do not tile it: pad it first")
    grid = grid_positions(h, w, device=device).unflatten(0, (h // rows, rows, w // columns, columns))
    return grid.transpose(1, 2).flatten(2, 3).flatten(0, 1)


def kept_positions(positions: Float[Tensor, "N ndim"], keep: Int[Tensor, "*B M"]) -> Float[Tensor, "*B M ndim"]:
    """Select the positions of the tokens that each image keeps (masked training, token dropping).

    Args:
        positions: Positions of all tokens.
        keep: For each image, the indices of its kept tokens, in the order of the sequence.

    Returns:
        Positions of the kept tokens.
    """
    return positions[keep]


def packed_positions(
    sizes: Sequence[tuple[int, int]], num_prefix_tokens: int = 0, device: Device = None
) -> tuple[Float[Tensor, "N 2"], Int[Tensor, "N"]]:
    """Concatenate the positions of images of different sizes into one sequence.

    Args:
        sizes: (h, w) of each image, in tokens.
        num_prefix_tokens: Class and register tokens in front of each image, at the origin and thus not rotated.
        device: Device of the result.

    Returns:
        Positions of all tokens, columns (x, y), and the index of the image of each token, to make an attention mask
        from.

    Raises:
        ValueError: If `num_prefix_tokens` or a size is negative.
    """
    if num_prefix_tokens < 0:
        raise ValueError(f"got num_prefix_tokens={num_prefix_tokens}; expected 0 or more")
    prefix = torch.zeros(num_prefix_tokens, 2, device=device)
    positions = [torch.cat((prefix, grid_positions(h, w, device=device))) for h, w in sizes]
    image = [torch.full((len(tokens),), index, device=device) for index, tokens in enumerate(positions)]
    if not positions:
        return torch.zeros(0, 2, device=device), torch.zeros(0, dtype=torch.long, device=device)
    return torch.cat(positions), torch.cat(image)
