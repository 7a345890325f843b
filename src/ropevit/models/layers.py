"""The parts of a vision transformer block: rotated attention, MLP, stochastic depth."""

import logging
from functools import cache
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules import module as module_hooks

from ropevit.kernels import rotate_qkv
from ropevit.models.packed import SequenceIds, block_diagonal_mask
from ropevit.models.window_partition import WindowPartition, attend_in_windows
from ropevit.rope import LearnedRope
from ropevit.rope.scaling import Scaling

log = logging.getLogger(__name__)


class Attention(nn.Module):
    """Multi-head self-attention whose queries and keys are turned by the positions of their tokens.

    Args:
        width: Channels, C.
        heads: Number of heads, A.
        rope: This layer's own learned frequencies, or None where the model passes fixed ones for all layers.
    """

    backend = "auto"
    """How the rotation is computed; `ropevit.kernels.set_backend` changes it."""

    scaling: Scaling | None = None
    """Rules for grids larger than the trained one; `ropevit.models.set_scaling` changes them."""

    def __init__(self, width: int, heads: int, rope: LearnedRope | None = None):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.rope = rope
        self.relative: nn.Module | None = None
        """What makes a bias of the queries and their grid; a backbone may put it here."""

    def forward(
        self,
        x: Float[Tensor, "B n C"],
        positions: Float[Tensor, "*b N ndim"],
        frequencies: Float[Tensor, "ndim *a P"] | None = None,
        mask: Bool[Tensor, "B 1 n n"] | None = None,
        grid: tuple[int, int] | None = None,
        *,
        draw: Float[Tensor, "2 2"] | None = None,
    ) -> Float[Tensor, "B n C"]:
        """Attend among all n tokens, or those that the mask allows; the last N of them stand at `positions`.

        Where there is a relative bias, all of them are the `grid`'s rows x columns, row-major. Where there are rules
        for larger grids, the positions are those of a whole one; `draw` is what a training step drew for them.
        """
        frequencies, attention_factor = layer_frequencies(self.rope, frequencies, positions.dtype), None
        num_prefix = x.shape[1] - positions.shape[-2]
        if self.scaling is not None and frequencies is not None:
            positions, frequencies, attention_factor = self.scaling(positions, frequencies, draw)
        if self.relative is None:
            how = {"backend": self.backend, "attention_factor": attention_factor}
            q, k, v = project(self.qkv, x, self.heads, positions, frequencies, num_prefix, **how)
            add = mask
        else:
            assert grid is not None
            packed = scale_queries(self.qkv(x).unflatten(-1, (3, self.heads, -1)), attention_factor)
            bias = self.relative(packed[:, :, 0].transpose(1, 2), *grid)
            add = bias if mask is None else bias.masked_fill(~mask, float("-inf"))
            q, k, v = split(packed, positions, frequencies, num_prefix, backend=self.backend)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=add)
        return self.proj(x.transpose(1, 2).flatten(2))


def layer_frequencies(
    rope: LearnedRope | None, shared: Float[Tensor, "ndim *a P"] | None, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "ndim *A P"] | None:
    """Give a layer its own frequencies, or those that all layers share.

    Args:
        rope: The rotation of the layer, if it has its own. It is called, so that what hangs on it (offloading,
            sharding) brings its parameters in.
        shared: Frequencies that the model passes to all layers.
        dtype: Of the positions.
    """
    frequencies = shared if rope is None else rope()
    if frequencies is not None and not torch.compiler.is_compiling():
        for name, given in (("positions", dtype), ("frequencies", frequencies.dtype)):
            if given.itemsize < 4:
                warn_of_rounding(name, given)
    return frequencies


