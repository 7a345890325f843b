"""From images to classes of pixels: whole or in windows that slide, in one view or several, at the original size."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

#: Turns images (B, c, H, W) into scores (B, K, h, w) of the same or a smaller size; the highest is the class.
Segmenter = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class InferenceConfig:
    """How images are segmented; the defaults are those of mmseg's "whole".

    Raises:
        ValueError: If a field is out of range.
    """

    window: int | None = None
    """Side in pixels of the windows that slide over an image; None takes it whole."""
    stride: int = 341
    """Pixels from one window to the next, if there are any."""
    flip: bool = False
    """Also look at the mirror image."""
    probabilities: bool = True
    """Average the probabilities (softmax of the scores) of views, as mmseg does; False averages the scores, which is
    for a Mask2Former, whose scores are no logits. One view alone is left as it is."""

    def __post_init__(self):
        if self.window is not None and not 1 <= self.stride <= self.window:
            raise ValueError(
                f"got window={self.window}, stride={self.stride}; expected a stride from 1 to the window, "
                "which else leaves out pixels"
            )


#: mmseg's "slide" for crops of 512 pixels, which BEiT takes.
SLIDE = InferenceConfig(window=512, stride=341)


#: Pixels that are classified at once: scores of all classes of a large photo would not fit into memory.
STRIP = 2**20


@torch.no_grad()
def segment(
    segmenter: Segmenter,
    views: Sequence[Float[Tensor, "B c _ _"]],
    size: tuple[int, int],
    config: InferenceConfig,
) -> Int[Tensor, "B H W"]:
    """Classify the pixels of images.

    Scores of all classes are held for two views and some strips of STRIP pixels and, from view to view, for the pixels
    of the original or those of all views, whichever are fewer: so many views of a small image cost what a few do, and
    a view of a large photo does not cost what the photo would.

    Args:
        segmenter: A model in eval mode.
        views: The same images at one or several sizes (see `view_size`), normalised.
        size: Height and width of the original images.
        config: How.

    Raises:
        ValueError: If there is no view.
    """
    if not views:
        raise ValueError("got no views; expected the images at one size at least")
    config = replace(config, probabilities=config.probabilities and len(views) * (1 + config.flip) > 1)
    seen = _score_views(segmenter, views, config)
    step = max(1, STRIP // size[1])
    strips = [slice(top, min(top + step, size[0])) for top in range(0, size[0], step)]
    if (1 + config.flip) * sum(images.shape[2] * images.shape[3] for images in views) < size[0] * size[1]:
        kept = list(seen)
        parts = [add_views(kept, [rows], size, config).argmax(1) for rows in strips]
        return torch.cat(parts, dim=1)
    return add_views(seen, strips, size, config).argmax(1)


def _score_views(
    segmenter: Segmenter, views: Sequence[Float[Tensor, "B c _ _"]], config: InferenceConfig
) -> Iterator[Float[Tensor, "B K _ _"]]:
    """Score one view after the other, each followed by its mirror image if that is asked for."""
    for images in views:
        yield softmax_scores(segmenter, images, config)
        if config.flip:
            yield softmax_scores(segmenter, images.flip(3), config).flip(3)


def add_views(
    seen: Iterable[Float[Tensor, "B K _ _"]], strips: Sequence[slice], size: tuple[int, int], config: InferenceConfig
) -> Float[Tensor, "B K _ W"]:
    """Add up the scores of all views in strips that follow each other, one strip of one view at a time."""
    total, top = None, strips[0].start
    for view in seen:
        if total is None:
            total = view.new_zeros(*view.shape[:2], strips[-1].stop - top, size[1])
        for rows in strips:
            scores = resize_rows(view, size, rows)
            total[:, :, rows.start - top : rows.stop - top] += scores.softmax(1) if config.probabilities else scores
    assert total is not None
    return total


def resize_rows(scores: Float[Tensor, "B K h w"], size: tuple[int, int], rows: slice) -> Float[Tensor, "B K _ W"]:
    """Give some rows of what `resize` gives, without the memory of the others."""
    height, width = size
    if rows.stop - rows.start == height:
        return resize(scores, size)
    wanted = torch.arange(height, device=scores.device)[rows]
    place = ((wanted + 0.5) * (scores.shape[2] / height) - 0.5).clamp(min=0)
    above = place.long()
    below = (above + 1).clamp(max=scores.shape[2] - 1)
    part = torch.lerp(scores[:, :, above], scores[:, :, below], (place - above)[:, None])
    return resize(part, (len(wanted), width))


def softmax_scores(
    segmenter: Segmenter, images: Float[Tensor, "B c H W"], config: InferenceConfig
) -> Float[Tensor, "B K H W"]:
    """Score the pixels of images, whole or in windows; scores are averaged where windows overlap.

    Windows at the bottom and right are moved back into the image; an image smaller than a window is one.
    """
    height, width = images.shape[2:]
    if config.window is None:
        return resize(segmenter(images).float(), (height, width))
    total, seen = None, images.new_zeros(height, width, dtype=torch.float32)
    for rows in window_spans(height, config.window, config.stride):
        for columns in window_spans(width, config.window, config.stride):
            part = images[:, :, rows, columns]
            scores = resize(segmenter(part).float(), (part.shape[2], part.shape[3]))
            if total is None:
                total = scores.new_zeros(*scores.shape[:2], height, width)
            total[:, :, rows, columns] += scores
            seen[rows, columns] += 1
    assert total is not None
    return total.div_(seen)


def window_spans(side: int, window: int, stride: int) -> Iterator[slice]:
    """Give the windows along one side: every `stride` pixels, the last one ending with the side."""
    for number in range((max(side - window, 0) + stride - 1) // stride + 1):
        stop = min(number * stride + window, side)
        yield slice(max(stop - window, 0), stop)


def resize(scores: Float[Tensor, "B K h w"], size: tuple[int, int]) -> Float[Tensor, "B K H W"]:
    """Bring scores to a height and width, bilinearly between the centres of pixels (align_corners is False)."""
    if tuple(scores.shape[2:]) == size:
        return scores
    return F.interpolate(scores, size=size, mode="bilinear", align_corners=False)


def view_size(size: tuple[int, int], short: int = 512, long: int = 2048, ratio: float = 1.0) -> tuple[int, int]:
    """Give the size of a view: as large as the limits on both sides allow, of the same shape.

    >>> [view_size(size, ratio=ratio) for ratio in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)]  # mmseg's views

    Args:
        size: Height and width of the original image.
        short: Most pixels of the shorter side.
        long: Most pixels of the longer side.
        ratio: What both limits are multiplied with.

    Source: `rescale_size` of mmcv, which mmseg tests with (2048, 512) at ratio 1.
    """
    factor = min(int(long * ratio) / max(size), int(short * ratio) / min(size))
    return int(size[0] * factor + 0.5), int(size[1] * factor + 0.5)
