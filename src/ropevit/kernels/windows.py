"""Window partition of a map of any size, the masks of shifted and padded windows, and attention inside windows."""

from collections import OrderedDict
from threading import Lock

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch._guards import active_fake_mode
from torch.nn import functional as F

from ropevit.arithmetic import ceil_div
from ropevit.kernels.rotation import under_transform
from ropevit.rope import grid_positions

#: Upper bound in bytes of the masks that are kept.
MASK_BYTES = 2**26
_masks: OrderedDict[tuple[object, ...], Tensor] = OrderedDict()
_lock = Lock()  # models may run in several threads


def window_shift(h: int, w: int, window: int) -> tuple[int, int]:
    """Return the shift of every second block along y and x: half a window, or 0 where one window spans the side.

    Classifiers do this; the published detectors always shift (`WindowAttention.always_shift`).

    Computed without a branch, so that an exported model has it for all sizes.

    Source: Liu et al. 2021 (arXiv:2103.14030), section 3.2.
    """
    several = 1 - 1 // ceil_div(h, window), 1 - 1 // ceil_div(w, window)  # 1 // n is 1 for one window, 0 for more
    return window // 2 * several[0], window // 2 * several[1]


def _statically_known_true(fact: bool) -> bool:
    """Evaluate a condition on sizes: a bool in eager mode; while compiling, without adding a guard."""
    if not torch.compiler.is_compiling():
        return fact
    from torch.fx.experimental.symbolic_shapes import statically_known_true  # a slow import that only tracing needs

    return statically_known_true(fact)


def pad_or_crop(x: Float[Tensor, "B h w C"], h: int, w: int) -> Float[Tensor, "B h2 w2 C"]:
    """Pad a map with zeros at the bottom and right to h x w tokens, or crop it."""
    if _statically_known_true(x.shape[1] == h) and _statically_known_true(x.shape[2] == w):
        return x
    return F.pad(x, (0, 0, 0, w - x.shape[2], 0, h - x.shape[1]))


def window_partition(x: Float[Tensor, "B h w C"], window: int, shift: tuple[int, int]) -> Float[Tensor, "Bn n C"]:
    """Pad a map at the bottom and right to whole windows, roll it up and left, and partition it.

    Args:
        x: Map of tokens.
        window: Side of a window in tokens.
        shift: Rows and columns that wrap around to the other side.

    Returns:
        Windows of each image, row-major, their tokens row-major.
    """
    rows, columns = ceil_div(x.shape[1], window), ceil_div(x.shape[2], window)
    x = pad_or_crop(x, rows * window, columns * window).roll((-shift[0], -shift[1]), (1, 2))
    return _swap_inner(x.unflatten(2, (columns, window)).unflatten(1, (rows, window))).flatten(3, 4).flatten(0, 2)


def _swap_inner(x: Float[Tensor, "B a b c d C"]) -> Float[Tensor, "B a c b d C"]:
    """Swap the middle axes, always with a copy: a view for one column and a copy for two would branch on sizes."""
    return x.transpose(2, 3).clone(memory_format=torch.contiguous_format)


def window_reverse(
    windows: Float[Tensor, "Bn n C"], h: int, w: int, window: int, shift: tuple[int, int]
) -> Float[Tensor, "B h w C"]:
    """Undo `window_partition`: merge the windows of an h x w map, roll it back and crop the padding."""
    rows, columns = ceil_div(h, window), ceil_div(w, window)
    x = windows.unflatten(1, (window, window)).unflatten(0, (-1, rows, columns))
    return pad_or_crop(_swap_inner(x).flatten(3, 4).flatten(1, 2).roll(shift, (1, 2)), h, w)


def make_mask(h: int, w: int, window: int, shift: tuple[int, int], device: torch.device) -> Bool[Tensor, "windows n n"]:
    """Make the attention mask of shifted windows: tokens attend within their region of the image, never to padding.

    After the shift a window may hold regions from opposite sides of the image, which do not attend to each other; this
    includes a side that one window spans. Padding attends to everything, so that no softmax is empty; its output is
    cropped.

    Args:
        h: Rows of the map.
        w: Columns of the map.
        window: Side of a window in tokens.
        shift: Rows and columns that wrap around to the other side.
        device: Device of the mask.

    Returns:
        True where the query (first n) may attend to the key (last n).
    """
    rows, columns = ceil_div(h, window) * window, ceil_div(w, window) * window
    x, y = grid_positions(rows, columns, device=device).unflatten(0, (1, rows, columns)).unbind(-1)
    known = torch.stack([region(x, shift[1], window), region(y, shift[0], window), ((x < w) & (y < h)).float()], -1)
    return _same_region(window_partition(known, window, shift))


def region(position: Float[Tensor, "..."], shift: int | Tensor, window: int) -> Float[Tensor, "..."]:
    """Return the index of the shifted window along an axis: 0 from `shift` on, -1 before, where the shift wraps."""
    return ((position - shift) / window).floor()


def _same_region(known: Float[Tensor, "Bn n 3"]) -> Bool[Tensor, "Bn n n"]:
    """Make the mask of windows from the regions of their tokens along x and y, and whether they are image tokens."""
    x, y, real = known.unbind(-1)
    near, real = (x[:, :, None] == x[:, None]) & (y[:, :, None] == y[:, None]), real > 0
    return (near & real[:, None, :]) | ~real[:, :, None]


