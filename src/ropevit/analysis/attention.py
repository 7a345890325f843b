"""How far attention looks, and how widely it spreads: per layer and head, at each resolution."""

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
from ropevit.models.windows import WindowAttention
from ropevit.rope import grid_positions
from ropevit.weights.loading import load_weights

#: Query tokens that look, of each image (ViT) or window (Swin), unless told otherwise.
MAX_QUERIES = 256


@dataclass(frozen=True, kw_only=True)
class LayerStats:
    """What the heads of one layer do at one resolution, on average over query tokens and images."""

    name: str
    """Path of the layer in the model."""
    size: tuple[int, int]
    """Height and width of the images in pixels."""
    grid: tuple[int, int]
    """Rows and columns of patches that attend together: the whole map, or one window of it."""
    stride: int
    """Side in pixels of what this layer takes for a patch."""
    windowed: bool
    """Whether `grid` is a window."""
    images: int
    """Images measured."""
    queries: int
    """Query tokens measured, of all images."""
    distance: Float[np.ndarray, "A"]
    """Distance to where a head looks, in patches."""
    entropy: Float[np.ndarray, "A"]
    """Entropy of a head's attention, in nats."""
    prefix_share: Float[np.ndarray, "A"]
    """Share of a head's attention that goes to class and register tokens, from 0 to 1."""
    uniform_distance: float
    """The distance if the same queries looked at all patches equally."""
    uniform_entropy: float
    """The entropy if they looked at all tokens equally: log N where they see N."""

    @property
    def diagonal(self) -> float:
        """Diagonal of the grid from edge to edge, in patches."""
        return float(np.hypot(*self.grid))

    @property
    def relative_entropy(self) -> Float[np.ndarray, "A"]:
        """Entropy as a share of the uniform one; 0 where a single token is seen."""
        return self.entropy / self.uniform_entropy if self.uniform_entropy else np.zeros_like(self.entropy)

    @property
    def facts(self) -> dict[str, str | int | float]:
        """Say in a table's columns what was measured: pixels of images, patches of the grid."""
        return {
            **{"layer": self.name, "height": self.size[0], "width": self.size[1]},
            **{"grid_rows": self.grid[0], "grid_columns": self.grid[1], "patch_pixels": self.stride},
            **{"images": self.images, "queries": self.queries},
        }


@dataclass(frozen=True, kw_only=True)
class AttentionStats:
    """Measured attention of all layers at all resolutions."""

    layers: tuple[LayerStats, ...]
    """First to last, for one resolution after the other."""

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """The resolutions, in the order in which they were measured."""
        return list(dict.fromkeys(layer.size for layer in self.layers))

    def at(self, size: tuple[int, int]) -> list[LayerStats]:
        """Give the layers at one resolution."""
        return [layer for layer in self.layers if layer.size == size]


@torch.no_grad()
def attention_stats(
    model: nn.Module, batches: Sequence[Float[Tensor, "_ _ _ _"]], queries: int = MAX_QUERIES, seed: int = 0
) -> AttentionStats:
    """Measure attention distance and entropy of every layer and head.

    Distance: the mean over query patches and images of sum_k p(k|q) d(k, q), with p over patches alone: class and
    register tokens are left out as queries and keys, and what goes to them is reported beside it. Entropy: the mean of
    -sum_k p(k|q) log p(k|q) over all tokens that a query patch sees. A Swin's heads are measured inside their windows.

    Args:
        model: What to look at; it is run in evaluation mode and left as it was.
        batches: Images (B, c, H, W), normalised as the model wants them; each batch of a resolution of its own.
        queries: The most query patches of an image (ViT) or window (Swin); where there are more, such many are drawn.
        seed: Of that draw.

    Raises:
        ValueError: If the model is neither, or the images or `queries` do not fit.

    Source: Raghu et al. 2021 (arXiv:2108.08810), section 3, after Dosovitskiy et al. 2020 (arXiv:2010.11929).
    """
    if not isinstance(model, BaseModel):
        raise NothingToDrawError(
            f"got {type(model).__name__}; attention is measured in classifiers, such as a ViT or Swin of this package"
        )
    if queries < 1:
        raise ValueError(f"got queries={queries}; expected at least 1")
    sizes = [tuple(batch.shape[2:]) for batch in batches]
    if len(set(sizes)) < len(sizes) or not sizes:
        raise ValueError(f"got images of {sizes} pixels; expected at least one batch, and each size once")
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        layers = [layer for batch in batches for layer in batch_stats(model, batch, queries, seed)]
    finally:
        for module in training:  # and no other: parts may be frozen
            module.training = True
    return AttentionStats(layers=tuple(layers))


