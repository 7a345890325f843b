"""Semantic inference: whole images or sliding windows, one or several views, at the original resolution."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import torch
import tyro
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from ropevit.tasks.evaluation.inference_modes import window_spans

#: Maps images (B, c, H, W) to class scores (B, K, h, w) of the same or a lower resolution.
Segmenter = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class InferenceConfig:
    """Inference settings of a segmenter; the defaults are mmseg's mode "whole".

    Raises:
        ValueError: If a field is out of range.
    """

    window: Annotated[int | None, tyro.conf.arg(name="sliding-window")] = None
    """Side of the sliding window in pixels; None predicts on whole images."""
    stride: int = 341
    """Stride of the sliding window in pixels."""
    flip: bool = False
    """Test-time augmentation: average with the horizontally flipped image."""
    probabilities: bool = True
    """Average the softmax of several views, as mmseg does; False averages the scores themselves, for Mask2Former, whose
    scores are not logits."""

    def __post_init__(self):
        if self.window is not None and not 1 <= self.stride <= self.window:
            raise ValueError(
                f"got window={self.window}, stride={self.stride}; expected a stride from 1 to the window, since a "
                "larger one skips pixels"
            )


#: mmseg's mode "slide" for crops of 512 pixels, as used by BEiT.
SLIDE = InferenceConfig(window=512, stride=341)


def in_tiles(config: InferenceConfig, side: int) -> InferenceConfig:
    """Return settings that predict in adjacent tiles; the last ones overlap where they do not divide the image.

    Args:
        config: Other settings.
        side: Side of a tile in pixels.
    """
    return replace(config, window=side, stride=side)


#: Maximum pixels per strip in which scores are upsampled; those of a whole large photo may not fit into memory.
STRIP = 2**20


@torch.no_grad()
def segment(
    segmenter: Segmenter,
    views: Sequence[Float[Tensor, "B c _ _"]],
    size: tuple[int, int],
    config: InferenceConfig,
) -> Int[Tensor, "B H W"]:
    """Predict the class of each pixel.

    Memory: besides two views, scores are kept for either the pixels of the original or those of all views, whichever
    are fewer, so neither many views of a small image nor a small view of a large photo needs much.

    Args:
        segmenter: A model in eval mode.
        views: The same images at one or several sizes (see `view_size`), normalized.
        size: Height and width of the original images.
        config: Inference settings.

    Raises:
        ValueError: If there is no view.
    """
    if not views:
        raise ValueError("got no views; expected the images at one or more sizes")
    config = replace(config, probabilities=config.probabilities and len(views) * (1 + config.flip) > 1)
    scored = _score_views(segmenter, views, config)
    step = max(1, STRIP // size[1])
    strips = [slice(top, min(top + step, size[0])) for top in range(0, size[0], step)]
    if (1 + config.flip) * sum(images.shape[2] * images.shape[3] for images in views) < size[0] * size[1]:
        kept = list(scored)
        parts = [add_views(kept, [rows], size, config).argmax(1) for rows in strips]
        return torch.cat(parts, dim=1)
    return add_views(scored, strips, size, config).argmax(1)


def _score_views(
    segmenter: Segmenter, views: Sequence[Float[Tensor, "B c _ _"]], config: InferenceConfig
) -> Iterator[Float[Tensor, "B K _ _"]]:
    """Yield the scores of each view, and of its flipped image if requested."""
    for images in views:
        yield score_view(segmenter, images, config)
        if config.flip:
            yield score_view(segmenter, images.flip(3), config).flip(3)


def add_views(
    scored: Iterable[Float[Tensor, "B K _ _"]], strips: Sequence[slice], size: tuple[int, int], config: InferenceConfig
) -> Float[Tensor, "B K _ W"]:
    """Sum the scores of all views over adjacent strips, upsampling one strip of one view at a time."""
    total, top = None, strips[0].start
    for view in scored:
        if total is None:
            total = view.new_zeros(*view.shape[:2], strips[-1].stop - top, size[1])
        for rows in strips:
            scores = resize_rows(view, size, rows)
            total[:, :, rows.start - top : rows.stop - top] += scores.softmax(1) if config.probabilities else scores
    assert total is not None
    return total


def resize_rows(scores: Float[Tensor, "B K h w"], size: tuple[int, int], rows: slice) -> Float[Tensor, "B K _ W"]:
    """Return some rows of `resize(scores, size)`, without computing the others."""
    height, width = size
    if rows.stop - rows.start == height:
        return resize(scores, size)
    target = torch.arange(height, device=scores.device)[rows]
    source = ((target + 0.5) * (scores.shape[2] / height) - 0.5).clamp(min=0)
    above = source.long()
    below = (above + 1).clamp(max=scores.shape[2] - 1)
    part = torch.lerp(scores[:, :, above], scores[:, :, below], (source - above)[:, None])
    return resize(part, (len(target), width))


def score_view(
    segmenter: Segmenter, images: Float[Tensor, "B c H W"], config: InferenceConfig
) -> Float[Tensor, "B K H W"]:
    """Return the scores of all pixels, from whole images or sliding windows, averaged where windows overlap.

    Windows that would cross the bottom or right edge are shifted into the image; a smaller image is one window.
    """
    height, width = images.shape[2:]
    if config.window is None:
        return resize(segmenter(images).float(), (height, width))
    total, count = None, images.new_zeros(height, width, dtype=torch.float32)
    for rows in window_spans(height, config.window, config.stride):
        for columns in window_spans(width, config.window, config.stride):
            part = images[:, :, rows, columns]
            scores = resize(segmenter(part).float(), (part.shape[2], part.shape[3]))
            if total is None:
                total = scores.new_zeros(*scores.shape[:2], height, width)
            total[:, :, rows, columns] += scores
            count[rows, columns] += 1
    assert total is not None
    return total.div_(count)


def resize(scores: Float[Tensor, "B K h w"], size: tuple[int, int]) -> Float[Tensor, "B K H W"]:
    """Resize scores bilinearly (align_corners=False)."""
    if tuple(scores.shape[2:]) == size:
        return scores
    return F.interpolate(scores, size=size, mode="bilinear", align_corners=False)


def view_size(size: tuple[int, int], short: int = 512, long: int = 2048, ratio: float = 1.0) -> tuple[int, int]:
    """Return the largest size of a view with the image's aspect ratio whose sides do not exceed (short, long).

    >>> [view_size(size, ratio=ratio) for ratio in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)]  # mmseg's views

    Args:
        size: Height and width of the original image.
        short: Maximum of the shorter side in pixels.
        long: Maximum of the longer side in pixels.
        ratio: Factor on both.

    Source: `rescale_size` of mmcv, which mmseg tests with (2048, 512) at ratio 1.
    """
    factor = min(int(long * ratio) / max(size), int(short * ratio) / min(size))
    return int(size[0] * factor + 0.5), int(size[1] * factor + 0.5)
