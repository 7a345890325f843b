"""Distance biases as modules, for any attention: `x = bias(positions, qkv=(q, k, v))`."""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from ropevit.rope.distance import (
    alibi_slopes,
    directed_bias,
    linear_bias,
    log_offsets,
    lookhere_heads,
    relative_log_distances,
    squared_distance_channels,
)
from ropevit.rope.layers import keep_float32

#: Hidden units of learned functions of distance.
_HIDDEN_UNITS = 32

#: Queries, keys and values.
QKV = tuple[Float[Tensor, "B A n D"], Float[Tensor, "B A n D"], Float[Tensor, "B A n D"]]


class DistanceBias(nn.Module):
    """Base class of distance biases: attention with a bias on the logits, or the bias alone.

    Between a patch and a class or register token, and between two of these, the bias is 0. Parameters stay float32 when
    the model is cast to bfloat16 or half. Do not apply weight decay to them.
    """

    def bias(
        self, positions: Float[Tensor, "*B n ndim"], visible: Bool[Tensor, "*b n n"] | None = None
    ) -> Float[Tensor, "*c A n n"]:
        """Compute the bias of each query (first n) and key (second n).

        Args:
            positions: Positions of the patches, in patches, x first.
            visible: Keys of each query; None for all.
        """
        raise NotImplementedError

    def attend(
        self,
        qkv: QKV,
        positions: Float[Tensor, "*B N ndim"],
        num_prefix_tokens: int = 0,
        patches: Bool[Tensor, "*B N"] | None = None,
        mask: Bool[Tensor, "B 1 n n"] | None = None,
    ) -> Float[Tensor, "B A n D"]:
        """Compute attention (B, A, n, D) with the bias as a matrix; `forward` documents the arguments."""
        bias = self.matrix(positions, num_prefix_tokens, patches, mask)
        bias = bias if mask is None else bias.masked_fill(~mask, float("-inf"))
        return F.scaled_dot_product_attention(*qkv, attn_mask=bias.to(qkv[0].dtype))

    def matrix(
        self,
        positions: Float[Tensor, "*B N ndim"],
        num_prefix_tokens: int = 0,
        patches: Bool[Tensor, "*B N"] | None = None,
        mask: Bool[Tensor, "B 1 n n"] | None = None,
    ) -> Float[Tensor, "b A n n"]:
        """Compute the bias (b, A, n, n) of all tokens, 0 for prefix tokens; `forward` documents the arguments."""
        visible = None if mask is None else mask[:, 0]
        if patches is not None:
            visible = patches.unsqueeze(-2) if visible is None else visible & patches.unsqueeze(-2)
        bias = self.bias(positions, visible)
        if patches is not None:
            bias = bias.masked_fill(~(patches.unsqueeze(-1) & patches.unsqueeze(-2)).unsqueeze(-3), 0)
        bias = F.pad(bias, (num_prefix_tokens, 0, num_prefix_tokens, 0))
        return bias if bias.ndim == 4 else bias.unsqueeze(0)

    def forward(
        self,
        positions: Float[Tensor, "*B N ndim"],
        num_prefix_tokens: int = 0,
        *,
        qkv: QKV | None = None,
        patches: Bool[Tensor, "*B N"] | None = None,
        mask: Bool[Tensor, "B 1 n n"] | None = None,
    ) -> Tensor:
        """Compute attention (B, A, n, D) with the bias on the logits, or the bias (b, A, n, n) alone.

        Args:
            positions: Positions of the last N of the n = num_prefix_tokens + N tokens, in patches, x first.
            num_prefix_tokens: Class and register tokens in front.
            qkv: Queries, keys and values; None for the bias alone.
            patches: In packed batches, False for class and register tokens among the N; None if all are patches.
            mask: True where a query may attend to a key; None for everywhere.
        """
        if qkv is None:
            return self.matrix(positions, num_prefix_tokens, patches, mask)
        return self.attend(qkv, positions, num_prefix_tokens, patches, mask)

    def reset_parameters(self) -> None:
        """Initialize the parameters, if any."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "DistanceBias":
        """Follow `.to(device)` and `.double()`, but keep float32 under `.half()` and `.bfloat16()`."""
        return super()._apply(keep_float32(fn), recurse)


class Alibi(DistanceBias):
    """ALiBi in two dimensions: -slope * distance, with fixed slopes. No parameters and no buffers.

    Args:
        heads: Number of heads, A.

    Source: Press et al. 2022 (arXiv:2108.12409); with Euclidean distances as in CROMA (arXiv:2311.00566).
    """

    def __init__(self, heads: int):
        super().__init__()
        self.heads = heads

    def bias(
        self, positions: Float[Tensor, "*B n ndim"], visible: Bool[Tensor, "*b n n"] | None = None
    ) -> Float[Tensor, "*B A n n"]:
        """Compute the bias of each query (first n) and key (second n)."""
        del visible
        return linear_bias(positions, positions.new_tensor(alibi_slopes(self.heads)))


class LearnedSlopes(DistanceBias):
    """Learned distance decay: -slope * distance, with slope = softplus(raw_slope), one for each head of a layer.

    The parameter is `raw_slope` (heads,).

    Args:
        start: Initial slope of each head, in logits per patch.

    Source: ALiBi (arXiv:2108.12409), whose slopes are fixed.
    """

    def __init__(self, start: Sequence[float]):
        super().__init__()
        self.start = tuple(start)
        self.raw_slope = nn.Parameter(torch.empty(len(start)))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set the slopes to their start."""
        self.raw_slope.copy_(torch.tensor(self.start, dtype=torch.float64).expm1().log())

    @property
    def slopes(self) -> Float[Tensor, "A"]:
        """Slope of each head, in logits per patch."""
        return F.softplus(self.raw_slope)

    def bias(
        self, positions: Float[Tensor, "*B n ndim"], visible: Bool[Tensor, "*b n n"] | None = None
    ) -> Float[Tensor, "*B A n n"]:
        """Compute the bias of each query (first n) and key (second n)."""
        del visible
        return linear_bias(positions, self.slopes)

    def extra_repr(self) -> str:
        """Describe the module in `print(model)`."""
        return f"heads={len(self.raw_slope)}"


