"""Capture the queries, keys, values and masks of attention layers, as they reach the softmax."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ropevit.kernels.window_attention import without_fusion
from ropevit.models.layers import Attention
from ropevit.models.swin.attention import WindowAttention

#: Attention scores held in memory at once (64 MiB in float32); a single row may have more.
MAX_SCORES = 2**24


@dataclass(frozen=True, kw_only=True)
class AttentionCall:
    """Inputs of one call of scaled dot-product attention, exactly as the model computes them.

    A row is a set of tokens that attend to each other: an image of a ViT, a window of a Swin (windows of the first
    image come first).
    """

    name: str
    """Path of the layer in the model."""
    layer: Attention | WindowAttention
    """The layer."""
    inputs: dict[str, Any]
    """Arguments of its `forward`, by name."""
    q: Float[Tensor, "R A n D"]
    """Queries, rotated."""
    k: Float[Tensor, "R A n D"]
    """Keys, rotated."""
    v: Float[Tensor, "R A n D"]
    """Values."""
    attn_mask: Tensor | None
    """Boolean mask or additive bias (M, A or 1, n, n); row r uses entry r % M."""
    scale: float | None = None
    """Factor on the products of queries and keys; None for 1 / sqrt(D)."""

    def scores(self, rows: Int[Tensor, "r"], queries: Int[Tensor, "m"]) -> Float[Tensor, "r A m n"]:
        """Compute the attention logits in float32.

        Args:
            rows: Indices of the rows.
            queries: Indices of the query tokens in each row; the keys are all tokens.
        """
        q, k = self.q[rows][:, :, queries].float(), self.k[rows].float()
        scores = q @ k.transpose(-1, -2) * (self.scale or self.q.shape[-1] ** -0.5)
        if self.attn_mask is None:
            return scores
        add = self.attn_mask[rows % len(self.attn_mask)][:, :, queries]
        return scores.masked_fill(~add, float("-inf")) if add.dtype == torch.bool else scores + add.float()

    def masked(self, rows: Int[Tensor, "r"], queries: Int[Tensor, "m"]) -> Bool[Tensor, "r 1 m n"]:
        """Return True for keys that are masked for a query."""
        if self.attn_mask is None:
            return torch.zeros(len(rows), 1, len(queries), self.q.shape[2], dtype=torch.bool, device=self.q.device)
        add = self.attn_mask[rows % len(self.attn_mask), :1][:, :, queries]
        return ~add if add.dtype == torch.bool else add.isneginf()

    def row_chunks(self, queries: int) -> Iterator[Int[Tensor, "r"]]:
        """Split the indices of all rows into chunks whose scores for this many queries stay below `MAX_SCORES`."""
        count, heads, tokens = self.q.shape[:3]
        yield from torch.arange(count, device=self.q.device).split(max(MAX_SCORES // (heads * queries * tokens), 1))


@contextmanager
def capture_attention(model: nn.Module, callback: Callable[[AttentionCall], None]) -> Iterator[None]:
    """Pass the inputs of every attention call to `callback` while the context is active.

    The model computes exactly as without it: PyTorch's fused attention is still called, with the same arguments.
    Rotation, RoPE scaling, biases, shifted windows and masks are therefore the model's own. A Swin on a CPU, which else
    takes a C kernel, computes attention by PyTorch's while the context is active: the same up to rounding.

    >>> with capture_attention(model, lambda call: print(call.name, call.q.shape)), torch.no_grad():
    ...     model(images)

    Args:
        model: A model of this package, or a module that contains one.
        callback: Called once per layer and batch, in the order of the layers.

    Raises:
        ValueError: If a layer uses a fused kernel of its own, whose scores cannot be captured.
    """
    watch = AttentionCapture(callback)
    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if isinstance(module, Attention | WindowAttention):
                before = module.register_forward_pre_hook(partial(watch.enter, name), with_kwargs=True)
                hooks.callback(before.remove)
                hooks.callback(module.register_forward_hook(watch.leave).remove)
        hooks.enter_context(without_fusion())
        with watch:
            yield


class AttentionCapture(TorchFunctionMode):
    """Intercepts `scaled_dot_product_attention` and reports its arguments together with the calling layer.

    Args:
        callback: Called with each `AttentionCall`.
    """

    def __init__(self, callback: Callable[[AttentionCall], None]):
        super().__init__()
        self.callback = callback
        self.current: dict[str, Any] | None = None

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and self.current is not None:
            self.record(*args, **kwargs)
        return func(*args, **kwargs)

    def enter(self, name: str, layer: Attention | WindowAttention, args: tuple, kwargs: dict) -> None:
        """Remember the layer whose forward pass starts."""
        bound = inspect.signature(layer.forward).bind(*args, **kwargs)
        bound.apply_defaults()
        self.current = {"name": name, "layer": layer, "inputs": bound.arguments}

    def leave(self, layer: nn.Module, *_: object) -> None:
        """Check, at the end of a layer's forward pass, that its attention was captured."""
        if self.current is not None:
            name, self.current = self.current["name"], None
            raise ValueError(
                f"cannot capture the attention of {name}: backend={layer.backend!r} computes it in a fused kernel; "
                "call ropevit.kernels.set_backend(model, 'auto') first"
            )

    def record(
        self, q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, scale: float | None = None
    ) -> None:
        """Bring the arguments of an attention call to one layout and pass them to the callback."""
        assert self.current is not None
        calling, self.current = self.current, None
        heads = calling["layer"].heads
        q, k, v = (x.detach().unflatten(1, (-1, heads)).flatten(0, 1) for x in (q, k, v))
        if attn_mask is not None and attn_mask.ndim == 3:  # (windows * heads, n, n), the same for each image
            attn_mask = attn_mask.unflatten(0, (-1, heads))
        self.callback(
            AttentionCall(
                **calling, q=q, k=k, v=v, attn_mask=None if attn_mask is None else attn_mask.detach(), scale=scale
            )
        )