def batch_stats(model: BaseModel[Any], images: Float[Tensor, "B c H W"], queries: int, seed: int) -> list[LayerStats]:
    """Measure all layers at one resolution."""
    strides, layers = model.attention_strides(), []
    size = (images.shape[2], images.shape[3])

    def look(seen: AttentionCall) -> None:
        place, (values, uniform, count) = TokenGrid.of(seen), mean_over_queries(seen, queries, seed)
        distance, entropy, prefix = values.cpu().numpy()
        layers.append(
            LayerStats(
                **{"name": seen.name, "size": size, "grid": place.grid, "stride": strides[seen.name]},
                windowed=isinstance(seen.layer, WindowAttention),
                images=len(images),
                queries=count,
                **{"distance": distance, "entropy": entropy, "prefix_share": prefix},
                uniform_distance=float(uniform[0]),
                uniform_entropy=float(uniform[1]),
            )
        )

    with capture_attention(model, look):
        model.forward_features(images)
    return layers


def resize_all(images: Float[Tensor, "B c H W"], sizes: Sequence[int | tuple[int, int]]) -> list[Tensor]:
    """Resize images to several resolutions (bicubic, antialiased), a batch for each; in float32, as half has no such.

    Of another shape, they are first cut to the largest part of the middle that has the wanted one.

    Args:
        images: Images of one size, best the largest that is wanted.
        sizes: Sides of squares, or heights and widths, in pixels.
    """
    pairs = [(size, size) if isinstance(size, int) else size for size in sizes]
    return [
        images
        if tuple(images.shape[2:]) == pair
        else F.interpolate(
            center_crop(images, pair).float(), pair, mode="bicubic", antialias=True, align_corners=False
        ).to(images.dtype)
        for pair in pairs
    ]


def center_crop(images: Float[Tensor, "B c H W"], size: tuple[int, int]) -> Float[Tensor, "B c h w"]:
    """Cut the largest part with the shape of a size, height and width, out of the middle, in whole pixels."""
    factor = min(images.shape[2] / size[0], images.shape[3] / size[1])
    height, width = (max(1, round(factor * side)) for side in size)
    top, left = (images.shape[2] - height) // 2, (images.shape[3] - width) // 2
    return images[..., top : top + height, left : left + width]


@dataclass(frozen=True, kw_only=True)
class TokenGrid:
    """Where the tokens of a row stand."""

    grid: tuple[int, int]
    """Rows and columns of patches that attend together."""
    positions: Float[Tensor, "N 2"]
    """Column and row of each patch, in patches; windows share them, as distances inside are the same in all."""
    prefix: int
    """Class and register tokens in front of them."""
    valid: Bool[Tensor, "M N"]
    """Which patches are image, not what fills a window up; row r has the place r % M."""

    @classmethod
    def of(cls, seen: AttentionCall) -> "TokenGrid":
        """Find out for a layer at work."""
        x = seen.inputs["x"]
        if isinstance(seen.layer, WindowAttention):
            (h, w), window = x.shape[1:3], seen.layer.window
            whole = torch.ones(1, h, w, 1, device=x.device)
            valid = window_partition(whole, window, seen.inputs["shift"]).squeeze(-1) > 0
            positions = grid_positions(window, window, device=x.device)
            return cls(grid=(min(h, window), min(w, window)), positions=positions, prefix=0, valid=valid)
        positions = seen.inputs["positions"]
        columns, rows = (int(side) + 1 for side in positions.amax(0))
        valid = torch.ones(1, len(positions), dtype=torch.bool, device=x.device)
        return cls(grid=(rows, columns), positions=positions, prefix=x.shape[1] - len(positions), valid=valid)


