"""Additive distance biases of attention logits: from the positions of patches to the bias of every pair.

Positions are in patches, x (column) first. Only offsets of keys from queries enter, so that a common shift of all
patches changes nothing. Slopes are in logits per patch.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

#: Logit of a key that a directed head does not see; finite, as a softmax over such keys alone would be NaN otherwise.
MASKED_LOGIT = -1e4

#: Directions of LookHere's heads, x and y: the four quadrants, then up, down, left and right.
DIRECTIONS = ((-1, -1), (1, -1), (-1, 1), (1, 1), (0, -1), (0, 1), (-1, 0), (1, 0))

#: Constant channel of `squared_distance_channels`, a power of 2 that keeps the channels in the range of half precision.
_CONSTANT = 64.0


def offsets(positions: Float[Tensor, "*B n ndim"]) -> Float[Tensor, "*B n n ndim"]:
    """Compute the offset of each key (second n) from each query (first n), in patches."""
    return positions.unsqueeze(-3) - positions.unsqueeze(-2)


def distances(positions: Float[Tensor, "*B n ndim"]) -> Float[Tensor, "*B n n"]:
    """Compute the Euclidean distance of each query and key, in patches."""
    return torch.linalg.vector_norm(offsets(positions), dim=-1)


def alibi_slopes(heads: int) -> list[float]:
    """Compute ALiBi's geometric slopes: 2^(-8h / A) for h = 1..A.

    Unless A is a power of 2, the slopes are those of the next lower power, then every second one of the next higher.

    Source: Press et al. 2022 (arXiv:2108.12409), section 3; as in CROMA (arXiv:2311.00566).
    """
    power = 2 ** int(math.log2(heads))
    own = [2 ** (-8 * (head + 1) / power) for head in range(power)]
    between = [2 ** (-4 * (2 * head + 1) / power) for head in range(heads - power)]
    return own + between


def linear_bias(positions: Float[Tensor, "*B n ndim"], slopes: Float[Tensor, "A"]) -> Float[Tensor, "*B A n n"]:
    """Compute -slope * distance for each head."""
    return -slopes[:, None, None] * distances(positions).unsqueeze(-3)


def log_offsets(positions: Float[Tensor, "*B n ndim"]) -> Float[Tensor, "*B n n ndim"]:
    """Compute sign(d) log2(1 + |d|) of the offset d along each axis.

    Source: Liu et al. 2022 (arXiv:2111.09883), Swin v2, Eq. 4.
    """
    offset = offsets(positions)
    return offset.sign() * (1 + offset.abs()).log2()


def relative_log_distances(
    positions: Float[Tensor, "*B n ndim"], curvature: Float[Tensor, ""], visible: Bool[Tensor, "*b n n"] | None = None
) -> Float[Tensor, "*c n n"]:
    """Compute log(1 + c d) over that of the furthest key of the query, from 0 to 1.

    Args:
        positions: Positions of the patches.
        curvature: c, per patch.
        visible: Keys among which the furthest is; None for all.

    Source: Li et al. 2024 (arXiv:2310.04418), FIRE, Eq. 4; the query's position in a text, which is the distance of its
    furthest key, becomes the distance of the furthest patch.
    """
    logs = (curvature.abs() * distances(positions)).log1p()
    furthest = (logs if visible is None else logs.masked_fill(~visible, 0)).amax(-1, keepdim=True)
    return logs / furthest.clamp(min=1e-6)


def lookhere_heads(heads: int, layer: int, depth: int) -> tuple[Float[Tensor, "A 2"], Float[Tensor, "A"]]:
    """Return the direction of each head of a layer, (0, 0) for none, and its slope.

    A third of the heads has no direction. The others take the eight of `DIRECTIONS` in turn, through all layers: with
    12 heads every layer has each once, as published.

    Args:
        heads: Number of heads, A.
        layer: Index of the layer, from 0.
        depth: Number of layers.

    Source: Fuller et al. 2024 (arXiv:2405.13985), LookHere-90: slopes are 2, times 1.5 in the first layer down to 0.5
    in the last, times 1/2 for heads with a direction, and 1/4, 1/16, 1/64, 1/256 for those without.
    """
    free = heads // 3
    directed = heads - free
    directions = [DIRECTIONS[(layer * directed + head) % len(DIRECTIONS)] for head in range(directed)]
    undirected = [4.0 ** -(1 + (head if free <= 4 else 4 * head // free)) for head in range(free)]
    slopes = torch.tensor([0.5] * directed + undirected) * 2 * (1.5 - layer / max(depth - 1, 1))
    return torch.tensor(directions + [(0, 0)] * free, dtype=torch.float32), slopes


def directed_bias(
    positions: Float[Tensor, "*B n 2"], directions: Float[Tensor, "A 2"], slopes: Float[Tensor, "A"]
) -> Float[Tensor, "*B A n n"]:
    """Compute -slope * distance up to 90 degrees around a head's direction, both included, and MASKED_LOGIT beyond."""
    x, y = offsets(positions).unsqueeze(-4).unbind(-1)
    ahead_x, ahead_y = directions[:, :, None, None].unbind(1)
    inside = (x * ahead_y - y * ahead_x).abs() <= x * ahead_x + y * ahead_y
    return linear_bias(positions, slopes).masked_fill(~inside, MASKED_LOGIT)


def squared_distance_channels(
    positions: Float[Tensor, "*B n ndim"], slopes: Float[Tensor, "A"], scale: float, dtype: torch.dtype
) -> tuple[Float[Tensor, "*B A n E"], Float[Tensor, "*B A n E"]]:
    """Return channels of queries and keys whose products, times `scale`, are -(slope * distance)^2.

    |q - k|^2 = |q|^2 - 2 q k + |k|^2 is a sum of products of a number of the query and one of the key. Positions are
    counted from the middle. In half precision each number that is not whole is the sum of two, which leaves an error of
    about 2^-17 of the largest term; positions are exact up to 256 patches from the middle.

    Args:
        positions: Positions of the patches, whole numbers.
        slopes: 1 / distance at which attention falls to 1/e.
        scale: Factor on the products of queries and keys in attention, 1 / sqrt(D).
        dtype: Of queries and keys.

    Returns:
        Channels of the queries and of the keys: ndim + 2, in half precision twice as many.
    """
    middle = ((positions.amax(-2, keepdim=True) + positions.amin(-2, keepdim=True)) / 2).floor()
    centered = (positions - middle).unsqueeze(-3)
    steepness = (slopes.square() / scale)[:, None, None]
    ones = torch.full_like(centered[..., :1], _CONSTANT) + 0 * steepness  # + 0 * steepness: one copy for each head
    square = split_parts(-steepness * centered.square().sum(-1, keepdim=True) / _CONSTANT, dtype)
    linear = split_parts(2 * steepness * centered, dtype)
    count, each = len(square), (centered + 0 * steepness).to(dtype)
    queries = [each] * count + [ones.to(dtype)] * count + square
    keys = linear + square + [ones.to(dtype)] * count
    return torch.cat(queries, dim=-1), torch.cat(keys, dim=-1)


def split_parts(values: Float[Tensor, "..."], dtype: torch.dtype) -> list[Float[Tensor, "..."]]:
    """Split values into numbers of a dtype that add up to them: themselves, in half precision rounded and the rest."""
    rounded = values.to(dtype)
    return [rounded] if dtype.itemsize >= 4 else [rounded, (values - rounded).to(dtype)]
