"""Window attention of a Swin, with relative position bias or distance bias."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ropevit.arithmetic import ceil_div
from ropevit.kernels.window_attention import chooses_kernel, window_attention
from ropevit.kernels.windows import (
    attend,
    attention_bias,
    batched_roll,
    pad_or_crop,
    per_image_mask,
    per_image_shifts,
    window_mask,
    window_partition,
    window_reverse,
)
from ropevit.models.layers import layer_frequencies, project, resize_embedding, scale_queries
from ropevit.rope import DistanceBias, LearnedRope, grid_positions
from ropevit.rope.scaling import Scaling


class WindowAttention(nn.Module):
    """Window self-attention with RoPE, relative position bias, both or neither.

    Args:
        width: Channels.
        heads: Number of heads, A.
        window: Side of a window in tokens.
        rope: The block's own learned frequencies, if any.
        bias: Whether to add a learned relative position bias.

    Source: Liu et al. 2021 (arXiv:2103.14030), Eq. 4; Heo et al. 2024 (arXiv:2403.13298).
    """

    backend = "auto"
    """Backend; "auto" and "cpu" are one fused C kernel on a CPU where it supports the layer, else that of the rotation;
    "triton" is one fused kernel. `ropevit.kernels.set_backend` changes it."""

    scaling: Scaling | None = None
    """RoPE scaling for windows larger than the trained ones; `ropevit.models.set_scaling` changes it."""

    always_shift = False
    """Whether to shift windows also along a side that one window covers, as in the published detectors."""

    attends_to_padding = False
    """Whether the zero padding of partial windows is attended to instead of masked."""

    def __init__(self, width: int, heads: int, window: int, rope: LearnedRope | None = None, bias: bool = False):
        super().__init__()
        self.heads = heads
        self.window = window
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.rope = rope
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads)) if bias else None
        self.distance: DistanceBias | None = None
        """Adds a bias by distance to the attention logits; set by the model."""

    def forward(
        self,
        x: Float[Tensor, "B h w C"],
        frequencies: Float[Tensor, "2 *a P"] | None,
        shift: tuple[int, int],
        pixel_mask: Bool[Tensor, "B h w"] | None = None,
        jitter: Float[Tensor, "2 2"] | None = None,
    ) -> Float[Tensor, "B h w C"]:
        """Attend inside each window of a map.

        Args:
            x: Map of tokens, of any size.
            frequencies: Frequencies that blocks share (axial); learned ones are the layer's own.
            shift: Rows and columns by which the windows are shifted.
            pixel_mask: Mask of image tokens, with smaller images at the top left of the map; the others are masked, so
                each image attends as it does alone. None if all are image.
            jitter: Coordinate jitter of the training step, if any.

        Raises:
            ValueError: If `pixel_mask` is given to the Triton kernel, which has no per-image masks.
        """
        frequencies, attention_factor = self.apply_scaling(frequencies, jitter, x.device)
        if pixel_mask is not None:
            return self.attend_padded(x, frequencies, attention_factor, shift, pixel_mask)
        if not self.attends_to_padding:
            return self.attend(x, frequencies, attention_factor, shift)
        h, w = x.shape[1:3]
        rows, columns = ceil_div(h, self.window), ceil_div(w, self.window)
        whole = pad_or_crop(x, rows * self.window, columns * self.window)
        return pad_or_crop(self.attend(whole, frequencies, attention_factor, shift), h, w)

    def apply_scaling(
        self,
        frequencies: Float[Tensor, "2 *a P"] | None,
        jitter: Float[Tensor, "2 2"] | None,
        device: torch.device,
    ) -> tuple[Float[Tensor, "2 *a P"] | None, Float[Tensor, ""] | None]:
        """Return the frequencies of this layer and the factor on its attention logits, with RoPE scaling applied.

        Position shifts of a scaling method are ignored: windows contain only patches, and scores depend on differences.
        """
        frequencies = layer_frequencies(self.rope, frequencies)
        if self.scaling is None or frequencies is None:
            return frequencies, None
        _, frequencies, attention_factor = self.scaling(
            grid_positions(self.window, self.window, device=device), frequencies, jitter
        )
        return frequencies, attention_factor

    def attend(
        self,
        x: Float[Tensor, "B h w C"],
        frequencies: Float[Tensor, "2 *a P"] | None,
        attention_factor: Float[Tensor, ""] | None,
        shift: tuple[int, int],
    ) -> Float[Tensor, "B h w C"]:
        """Attend inside windows, with padding masked."""
        bias = self.bias(x.device)
        if self.backend == "triton" or self.takes_kernel(x, frequencies):
            qkv = scale_queries(self.qkv(x).unflatten(-1, (3, self.heads, -1)), attention_factor)
            return self.proj(
                window_attention(qkv, self.window, shift, frequencies, bias, backend=self.backend).flatten(3)
            )
        (h, w), window = x.shape[1:3], self.window
        windows, mask = window_partition(x, window, shift), window_mask(h, w, window, shift, x.device)
        return window_reverse(
            self.attend_windows(windows, frequencies, attention_factor, bias, mask), h, w, window, shift
        )

    def takes_kernel(self, x: Float[Tensor, "B h w C"], frequencies: Float[Tensor, "2 *a P"] | None) -> bool:
        """Return whether the fused C kernel computes attention: backend "auto" or "cpu", and it supports the layer."""
        if self.backend not in ("auto", "cpu") or x.device.type != "cpu":
            return False
        dtype = x.dtype
        if torch.is_autocast_enabled("cpu") and dtype != torch.float64:
            dtype = torch.get_autocast_dtype("cpu")
        exact = frequencies is not None and frequencies.dtype == torch.float64
        return chooses_kernel(x.device, dtype, self.window, x.shape[-1] // self.heads, exact=exact)

    def attend_padded(
        self,
        x: Float[Tensor, "B h w C"],
        frequencies: Float[Tensor, "2 *a P"] | None,
        attention_factor: Float[Tensor, ""] | None,
        shift: tuple[int, int],
        pixel_mask: Bool[Tensor, "B h w"],
    ) -> Float[Tensor, "B h w C"]:
        """Attend inside windows of images of different sizes."""
        if self.backend == "triton":
            raise ValueError("the Triton kernel cannot mask the padding of images in a batch; choose backend='auto'")
        (h, w), window = x.shape[1:3], self.window
        rows, columns = ceil_div(h, window) * window, ceil_div(w, window) * window
        shifts = per_image_shifts(pixel_mask, window, shift, always=self.always_shift)
        mask = per_image_mask(pixel_mask, window, shifts)
        windows = window_partition(batched_roll(pad_or_crop(x, rows, columns), -shifts), window, (0, 0))
        windows = self.attend_windows(windows, frequencies, attention_factor, self.bias(x.device), mask)
        return pad_or_crop(batched_roll(window_reverse(windows, rows, columns, window, (0, 0)), shifts), h, w)

    def bias(self, device: torch.device) -> Float[Tensor, "A n n"] | None:
        """Return the bias of every pair of tokens in a window, if any."""
        if self.distance is not None:
            return self.distance(grid_positions(self.window, self.window, device=device))[0]
        table = self.relative_position_bias_table
        return None if table is None else relative_bias(table, self.window)

    def attend_windows(
        self,
        windows: Float[Tensor, "Bn n C"],
        frequencies: Float[Tensor, "2 *a P"] | None,
        attention_factor: Float[Tensor, ""] | None,
        bias: Float[Tensor, "A n n"] | None,
        mask: Bool[Tensor, "windows n n"] | None,
    ) -> Float[Tensor, "Bn n C"]:
        """Attend inside windows with unfused operations."""
        positions = grid_positions(self.window, self.window, device=windows.device)
        how = {"backend": self.backend, "attention_factor": attention_factor}
        q, k, v = project(self.qkv, windows, self.heads, positions, frequencies, **how)
        return self.proj(attend(q, k, v, attention_bias(bias, mask, q.dtype)).transpose(1, 2).flatten(2))


def relative_index(window: int, device: torch.device | str | None = None) -> Int[Tensor, "n n"]:
    """Return the table index of the relative position (query minus key) of every pair of tokens, rows first."""
    positions = grid_positions(window, window, device=device).long()
    offsets = positions[:, None] - positions[None] + window - 1
    return offsets[..., 1] * (2 * window - 1) + offsets[..., 0]


def relative_bias(table: Float[Tensor, "relative A"], window: int) -> Float[Tensor, "A n n"]:
    """Return the bias of every pair of tokens in a window.

    Args:
        table: One row for each relative position (query minus key), rows first, from -(window - 1) to window - 1.
        window: Side of the window.
    """
    return table[relative_index(window, table.device)].permute(2, 0, 1)


def resize_bias(table: Float[Tensor, "relative A"], window: int) -> Float[Tensor, "wanted A"]:
    """Resize a bias table to another window, as the published models do: bicubic, no antialiasing.

    Args:
        table: Bias table of any window: one row for each relative position (query minus key), rows first.
        window: Side of the target window.
    """
    side, wanted = math.isqrt(table.shape[0]), 2 * window - 1
    return resize_embedding(table.unsqueeze(0), (side, side), wanted, wanted).squeeze(0)
