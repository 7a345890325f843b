"""Attention distance and entropy of every layer and head, at each resolution."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from ropevit.analysis.capture import AttentionCall, capture_attention
from ropevit.analysis.figure_model import FigureModel, FigureOptions
from ropevit.analysis.layers import NothingToDrawError
from ropevit.kernels.windows import window_partition
from ropevit.models.architectures import build_model
from ropevit.models.base import BaseModel
from ropevit.models.swin.attention import WindowAttention
from ropevit.rope import grid_positions
from ropevit.weights.loading import load_weights

#: Default maximum of query tokens per image (ViT) or window (Swin).
_MAX_QUERIES = 256


@dataclass(frozen=True, kw_only=True)
class LayerStats:
    """Attention statistics of the heads of one layer at one resolution, averaged over query tokens and images."""

    name: str
    """Path of the layer in the model."""
    size: tuple[int, int]
    """Height and width of the images in pixels."""
    grid: tuple[int, int]
    """Rows and columns of patches that attend together: the whole map, or one window of it."""
    stride: int
    """Stride of this layer's tokens in pixels."""
    windowed: bool
    """Whether `grid` is a window."""
    images: int
    """Number of images."""
    queries: int
    """Number of query tokens over all images."""
    distance: Float[np.ndarray, "A"]
    """Mean attention distance of each head, in patches."""
    entropy: Float[np.ndarray, "A"]
    """Entropy of each head's attention, in nats."""
    prefix_share: Float[np.ndarray, "A"]
    """Fraction of each head's attention on class and register tokens, from 0 to 1."""
    uniform_distance: float
    """Distance of uniform attention over all patches, for the same queries."""
    uniform_entropy: float
    """Entropy of uniform attention over all tokens: log N for N visible tokens."""

    @property
    def diagonal(self) -> float:
        """Diagonal of the grid from edge to edge, in patches."""
        return float(np.hypot(*self.grid))

    @property
    def relative_entropy(self) -> Float[np.ndarray, "A"]:
        """Entropy over that of uniform attention; 0 if only one token is visible."""
        return self.entropy / self.uniform_entropy if self.uniform_entropy else np.zeros_like(self.entropy)

    @property
    def facts(self) -> dict[str, str | int | float]:
        """Columns of a table row that describe the layer: image size in pixels, grid in patches."""
        return {
            **{"layer": self.name, "height": self.size[0], "width": self.size[1]},
            **{"grid_rows": self.grid[0], "grid_columns": self.grid[1], "patch_pixels": self.stride},
            **{"images": self.images, "queries": self.queries},
        }


@dataclass(frozen=True, kw_only=True)
class AttentionStats:
    """Attention statistics of all layers at all resolutions."""

    layers: tuple[LayerStats, ...]
    """Layers in order, for one resolution after the other."""

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """The resolutions, in order."""
        return list(dict.fromkeys(layer.size for layer in self.layers))

    def at(self, size: tuple[int, int]) -> list[LayerStats]:
        """Return the layers at one resolution."""
        return [layer for layer in self.layers if layer.size == size]


@torch.no_grad()
def attention_stats(
    model: nn.Module, batches: Sequence[Float[Tensor, "_ _ _ _"]], queries: int = _MAX_QUERIES, seed: int = 0
) -> AttentionStats:
    """Compute attention distance and entropy of every layer and head.

    Distance: the mean over query patches and images of sum_k p(k|q) d(k, q), with p over patches alone: class and
    register tokens are excluded as queries and keys, and the attention on them is reported separately. Entropy: the
    mean of -sum_k p(k|q) log p(k|q) over all tokens visible to a query patch. Swin heads use their windows.

    Args:
        model: Model to analyze; it is run in eval mode and its modes are restored.
        batches: Images (B, c, H, W), normalized for the model; one batch per resolution.
        queries: Maximum of query patches per image (ViT) or window (Swin); a random subset is used if there are more.
        seed: Seed of that subset.

    Raises:
        ValueError: If the model is no ViT or Swin of this package, or the images or `queries` are invalid.

    Source: Raghu et al. 2021 (arXiv:2108.08810), section 3, after Dosovitskiy et al. 2020 (arXiv:2010.11929).
    """
    if not isinstance(model, BaseModel):
        raise NothingToDrawError(
            f"got {type(model).__name__}; expected a classifier, such as a ViT or Swin of this package"
        )
    if queries < 1:
        raise ValueError(f"got queries={queries}; expected at least 1")
    sizes = [tuple(batch.shape[2:]) for batch in batches]
    if len(set(sizes)) < len(sizes) or not sizes:
        raise ValueError(f"got images of {sizes} pixels; expected at least one batch, and each size once")
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        layers = [layer for batch in batches for layer in _batch_stats(model, batch, queries, seed)]
    finally:
        for module in training:  # only these: others may be frozen
            module.training = True
    return AttentionStats(layers=tuple(layers))