def per_image_shifts(
    pixel_mask: Bool[Tensor, "B h w"], window: int, shift: tuple[int, int], *, always: bool = False
) -> Int[Tensor, "B 2"]:
    """Compute for each image of a padded batch the shift that it would have alone.

    Args:
        pixel_mask: True for image tokens, which are at the top left.
        window: Side of a window in tokens.
        shift: Shift of the whole batch.
        always: Whether to shift along a side that one window spans, too.
    """
    if always:
        return torch.tensor(shift, device=pixel_mask.device).expand(len(pixel_mask), -1)
    rows, columns = pixel_mask[:, :, 0].sum(1), pixel_mask[:, 0].sum(1)
    return torch.stack([(rows > window) * shift[0], (columns > window) * shift[1]], dim=1)


def batched_roll(x: Float[Tensor, "B h w C"], shifts: Int[Tensor, "B 2"]) -> Float[Tensor, "B h w C"]:
    """Roll each map of a batch by its own numbers of rows and columns."""
    (count, h, w), device = x.shape[:3], x.device
    rows = (torch.arange(h, device=device) - shifts[:, :1]) % h
    columns = (torch.arange(w, device=device) - shifts[:, 1:]) % w
    return x[torch.arange(count, device=device)[:, None, None], rows[:, :, None], columns[:, None]]


def per_image_mask(
    pixel_mask: Bool[Tensor, "B h w"], window: int, shifts: Int[Tensor, "B 2"]
) -> Bool[Tensor, "windows n n"]:
    """Make the mask of `make_mask` for each image of a padded batch.

    Args:
        pixel_mask: True for image tokens, which are at the top left; False for padding.
        window: Side of a window in tokens.
        shifts: Rows and columns by which each image is shifted.
    """
    h, w = pixel_mask.shape[1:]
    x, y = grid_positions(h, w, device=pixel_mask.device).unflatten(0, (1, h, w)).unbind(-1)
    down, right = shifts[:, :, None, None].unbind(1)
    known = torch.stack([region(x, right, window), region(y, down, window), pixel_mask.float()], dim=-1)
    known = pad_or_crop(known, ceil_div(h, window) * window, ceil_div(w, window) * window)
    return _same_region(window_partition(batched_roll(known, -shifts), window, (0, 0)))


def cached_mask(
    h: int, w: int, window: int, shift: tuple[int, int], device: torch.device, mode: object = None
) -> Bool[Tensor, "windows n n"]:
    """Return a mask, kept for later calls together with other recent ones of at most MASK_BYTES.

    Args:
        h: Rows of the map.
        w: Columns of the map.
        window: Side of a window in tokens.
        shift: Rows and columns that wrap around to the other side.
        device: Device of the mask.
        mode: The active FakeTensorMode, if any: its tensors cannot be used outside of it.
    """
    key = h, w, window, shift, device, mode
    with _lock:
        if key in _masks:
            _masks.move_to_end(key)
            return _masks[key]
    with torch.inference_mode(False):  # training may reuse it
        mask = make_mask(h, w, window, shift, device)
    if mask.nbytes <= MASK_BYTES:
        with _lock:
            _masks[key] = mask
            while sum(kept.nbytes for kept in _masks.values()) > MASK_BYTES:
                _masks.popitem(last=False)
    return mask


def clear_masks() -> None:
    """Remove all masks from the cache."""
    with _lock:
        _masks.clear()


def _is_captured(device: torch.device) -> bool:
    """Return whether a CUDA graph is being captured, whose memory must not be used after it."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def window_mask(
    h: int, w: int, window: int, shift: tuple[int, int], device: torch.device
) -> Bool[Tensor, "windows n n"] | None:
    """Return the mask of a map, or None if every token attends to its whole window.

    A graph traced for all sizes always has a mask, possibly all True.
    """
    conditions = shift[0] == 0, shift[1] == 0, h % window == 0, w % window == 0
    if all(_statically_known_true(condition) for condition in conditions):
        return None
    if torch.compiler.is_compiling() or under_transform() or _is_captured(device):
        return make_mask(h, w, window, shift, device)
    return cached_mask(h, w, window, shift, device, active_fake_mode())


def attention_bias(
    bias: Float[Tensor, "A n n"] | None, mask: Bool[Tensor, "windows n n"] | None, dtype: torch.dtype
) -> Tensor | None:
    """Combine bias and mask into the `attn_mask` of `attend`: (windows or 1, A or 1, n, n)."""
    if bias is None:
        return None if mask is None else mask.unsqueeze(1)
    bias = bias.to(dtype).unsqueeze(0)
    return bias if mask is None else bias.masked_fill(~mask.unsqueeze(1), float("-inf"))


def attend(
    q: Float[Tensor, "Bn A n D"], k: Float[Tensor, "Bn A n D"], v: Float[Tensor, "Bn A n D"], add: Tensor | None
) -> Float[Tensor, "Bn A n D"]:
    """Compute attention; a mask per window is folded into the heads axis, so that it is not repeated for each image."""
    if add is None or _statically_known_true(add.shape[0] == 1):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=add)
    windows, heads = add.shape[0], q.shape[1]
    q, k, v = (x.unflatten(0, (-1, windows)).flatten(1, 2) for x in (q, k, v))
    x = F.scaled_dot_product_attention(q, k, v, attn_mask=add.expand(-1, heads, -1, -1).flatten(0, 1))
    return x.unflatten(1, (windows, heads)).flatten(0, 1)