class GaussianDecay(LearnedSlopes):
    """Learned Gaussian decay: -(slope * distance)^2, one slope for each head of a layer, without an n x n matrix.

    The bias is carried by extra channels of queries and keys, and values are padded with zeros, so that any fused
    attention computes it; memory is that of attention without a bias. The parameter is `raw_slope` (heads,).

    Args:
        start: Initial slope of each head: 1 / distance in patches at which attention falls to 1/e.

    Source: this package.
    """

    def bias(
        self, positions: Float[Tensor, "*B n ndim"], visible: Bool[Tensor, "*b n n"] | None = None
    ) -> Float[Tensor, "*B A n n"]:
        """Compute the bias as a matrix, for small windows; attention does without it."""
        del visible
        return -linear_bias(positions, self.slopes).square()

    def attend(
        self,
        qkv: QKV,
        positions: Float[Tensor, "*B N ndim"],
        num_prefix_tokens: int = 0,
        patches: Bool[Tensor, "*B N"] | None = None,
        mask: Bool[Tensor, "B 1 n n"] | None = None,
    ) -> Float[Tensor, "B A n D"]:
        """Compute attention with the bias as extra channels of queries and keys; `forward` documents the arguments."""
        q, k, v = qkv
        scale = 1 / math.sqrt(q.shape[-1])
        extra = squared_distance_channels(positions, self.slopes, scale, q.dtype)
        if patches is not None:
            extra = tuple(channels * patches[..., None, :, None] for channels in extra)
        extra = [F.pad(channels, (0, 0, num_prefix_tokens, 0)).expand(*q.shape[:-1], -1) for channels in extra]
        q, k = (torch.cat(pair, dim=-1) for pair in zip((q, k), extra, strict=True))
        padded = F.pad(v, (0, q.shape[-1] - v.shape[-1]))
        return F.scaled_dot_product_attention(q, k, padded, attn_mask=mask, scale=scale)[..., : v.shape[-1]]