def _batch_stats(model: BaseModel[Any], images: Float[Tensor, "B c H W"], queries: int, seed: int) -> list[LayerStats]:
    """Compute the statistics of all layers at one resolution."""
    strides, layers = model.attention_strides(), []
    size = (images.shape[2], images.shape[3])

    def add_layer(call: AttentionCall) -> None:
        patches = size[0] // strides[call.name], size[1] // strides[call.name]
        token_grid, (values, uniform, count) = (
            TokenGrid.of(call, patches),
            _mean_over_queries(call, patches, queries, seed),
        )
        distance, entropy, prefix = values.cpu().numpy()
        layers.append(
            LayerStats(
                **{"name": call.name, "size": size, "grid": token_grid.grid, "stride": strides[call.name]},
                windowed=isinstance(call.layer, WindowAttention),
                images=len(images),
                queries=count,
                **{"distance": distance, "entropy": entropy, "prefix_share": prefix},
                uniform_distance=float(uniform[0]),
                uniform_entropy=float(uniform[1]),
            )
        )

    with capture_attention(model, add_layer):
        model.forward_features(images)
    return layers


def resize_all(images: Float[Tensor, "B c H W"], sizes: Sequence[int | tuple[int, int]]) -> list[Tensor]:
    """Resize images to several resolutions (bicubic, antialiased, in float32), one batch for each.

    Images of another aspect ratio are center-cropped first.

    Args:
        images: Images of one size, ideally the largest of `sizes`.
        sizes: Sides of squares, or heights and widths, in pixels.
    """
    pairs = [(size, size) if isinstance(size, int) else size for size in sizes]
    return [
        images
        if tuple(images.shape[2:]) == pair
        else F.interpolate(
            _center_crop(images, pair).float(), pair, mode="bicubic", antialias=True, align_corners=False
        ).to(images.dtype)
        for pair in pairs
    ]


def _center_crop(images: Float[Tensor, "B c H W"], size: tuple[int, int]) -> Float[Tensor, "B c h w"]:
    """Return the largest center crop with the aspect ratio of a size (height, width)."""
    factor = min(images.shape[2] / size[0], images.shape[3] / size[1])
    height, width = (max(1, round(factor * side)) for side in size)
    top, left = (images.shape[2] - height) // 2, (images.shape[3] - width) // 2
    return images[..., top : top + height, left : left + width]


@dataclass(frozen=True, kw_only=True)
class TokenGrid:
    """Positions of the tokens of one batch row."""

    grid: tuple[int, int]
    """Rows and columns of patches that attend together."""
    positions: Float[Tensor, "N 2"]
    """Column and row of each patch, in patches; shared by all windows, as distances inside are the same."""
    prefix: int
    """Number of class and register tokens before the patches."""
    patch_mask: Bool[Tensor, "M N"]
    """True for image patches, False for window padding; batch row r uses entry r % M."""

    @classmethod
    def of(cls, call: AttentionCall, patches: tuple[int, int]) -> "TokenGrid":
        """Return the grid of a captured attention call.

        Args:
            call: The call; its positions may be in other units than patches.
            patches: Rows and columns of the patches of the image.
        """
        x = call.inputs["x"]
        if isinstance(call.layer, WindowAttention):
            (h, w), window = x.shape[1:3], call.layer.window
            whole = torch.ones(1, h, w, 1, device=x.device)
            patch_mask = window_partition(whole, window, call.inputs["shift"]).squeeze(-1) > 0
            positions = grid_positions(window, window, device=x.device)
            return cls(grid=(min(h, window), min(w, window)), positions=positions, prefix=0, patch_mask=patch_mask)
        positions = grid_positions(*patches, device=x.device)
        patch_mask = torch.ones(1, len(positions), dtype=torch.bool, device=x.device)
        return cls(grid=patches, positions=positions, prefix=x.shape[1] - len(positions), patch_mask=patch_mask)


