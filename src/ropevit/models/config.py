"""What the configs of all architectures share."""

from collections.abc import Sequence
from typing import Literal, NamedTuple


class PositionEmbedding(NamedTuple):
    """What a name of a position embedding stands for."""

    rope: Literal["axial", "mixed"] | None
    """Rotation with fixed (axial) or learned (mixed) frequencies."""
    absolute: bool = False
    """A learned vector for each patch."""
    bias: bool = False
    """A learned score for each difference of positions in a window."""


def as_pair(size: int | Sequence[int]) -> tuple[int, int]:
    """Read the side of a square, or height and width.

    Raises:
        ValueError: If it is neither.
    """
    pair = (size, size) if isinstance(size, int) else tuple(int(side) for side in size)
    if len(pair) != 2:
        raise ValueError(f"got img_size={size}; expected one side, or height and width")
    return pair[0], pair[1]