def mean_over_queries(
    seen: AttentionCall, most: int, seed: int
) -> tuple[Float[Tensor, "3 A"], Float[Tensor, "3"], int]:
    """Average what `query_stats` gives over the query patches and images of one layer.

    Args:
        seen: The layer at work.
        most: The most query patches of a row.
        seed: Of the draw where there are more.

    Returns:
        The means for each head, the means of uniform attention, and the number of queries.
    """
    place = TokenGrid.of(seen)
    candidates = place.valid.any(0).nonzero().squeeze(1).cpu()
    drawn = torch.randperm(len(candidates), generator=torch.Generator().manual_seed(seed))[:most]
    queries = candidates[drawn.sort().values].to(place.positions.device)
    distances = torch.cdist(place.positions[queries], place.positions)
    sums = torch.zeros(3, seen.q.shape[1], dtype=torch.float64, device=queries.device)
    uniform, count = torch.zeros_like(sums[:, 0]), 0
    for rows in seen.row_chunks(len(queries)):
        valid = place.valid[rows % len(place.valid)][:, queries].unsqueeze(1)
        scores = seen.scores(rows, queries + place.prefix)
        equal = torch.zeros_like(scores[:, :1]).masked_fill(seen.masked(rows, queries + place.prefix), float("-inf"))
        found, flat = (query_stats(each, distances, place.prefix).masked_fill(~valid, 0) for each in (scores, equal))
        sums += found.double().sum((1, 3))
        uniform += flat.double().sum((1, 2, 3))
        count += int(valid.sum())
    return sums / count, uniform / count, count


def query_stats(
    scores: Float[Tensor, "r A m n"], distances: Float[Tensor, "m N"], prefix: int = 0
) -> Float[Tensor, "3 r A m"]:
    """Tell how far each query looks and how widely.

    Args:
        scores: What goes into the softmax.
        distances: From each query to each patch, in patches.
        prefix: Class and register tokens, which come before the N patches.

    Returns:
        The mean distance under the attention paid to patches (in patches), the entropy of all attention (in nats), and
        the share of it that goes to the prefix.
    """
    chances = scores.softmax(-1)
    patches = scores[..., prefix:].softmax(-1) if prefix else chances
    far = (patches * distances).sum(-1)
    return torch.stack([far, torch.special.entr(chances).sum(-1), chances[..., :prefix].sum(-1)])


def stats_at_sizes(subject: FigureModel, options: FigureOptions) -> AttentionStats:
    """Measure a model at the size of its training and at those that are asked for; if none are, at twice the former.

    Raises:
        ValueError: If there are no images to look at, or the model cannot take such sizes.
    """
    if subject.images is None:
        raise NothingToDrawError(
            "got no images, on which attention is measured; give some: --images DIR, or --images fashion"
        )
    height, width = trained = subject.trained_size
    larger = [(side, side) for side in options.sizes] or [(2 * height, 2 * width)]
    sizes = sorted({trained, *larger})
    layers = []
    for size, batch in zip(sizes, resize_all(subject.images, sizes), strict=True):
        layers += attention_stats(model_at_size(subject.model, size[0], height), [batch]).layers
    return AttentionStats(layers=tuple(layers))


def model_at_size(model: nn.Module, size: int, trained: int) -> nn.Module:
    """Give a model as the paper evaluates it at a size: a Swin's windows grow with the image, a ViT stays as it is.

    Args:
        model: The model, with the windows of its training.
        size: Height of an image in pixels.
        trained: The same in its training.
    """
    if not isinstance(model, BaseModel) or not model.config.windowed or size == trained:
        return model
    config, (window, _) = model.config, model.config.at_size(size, trained).attention_grid
    larger = build_model(replace(config, window_size=window, trained_grid=config.trained_grid or config.attention_grid))
    load_weights(larger, model.state_dict())
    return larger.to(model.norm.weight)


def add_label(title: str, label: str) -> str:
    """Say of which model a figure is."""
    return f"{title} of {label}" if label else title


def describe(data: AttentionStats) -> str:
    """Say what was averaged, and what the figure leaves out: one line, to stand below it."""
    first = data.layers[0]
    text = f"{first.images} {'image' if first.images == 1 else 'images'}, the same at all sizes; "
    counts = [f"{data.at(size)[0].queries // first.images} at {show_size(size)}" for size in data.sizes]
    text += f"query patches of an image in the first layer: {', '.join(counts)}. "
    shares = np.concatenate([layer.prefix_share for layer in data.layers])
    if shares.any():
        text += (
            f"To class and register tokens go {shares.mean():.1%} of attention, at most {shares.max():.1%} in a head."
        )
    windows = {layer.grid for layer in data.layers if layer.windowed}
    if windows:
        sides = " and ".join(show_size(window) for window in sorted(windows))
        text += f"Windows of {sides} patches, grown with the image, as in the paper."
    return text.strip()


def show_size(size: tuple[int, int]) -> str:
    """Write height and width, or rows and columns."""
    return f"{size[0]} x {size[1]}"
