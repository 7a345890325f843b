"""Window attention of a ViT in dense tasks: partition of the map into windows."""

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor

from ropevit.kernels.windows import window_partition, window_reverse
from ropevit.rope import grid_positions


class WindowPartition(NamedTuple):
    """Partition of a map of h x w tokens into windows, padded at the bottom and right to whole ones.

    Attention depends on relative positions only, so all windows share the positions 0 .. window - 1: a small table,
    with angles no larger than in pre-training.

    Source: Li et al. 2022 (arXiv:2203.16527), ViTDet, section 3.
    """

    h: int
    """Rows of tokens."""
    w: int
    """Columns of tokens."""
    window: int
    """Side of a window in tokens."""
    pixel_mask: Bool[Tensor, "B h w"] | None = None
    """True for tokens that may be attended to. None attends to the zero padding too, as ViTDet does."""


def attend_in_windows(
    partition: WindowPartition,
    attention: Callable[..., Tensor],
    x: Float[Tensor, "B n C"],
    frequencies: Float[Tensor, "2 *a P"] | None,
    jitter: Float[Tensor, "2 2"] | None = None,
) -> Float[Tensor, "B n C"]:
    """Apply an attention layer inside each window.

    Args:
        partition: The window partition.
        attention: Takes tokens, positions, frequencies, a mask, a grid and a jitter, as `layers.Attention`.
        x: Tokens of the map, row-major, without a prefix.
        frequencies: Frequencies that all blocks share, if any.
        jitter: Coordinate jitter of the training step, if any.
    """
    windows = window_partition(x.unflatten(1, (partition.h, partition.w)), partition.window, (0, 0))
    positions = grid_positions(partition.window, partition.window, device=x.device)
    mask = None
    if partition.pixel_mask is not None:
        mask = key_mask(
            window_partition(partition.pixel_mask.unsqueeze(-1).float(), partition.window, (0, 0)).squeeze(-1) > 0
        )
    mixed = attention(windows, positions, frequencies, mask, (partition.window, partition.window), jitter=jitter)
    return window_reverse(mixed, partition.h, partition.w, partition.window, (0, 0)).flatten(1, 2)


def key_mask(keys: Bool[Tensor, "B n"]) -> Bool[Tensor, "B 1 n n"]:
    """Return an attention mask of the keys; of a row that is all padding, all keys, so that no softmax is empty."""
    seen = keys | ~keys.any(-1, keepdim=True)
    return seen[:, None, None].expand(-1, -1, keys.shape[-1], -1)