def _mean_over_queries(
    call: AttentionCall, patches: tuple[int, int], most: int, seed: int
) -> tuple[Float[Tensor, "3 A"], Float[Tensor, "3"], int]:
    """Average `query_stats` over the query patches and images of one layer.

    Args:
        call: The captured attention call.
        patches: Rows and columns of the patches of the image.
        most: Maximum of query patches per batch row.
        seed: Seed of the random subset if there are more.

    Returns:
        Means for each head, means of uniform attention, and the number of queries.
    """
    token_grid = TokenGrid.of(call, patches)
    candidates = token_grid.patch_mask.any(0).nonzero().squeeze(1).cpu()
    drawn = torch.randperm(len(candidates), generator=torch.Generator().manual_seed(seed))[:most]
    queries = candidates[drawn.sort().values].to(token_grid.positions.device)
    distances = torch.cdist(token_grid.positions[queries], token_grid.positions)
    sums = torch.zeros(3, call.q.shape[1], dtype=torch.float64, device=queries.device)
    uniform, count = torch.zeros_like(sums[:, 0]), 0
    for rows in call.row_chunks(len(queries)):
        patch_mask = token_grid.patch_mask[rows % len(token_grid.patch_mask)][:, queries].unsqueeze(1)
        scores = call.scores(rows, queries + token_grid.prefix)
        equal = torch.zeros_like(scores[:, :1]).masked_fill(
            call.masked(rows, queries + token_grid.prefix), float("-inf")
        )
        found, flat = (
            query_stats(each, distances, token_grid.prefix).masked_fill(~patch_mask, 0) for each in (scores, equal)
        )
        sums += found.double().sum((1, 3))
        uniform += flat.double().sum((1, 2, 3))
        count += int(patch_mask.sum())
    return sums / count, uniform / count, count


def query_stats(
    scores: Float[Tensor, "r A m n"], distances: Float[Tensor, "m N"], prefix: int = 0
) -> Float[Tensor, "3 r A m"]:
    """Return attention distance, entropy and fraction of attention on prefix tokens of each query.

    Args:
        scores: Attention logits.
        distances: Distance from each query to each patch, in patches.
        prefix: Number of class and register tokens, which come before the N patches.

    Returns:
        The mean distance under the attention on patches (in patches), the entropy of all attention (in nats), and the
        fraction of attention on the prefix.
    """
    probabilities = scores.softmax(-1)
    patches = scores[..., prefix:].softmax(-1) if prefix else probabilities
    far = (patches * distances).sum(-1)
    return torch.stack([far, torch.special.entr(probabilities).sum(-1), probabilities[..., :prefix].sum(-1)])


def stats_at_sizes(figure_model: FigureModel, options: FigureOptions) -> AttentionStats:
    """Compute the statistics of a model at its training size and the requested sizes, by default twice the former.

    Raises:
        ValueError: If there are no images, or the model does not support the sizes.
    """
    layers = []
    for size, batch in batches_at_sizes(figure_model, options):
        layers += attention_stats(
            model_at_size(figure_model.model, size[0], figure_model.trained_size[0]), [batch]
        ).layers
    return AttentionStats(layers=tuple(layers))


def batches_at_sizes(figure_model: FigureModel, options: FigureOptions) -> list[tuple[tuple[int, int], Tensor]]:
    """Return the images of a model at its training size and the requested sizes, by default twice the former.

    Raises:
        ValueError: If there are no images.
    """
    if figure_model.images is None:
        raise NothingToDrawError(
            "got no images to draw this figure from; add --images DIR, or the embedded fashion or emoji"
        )
    height, width = trained = figure_model.trained_size
    larger = [(side, side) for side in options.sizes] or [(2 * height, 2 * width)]
    sizes = sorted({trained, *larger})
    return list(zip(sizes, resize_all(figure_model.images, sizes), strict=True))


def model_at_size(model: nn.Module, size: int, trained: int) -> nn.Module:
    """Return a model for evaluation at a size as in the paper: Swin windows grow with the image, a ViT is unchanged.

    Args:
        model: The model, with its training windows.
        size: Image height in pixels.
        trained: Image height in training.
    """
    if not isinstance(model, BaseModel) or not model.config.windowed or size == trained:
        return model
    config, (window, _) = model.config, model.config.at_size(size, trained).attention_grid
    larger = build_model(replace(config, window_size=window, trained_grid=config.trained_grid or config.attention_grid))
    load_weights(larger, model.state_dict())
    return larger.to(next(model.parameters()))


def add_label(title: str, label: str) -> str:
    """Return a figure title with the label of the model."""
    return f"{title} of {label}" if label else title


def describe(data: AttentionStats) -> str:
    """Return the caption of a figure: images, queries, attention on prefix tokens and windows."""
    first = data.layers[0]
    text = f"{first.images} {'image' if first.images == 1 else 'images'}, the same at all sizes; "
    counts = [f"{data.at(size)[0].queries // first.images} at {show_size(size)}" for size in data.sizes]
    text += f"query patches of an image in the first layer: {', '.join(counts)}. "
    shares = np.concatenate([layer.prefix_share for layer in data.layers])
    if shares.any():
        text += (
            f"Class and register tokens receive {shares.mean():.1%} of attention, at most {shares.max():.1%} in a head."
        )
    windows = {layer.grid for layer in data.layers if layer.windowed}
    if windows:
        sides = " and ".join(show_size(window) for window in sorted(windows))
        text += f"Windows of {sides} patches, which grow with the image as in the paper."
    return text.strip()


def show_size(size: tuple[int, int]) -> str:
    """Format height and width, or rows and columns."""
    return f"{size[0]} x {size[1]}"
