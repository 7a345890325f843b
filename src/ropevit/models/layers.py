"""Layers of a vision transformer: attention with RoPE, stochastic depth, block, patch embedding."""

import logging
from functools import cache
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules import module as module_hooks

from ropevit.kernels import rotate_qkv
from ropevit.kernels.rotation import split_parts
from ropevit.models.mlp import MLPS
from ropevit.models.packed import SequenceIds, zero_nonfinite_tokens
from ropevit.models.window_partition import WindowPartition, attend_in_windows
from ropevit.rope import DistanceBias, LearnedRope
from ropevit.rope.scaling import Scaling

log = logging.getLogger(__name__)


class Attention(nn.Module):
    """Multi-head self-attention with rotary position embedding.

    Args:
        width: Channels, C.
        heads: Number of heads, A.
        rope: This layer's own learned frequencies, or None where the model passes fixed ones for all layers.
        qkv_bias: Whether the projection to queries, keys and values has a bias.
        key_bias: Whether that of the keys is used.
        norm_eps: Epsilon of the LayerNorm on the concatenated head outputs, before the output projection (timm:
            scale_attn_norm); None for no norm.
    """

    backend = "auto"
    """Backend of the rotation; `ropevit.kernels.set_backend` changes it."""

    scaling: Scaling | None = None
    """RoPE scaling for grids larger than the trained one; `ropevit.models.set_scaling` changes it."""

    def __init__(
        self,
        width: int,
        heads: int,
        rope: LearnedRope | None = None,
        *,
        qkv_bias: bool = True,
        key_bias: bool = True,
        norm_eps: float | None = None,
    ):
        super().__init__()
        self.heads = heads
        linear = nn.Linear if key_bias or not qkv_bias else LinearWithoutKeyBias
        self.qkv = linear(width, 3 * width, bias=qkv_bias)
        self.norm = None if norm_eps is None else nn.LayerNorm(width, eps=norm_eps)
        self.proj = nn.Linear(width, width)
        self.rope = rope
        self.relative: nn.Module | None = None
        """Computes a relative position bias from queries and grid; set by dense backbones."""
        self.distance: DistanceBias | None = None
        """Adds a bias by distance to the attention logits; set by the model."""

    def forward(
        self,
        x: Float[Tensor, "B n C"],
        positions: Float[Tensor, "*b N ndim"],
        frequencies: Float[Tensor, "ndim *a P"] | None = None,
        mask: Bool[Tensor, "B 1 n n"] | None = None,
        grid: tuple[int, int] | None = None,
        *,
        jitter: Float[Tensor, "2 2"] | None = None,
        patches: Bool[Tensor, "B n"] | None = None,
    ) -> Float[Tensor, "B n C"]:
        """Attend to all n tokens that the mask allows; the last N of them are at `positions`.

        With a relative bias, the tokens are all of a `grid`, rows x columns, row-major. With RoPE scaling, the
        positions are those of a whole grid; `jitter` is the coordinate jitter of the training step. A distance bias
        is 0 where `patches` is False; it counts distances in patches, whatever RoPE scaling does to the rotation.
        """
        patch_positions = positions
        frequencies, attention_factor = layer_frequencies(self.rope, frequencies, positions.dtype), None
        num_prefix_tokens = x.shape[1] - positions.shape[-2]
        if self.scaling is not None and frequencies is not None:
            positions, frequencies, attention_factor = self.scaling(positions, frequencies, jitter)
        if self.relative is None:
            how = {"backend": self.backend, "attention_factor": attention_factor}
            q, k, v = project(self.qkv, x, self.heads, positions, frequencies, num_prefix_tokens, **how)
            add = mask
        else:
            assert grid is not None
            qkv = scale_queries(self.qkv(x).unflatten(-1, (3, self.heads, -1)), attention_factor)
            bias = self.relative(qkv[:, :, 0].transpose(1, 2), *grid)
            add = bias if mask is None else bias.masked_fill(~mask, float("-inf"))
            q, k, v = split(qkv, positions, frequencies, num_prefix_tokens, backend=self.backend)
        if self.distance is None:
            x = F.scaled_dot_product_attention(q, k, v, attn_mask=add)
        else:
            x = self.distance(patch_positions, num_prefix_tokens, qkv=(q, k, v), patches=patches, mask=mask)
        x = x.transpose(1, 2).flatten(2)
        return self.proj(x if self.norm is None else self.norm(x))


def layer_frequencies(
    rope: LearnedRope | None, shared: Float[Tensor, "ndim *a P"] | None, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "ndim *A P"] | None:
    """Return the frequencies of a layer: its own, or those that all layers share.

    Args:
        rope: The layer's own learned RoPE, if any. It is called, so that its hooks (offloading, sharding) run.
        shared: Frequencies that the model passes to all layers.
        dtype: Dtype of the positions.
    """
    frequencies = shared if rope is None else rope()
    if frequencies is not None and not torch.compiler.is_compiling():
        for name, given in (("positions", dtype), ("frequencies", frequencies.dtype)):
            if given.itemsize < 4:
                warn_of_rounding(name, given)
    return frequencies