class LearnedFunction(DistanceBias):
    """Base class of biases that a small MLP computes from features of the offset: one hidden layer of 32 ReLUs.

    The parameters are `hidden_weight`, `hidden_bias` and `out_weight`.

    Args:
        heads: Number of heads, A.
        features: Features of an offset.
    """

    def __init__(self, heads: int, features: int):
        super().__init__()
        self.hidden_weight = nn.Parameter(torch.empty(_HIDDEN_UNITS, features))
        self.hidden_bias = nn.Parameter(torch.empty(_HIDDEN_UNITS))
        self.out_weight = nn.Parameter(torch.empty(heads, _HIDDEN_UNITS))

    def reset_parameters(self) -> None:
        """Initialize the layers as nn.Linear does."""
        bound = 1 / math.sqrt(self.hidden_weight.shape[1])
        for weight, limit in (
            (self.hidden_weight, bound),
            (self.hidden_bias, bound),
            (self.out_weight, 1 / math.sqrt(_HIDDEN_UNITS)),
        ):
            nn.init.uniform_(weight, -limit, limit)

    def evaluate(self, features: Float[Tensor, "*B n n F"]) -> Float[Tensor, "*B A n n"]:
        """Apply the MLP to the features of every pair."""
        hidden = F.relu(F.linear(features.to(self.hidden_weight.dtype), self.hidden_weight, self.hidden_bias))
        return F.linear(hidden, self.out_weight).movedim(-1, -3)

    def extra_repr(self) -> str:
        """Describe the module in `print(model)`."""
        return f"heads={len(self.out_weight)}, features={self.hidden_weight.shape[1]}"


class LogCpb(LearnedFunction):
    """Log-spaced continuous position bias: an MLP of sign(d) log2(1 + |d|) along x and y, between -8 and 8.

    Args:
        heads: Number of heads, A.

    Source: Liu et al. 2022 (arXiv:2111.09883), Swin v2, whose MLP has 512 hidden units and sees offsets relative to the
    window; bounded by 16 sigmoid as in its code, here less 8, so that the bias of class tokens, 0, is in the middle.
    """

    def __init__(self, heads: int):
        super().__init__(heads, 2)
        self.reset_parameters()

    def bias(
        self, positions: Float[Tensor, "*B n ndim"], visible: Bool[Tensor, "*b n n"] | None = None
    ) -> Float[Tensor, "*B A n n"]:
        """Compute the bias of each query (first n) and key (second n)."""
        del visible
        return 16 * self.evaluate(log_offsets(positions)).sigmoid() - 8


class Fire(LearnedFunction):
    """FIRE: an MLP of the log distance, relative to that of the query's furthest patch.

    A larger image stretches the function: the same offset has another bias where the furthest patch is further. The
    parameters are those of the MLP and `curvature`, c of log(1 + c d).

    Args:
        heads: Number of heads, A.

    Source: Li et al. 2024 (arXiv:2310.04418). Its threshold, which serves the first tokens of a text, is left out:
    every patch has far ones.
    """

    def __init__(self, heads: int):
        super().__init__(heads, 1)
        self.curvature = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize the MLP as nn.Linear does, and the curvature as published."""
        super().reset_parameters()
        nn.init.constant_(self.curvature, 0.1)

    def bias(
        self, positions: Float[Tensor, "*B n ndim"], visible: Bool[Tensor, "*b n n"] | None = None
    ) -> Float[Tensor, "*c A n n"]:
        """Compute the bias of each query (first n) and key (second n)."""
        return self.evaluate(relative_log_distances(positions, self.curvature, visible).unsqueeze(-1))


class LookHere(DistanceBias):
    """LookHere: heads see the quarter of the plane in their direction, with -slope * distance. No parameters.

    Args:
        heads: Number of heads, A.
        layer: Index of the layer, from 0.
        depth: Number of layers.

    Source: Fuller et al. 2024 (arXiv:2405.13985), LookHere-90; see `ropevit.rope.distance.lookhere_heads`.
    """

    def __init__(self, heads: int, layer: int, depth: int):
        super().__init__()
        self.heads, self.layer, self.depth = heads, layer, depth

    def bias(
        self, positions: Float[Tensor, "*B n ndim"], visible: Bool[Tensor, "*b n n"] | None = None
    ) -> Float[Tensor, "*B A n n"]:
        """Compute the bias of each query (first n) and key (second n)."""
        del visible
        directions, slopes = lookhere_heads(self.heads, self.layer, self.depth)
        return directed_bias(positions, directions.to(positions), slopes.to(positions))


def decay_start(heads: int, steepest: float = 0.5, flattest: float = 0.1) -> list[float]:
    """Return slopes for learned decays to start from: geometrically spaced over the heads."""
    return [steepest * (flattest / steepest) ** (head / max(heads - 1, 1)) for head in range(heads)]
