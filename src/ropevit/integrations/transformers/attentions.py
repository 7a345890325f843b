"""Attention weights as transformers' models return them: attention written out, in place of the fused one."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ropevit.kernels.window_attention import without_fusion
from ropevit.models import Config, SwinConfig, ViTConfig


class EagerAttention(TorchFunctionMode):
    """Computes `scaled_dot_product_attention` by matrix products and keeps the weights of each call, with gradients.

    Args:
        heads: Number of heads, A, of each block in turn; later calls, such as attention pooling, stay fused.
    """

    def __init__(self, heads: Sequence[int]):
        super().__init__()
        self.heads = heads
        self.weights: list[Float[Tensor, "R A n n"]] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention and len(self.weights) < len(self.heads):
            return self.attend(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def attend(
        self,
        q: Float[Tensor, "B Ah n D"],
        k: Float[Tensor, "B Ah n D"],
        v: Float[Tensor, "B Ah n d"],
        attn_mask: Tensor | None = None,
        scale: float | None = None,
    ) -> Float[Tensor, "B Ah n d"]:
        """Attend, and keep the weights by row: an image of a ViT, a window of a Swin."""
        heads = self.heads[len(self.weights)]
        scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
        weights = scores.softmax(-1, torch.float32).to(v.dtype).unflatten(1, (-1, heads)).flatten(0, 1)
        self.weights.append(weights)
        return weights.reshape(scores.shape) @ v


@contextmanager
def collect_attentions(config: Config, wanted: bool) -> Iterator[Callable[[], tuple[Tensor, ...] | None]]:
    """Collect the attention weights of a model while the context is active, if they are wanted.

    Args:
        config: Config of the model.
        wanted: Whether to collect.

    Yields:
        A function that returns the weights of each block of a ViT, (B, A, n, n), or of the last block of each stage of
        a Swin, (B * windows, A, n, n); None if they are not wanted.
    """
    if not wanted:
        yield lambda: None
        return
    if isinstance(config, SwinConfig):
        heads = [count for depth, count in zip(config.depths, config.heads, strict=True) for _ in range(depth)]
        last = [end - 1 for end in accumulate(config.depths)]
    else:
        assert isinstance(config, ViTConfig)
        heads, last = [config.heads] * config.depth, range(config.depth)
    with without_fusion(), EagerAttention(heads) as attention:
        yield lambda: tuple(attention.weights[index] for index in last if index < len(attention.weights))