@cache
def warn_of_rounding(name: str, dtype: torch.dtype) -> None:
    """Log once that positions or frequencies came in half precision, which casting a model never causes."""
    log.warning(
        "attention got %s in %s, which makes angles wrong; usually a mixed precision policy of FSDP casts them: "
        "see 'Sharding and offloading' in docs/troubleshooting.md",
        name,
        dtype,
    )


def project(
    qkv: nn.Module,
    x: Float[Tensor, "B n C"],
    heads: int,
    positions: Float[Tensor, "*b N ndim"],
    frequencies: Float[Tensor, "ndim *a P"] | None,
    num_prefix_tokens: int = 0,
    *,
    backend: str = "auto",
    attention_factor: Float[Tensor, ""] | None = None,
) -> tuple[Float[Tensor, "B A n D"], Float[Tensor, "B A n D"], Float[Tensor, "B A n D"]]:
    """Project tokens to queries, keys and values, and rotate queries and keys by position."""
    projected = scale_queries(qkv(x).unflatten(-1, (3, heads, -1)), attention_factor)
    return split(projected, positions, frequencies, num_prefix_tokens, inplace=_allows_inplace(qkv), backend=backend)


def _allows_inplace(layer: nn.Module) -> bool:
    """Return whether a layer's output may be modified in place: it is a plain nn.Linear without hooks.

    A hook or a wrapper could hold on to the output.
    """
    plain = type(layer).forward in (nn.Linear.forward, LinearWithoutKeyBias.forward) and "forward" not in layer.__dict__
    return plain and not layer._forward_hooks and not module_hooks._global_forward_hooks


def split(
    qkv: Float[Tensor, "B n 3 A D"],
    positions: Float[Tensor, "*b N ndim"],
    frequencies: Float[Tensor, "ndim *a P"] | None,
    num_prefix_tokens: int = 0,
    *,
    inplace: bool = False,
    backend: str = "auto",
) -> tuple[Float[Tensor, "B A n D"], Float[Tensor, "B A n D"], Float[Tensor, "B A n D"]]:
    """Split the joint projection into queries, keys and values, and rotate queries and keys by position."""
    if frequencies is None:
        return split_parts(qkv)
    return rotate_qkv(qkv, positions, frequencies, num_prefix_tokens, inplace=inplace, backend=backend)


def scale_queries(
    qkv: Float[Tensor, "*B 3 A D"], attention_factor: Float[Tensor, ""] | None
) -> Float[Tensor, "*B 3 A D"]:
    """Multiply the queries of a packed projection by the attention factor, if any."""
    if attention_factor is None:
        return qkv
    one = torch.ones_like(attention_factor)
    return (qkv * torch.stack([attention_factor, one, one]).reshape(3, 1, 1)).to(qkv.dtype)


class LinearWithoutKeyBias(nn.Linear):
    """Projection to queries, keys and values whose keys have no bias: their third of `bias` is stored, but never used.

    Source: Siméoni et al. 2025 (arXiv:2508.10104), DINOv3, whose files hold all three thirds.
    """

    def forward(self, input: Float[Tensor, "... C"]) -> Float[Tensor, "... _"]:  # noqa: A002 (torch's name)
        """Project the tokens."""
        q, k, v = self.bias.chunk(3)
        return F.linear(input, self.weight, torch.cat([q, torch.zeros_like(k), v]))


class DropPath(nn.Module):
    """Stochastic depth: drop a residual branch for some of the images in training, and scale the others up.

    Args:
        rate: Probability of dropping the branch, from 0 to below 1.

    Source: Huang et al. 2016 (arXiv:1603.09382), per sample.
    """

    def __init__(self, rate: float = 0.0):
        super().__init__()
        self.rate = rate

    def forward(self, x: Float[Tensor, "B ..."], sequences: SequenceIds | None = None) -> Float[Tensor, "B ..."]:
        """Drop the branch of whole images; the identity in eval mode.

        Args:
            x: One image per row, or packed images.
            sequences: Image index of each token of a packed batch.
        """
        if not self.training or self.rate == 0:
            return x
        images = x.shape[0] if sequences is None else sequences.num_images
        keep = torch.rand(images, *(1,) * (x.ndim - 1), device=x.device) >= self.rate
        if sequences is not None:
            keep = keep[sequences.sequence_ids.clamp(min=0)].squeeze(-1)
        return x * (keep / (1 - self.rate)).to(x.dtype)

    def extra_repr(self) -> str:
        """Describe the module in `print(model)`."""
        return f"rate={self.rate:g}"