@cache
def warn_of_rounding(name: str, dtype: torch.dtype) -> None:
    """Say once in the log that something has rounded what must not be rounded: no cast of a model does."""
    log.warning(
        "attention got %s in %s, which makes angles wrong; most often a mixed precision policy of FSDP has cast them: "
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
    num_prefix: int = 0,
    *,
    backend: str = "auto",
    attention_factor: Float[Tensor, ""] | None = None,
) -> tuple[Float[Tensor, "B A n D"], Float[Tensor, "B A n D"], Float[Tensor, "B A n D"]]:
    """Make queries, keys and values of tokens, and turn the first two by the tokens' positions."""
    packed = scale_queries(qkv(x).unflatten(-1, (3, heads, -1)), attention_factor)
    return split(packed, positions, frequencies, num_prefix, inplace=is_observed(qkv), backend=backend)


def is_observed(layer: nn.Module) -> bool:
    """Tell whether nobody else can hold what a layer returns: it is a plain linear one, on which nothing hangs.

    A hook may keep what it was shown, a wrapper what the layer within returned.
    """
    plain = type(layer).forward is nn.Linear.forward and "forward" not in layer.__dict__
    return plain and not layer._forward_hooks and not module_hooks._global_forward_hooks


def split(
    packed: Float[Tensor, "B n 3 A D"],
    positions: Float[Tensor, "*b N ndim"],
    frequencies: Float[Tensor, "ndim *a P"] | None,
    num_prefix: int = 0,
    *,
    inplace: bool = False,
    backend: str = "auto",
) -> tuple[Float[Tensor, "B A n D"], Float[Tensor, "B A n D"], Float[Tensor, "B A n D"]]:
    """Split a projection into queries, keys and values, and turn the first two by the tokens' positions."""
    if frequencies is None:
        q, k, v = (part.transpose(1, 2) for part in packed.unbind(2))
        return q, k, v
    return rotate_qkv(packed, positions, frequencies, num_prefix, inplace=inplace, backend=backend)


def scale_queries(
    qkv: Float[Tensor, "*B 3 A D"], attention_factor: Float[Tensor, ""] | None
) -> Float[Tensor, "*B 3 A D"]:
    """Multiply the queries of a packed projection, where attention is to be sharper or softer."""
    if attention_factor is None:
        return qkv
    one = torch.ones_like(attention_factor)
    return (qkv * torch.stack([attention_factor, one, one]).reshape(3, 1, 1)).to(qkv.dtype)


class Mlp(nn.Module):
    """Two linear layers with a GELU between them.

    Args:
        width: Channels in and out, C.
        hidden: Channels between.
    """

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "... C"]) -> Float[Tensor, "... C"]:
        """Work on each token alone."""
        return self.fc2(F.gelu(self.fc1(x)))