class Block(nn.Module):
    """Pre-norm transformer block with LayerScale and stochastic depth.

    Args:
        width: Channels, C.
        heads: Number of heads, A.
        mlp_ratio: Hidden channels of the MLP over C.
        layer_scale: Initial value of LayerScale, or None for none.
        drop_path: Rate of stochastic depth.
        rope: This layer's own learned frequencies, if any.
        mlp: Kind of MLP, a name of `MLPS`.
        norm_eps: Epsilon of the norms.
        attn_norm: Apply LayerNorm to the concatenated head outputs (timm: scale_attn_norm).
        biases: Options `qkv_bias` and `key_bias` of the attention.

    Source: Touvron et al. 2022 (arXiv:2204.07118), DeiT III; LayerScale from arXiv:2103.17239.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float = 4.0,
        layer_scale: float | None = 1e-4,
        drop_path: float = 0.0,
        rope: LearnedRope | None = None,
        *,
        mlp: str = "gelu",
        norm_eps: float = 1e-6,
        attn_norm: bool = False,
        **biases: bool,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=norm_eps)
        self.attn = Attention(width, heads, rope, norm_eps=norm_eps if attn_norm else None, **biases)
        self.norm2 = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = MLPS[mlp](width, int(width * mlp_ratio), norm_eps)
        self.layer_scale = layer_scale
        self.gamma_1 = None if layer_scale is None else nn.Parameter(torch.empty(width))
        self.gamma_2 = None if layer_scale is None else nn.Parameter(torch.empty(width))
        self.drop_path = DropPath(drop_path)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize LayerScale."""
        for gamma in (self.gamma_1, self.gamma_2):
            if gamma is not None and self.layer_scale is not None:
                nn.init.constant_(gamma, self.layer_scale)

    def forward(
        self,
        x: Float[Tensor, "B n C"],
        positions: Float[Tensor, "*b N ndim"],
        frequencies: Float[Tensor, "ndim *a P"] | None = None,
        sequences: SequenceIds | None = None,
        partition: WindowPartition | None = None,
        grid: tuple[int, int] | None = None,
        *,
        jitter: Float[Tensor, "2 2"] | None = None,
    ) -> Float[Tensor, "B n C"]:
        """Apply attention (of each image if `sequences` is given, of windows if `partition` is), then the MLP."""
        mask, patches = (None, None) if sequences is None else (sequences.mask, sequences.patches)
        mixed = self.norm1(x)
        mixed = mixed if sequences is None else zero_nonfinite_tokens(mixed, sequences)
        if partition is None:
            mixed = self.attn(mixed, positions, frequencies, mask, grid, jitter=jitter, patches=patches)
        else:
            mixed = attend_in_windows(partition, self.attn, mixed, frequencies, jitter)
        x = x + self.drop_path(scale(mixed, self.gamma_1), sequences)
        return x + self.drop_path(scale(self.mlp(self.norm2(x)), self.gamma_2), sequences)


def scale(x: Float[Tensor, "... C"], gamma: Float[Tensor, "C"] | None) -> Float[Tensor, "... C"]:
    """Apply LayerScale, if any."""
    return x if gamma is None else x * gamma


class PatchEmbed(nn.Module):
    """Patch embedding: split an image into patches, or a clip into tubelets, and project each to the model's width.

    Args:
        patch_size: Side of a patch in pixels, or (rows, columns); (frames, rows, columns) for clips.
        in_channels: Channels of the image.
        width: Channels of a token, C.

    Source: Arnab et al. 2021 (arXiv:2103.15691), ViViT, for tubelets.
    """

    def __init__(self, patch_size: int | tuple[int, ...], in_channels: int, width: int, bias: bool = True):
        super().__init__()
        conv: Any = nn.Conv3d if isinstance(patch_size, tuple) and len(patch_size) == 3 else nn.Conv2d
        self.proj: nn.Conv2d | nn.Conv3d = conv(in_channels, width, patch_size, patch_size, bias=bias)

    def forward(self, images: Float[Tensor, "B c *pixels"]) -> Float[Tensor, "B C *grid"]:
        """Return the map of patch tokens: (B, C, h, w), or (B, C, t, h, w)."""
        return self.proj(images)


def resize_embedding(
    embedding: Float[Tensor, "1 N C"], grid: tuple[int, int], h: int, w: int
) -> Float[Tensor, "1 n C"]:
    """Resize an absolute embedding to an h x w grid, as the published models do: bicubic, no antialiasing.

    At its own size it is returned bit for bit, so no branch on sizes is needed.

    Args:
        embedding: One vector for each patch of `grid`, row-major.
        grid: Rows and columns for which the embedding was learned.
        h: Target rows.
        w: Target columns.
    """
    dtype = torch.promote_types(embedding.dtype, torch.float32)
    maps = embedding.to(dtype).transpose(1, 2).unflatten(2, grid)
    resized = F.interpolate(maps, size=(h, w), mode="bicubic", align_corners=False)
    return resized.flatten(2).transpose(1, 2).to(embedding.dtype)


def resize_time(embedding: Float[Tensor, "1 s C"], t: int) -> Float[Tensor, "1 t C"]:
    """Resize a temporal embedding to t steps, linearly; at its own length it is returned bit for bit."""
    dtype = torch.promote_types(embedding.dtype, torch.float32)
    rows = embedding.to(dtype).transpose(1, 2)
    return F.interpolate(rows, size=t, mode="linear", align_corners=False).transpose(1, 2).to(embedding.dtype)


def init_linear(linear: nn.Linear) -> nn.Linear:
    """Initialize a linear layer as DeiT does."""
    nn.init.trunc_normal_(linear.weight, std=0.02)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
    return linear