class DropPath(nn.Module):
    """Leave out a residual branch for some of the images in training, and scale up what stays.

    Args:
        rate: Probability of leaving the branch out, from 0 to below 1.

    Source: Huang et al. 2016 (arXiv:1603.09382), per sample.
    """

    def __init__(self, rate: float = 0.0):
        super().__init__()
        self.rate = rate

    def forward(self, x: Float[Tensor, "B ..."], rows: SequenceIds | None = None) -> Float[Tensor, "B ..."]:
        """Drop whole images of a branch; the identity in evaluation.

        Args:
            x: One image a row, or packed images.
            rows: Which image each token of a packed batch belongs to.
        """
        if not self.training or self.rate == 0:
            return x
        images = x.shape[0] if rows is None else rows.num_images
        keep = torch.rand(images, *(1,) * (x.ndim - 1), device=x.device) >= self.rate
        if rows is not None:
            keep = keep[rows.sequence_ids.clamp(min=0)].squeeze(-1)
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
        layer_scale: Start of LayerScale, or None to have none.
        drop_path: Rate of stochastic depth.
        rope: This layer's own learned frequencies, if any.

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
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads, rope)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, int(width * mlp_ratio))
        self.layer_scale = layer_scale
        self.gamma_1 = None if layer_scale is None else nn.Parameter(torch.empty(width))
        self.gamma_2 = None if layer_scale is None else nn.Parameter(torch.empty(width))
        self.drop_path = DropPath(drop_path)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start LayerScale anew."""
        for gamma in (self.gamma_1, self.gamma_2):
            if gamma is not None and self.layer_scale is not None:
                nn.init.constant_(gamma, self.layer_scale)

    def forward(
        self,
        x: Float[Tensor, "B n C"],
        positions: Float[Tensor, "*b N ndim"],
        frequencies: Float[Tensor, "ndim *a P"] | None = None,
        rows: SequenceIds | None = None,
        cut: WindowPartition | None = None,
        grid: tuple[int, int] | None = None,
        *,
        draw: Float[Tensor, "2 2"] | None = None,
    ) -> Float[Tensor, "B n C"]:
        """Mix the tokens (of each image, where `rows` tells them apart; in the windows of a cut), then work on each."""
        mask, mixed = None if rows is None else rows.mask, self.norm1(x)
        mixed = mixed if rows is None else block_diagonal_mask(mixed, rows)
        if cut is None:
            mixed = self.attn(mixed, positions, frequencies, mask, grid, draw=draw)
        else:
            mixed = attend_in_windows(cut, self.attn, mixed, frequencies, draw)
        x = x + self.drop_path(scale(mixed, self.gamma_1), rows)
        return x + self.drop_path(scale(self.mlp(self.norm2(x)), self.gamma_2), rows)


def scale(x: Float[Tensor, "... C"], gamma: Float[Tensor, "C"] | None) -> Float[Tensor, "... C"]:
    """Apply LayerScale, where there is one."""
    return x if gamma is None else x * gamma


class PatchEmbed(nn.Module):
    """Cut an image into patches, or a clip into tubelets, and project each to the model's width.

    Args:
        patch_size: Side of a patch in pixels, or (rows, columns); (frames, rows, columns) for clips.
        in_channels: Channels of the image.
        width: Channels of a token, C.

    Source: Arnab et al. 2021 (arXiv:2103.15691), ViViT, for tubelets.
    """

    def __init__(self, patch_size: int | tuple[int, ...], in_channels: int, width: int):
        super().__init__()
        conv: Any = nn.Conv3d if isinstance(patch_size, tuple) and len(patch_size) == 3 else nn.Conv2d
        self.proj: nn.Conv2d | nn.Conv3d = conv(in_channels, width, patch_size, patch_size)

    def forward(self, images: Float[Tensor, "B c *pixels"]) -> Float[Tensor, "B C *grid"]:
        """Return the map of patch tokens: (B, C, h, w), or (B, C, t, h, w)."""
        return self.proj(images)


def resize_embedding(
    embedding: Float[Tensor, "1 N C"], grid: tuple[int, int], h: int, w: int
) -> Float[Tensor, "1 n C"]:
    """Resize an absolute embedding to an h x w grid, as the published models do: bicubic, not antialiased.

    At its own size it comes back bit for bit, so there is no branch on sizes.

    Args:
        embedding: One vector for each patch of `grid`, row-major.
        grid: Rows and columns for which the embedding was learned.
        h: Rows wanted.
        w: Columns wanted.
    """
    dtype = torch.promote_types(embedding.dtype, torch.float32)
    maps = embedding.to(dtype).transpose(1, 2).unflatten(2, grid)
    resized = F.interpolate(maps, size=(h, w), mode="bicubic", align_corners=False)
    return resized.flatten(2).transpose(1, 2).to(embedding.dtype)


def resize_time(embedding: Float[Tensor, "1 s C"], t: int) -> Float[Tensor, "1 t C"]:
    """Resize a temporal embedding to t steps, linearly; at its own length it comes back bit for bit."""
    dtype = torch.promote_types(embedding.dtype, torch.float32)
    rows = embedding.to(dtype).transpose(1, 2)
    return F.interpolate(rows, size=t, mode="linear", align_corners=False).transpose(1, 2).to(embedding.dtype)


def init_linear(linear: nn.Linear) -> nn.Linear:
    """Start a linear layer as DeiT does."""
    nn.init.trunc_normal_(linear.weight, std=0.02)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
    return linear
