"""What attention layers compute with, seen from outside: queries, keys, values and masks as they reach the softmax."""

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

from ropevit.models.layers import Attention
from ropevit.models.windows import WindowAttention

#: Scores that are held at once, unless those of a single row are more: 64 MiB in float32.
MAX_SCORES = 2**24


@dataclass(frozen=True, kw_only=True)
class AttentionCall:
    """One attention layer at work on one batch; everything is as the model itself has it at its softmax.

    A row is what attends together: an image of a ViT, a window of a Swin (the windows of the first image come first).
    """

    name: str
    """Path of the layer in the model."""
    layer: Attention | WindowAttention
    """The layer."""
    inputs: dict[str, Any]
    """What its `forward` was given, by name."""
    q: Float[Tensor, "R A n D"]
    """Queries, turned."""
    k: Float[Tensor, "R A n D"]
    """Keys, turned."""
    v: Float[Tensor, "R A n D"]
    """Values."""
    attn_mask: Tensor | None
    """Mask or bias (M, A or 1, n, n), which row r takes from its place r % M."""

    def scores(self, rows: Int[Tensor, "r"], queries: Int[Tensor, "m"]) -> Float[Tensor, "r A m n"]:
        """Compute what goes into the softmax, in float32.

        Args:
            rows: Which rows.
            queries: Which tokens of each row look; all tokens are looked at.
        """
        q, k = self.q[rows][:, :, queries].float(), self.k[rows].float()
        scores = q @ k.transpose(-1, -2) / self.q.shape[-1] ** 0.5
        if self.attn_mask is None:
            return scores
        add = self.attn_mask[rows % len(self.attn_mask)][:, :, queries]
        return scores.masked_fill(~add, float("-inf")) if add.dtype == torch.bool else scores + add.float()

    def masked(self, rows: Int[Tensor, "r"], queries: Int[Tensor, "m"]) -> Bool[Tensor, "r 1 m n"]:
        """Tell which tokens the queries may not see."""
        if self.attn_mask is None:
            return torch.zeros(len(rows), 1, len(queries), self.q.shape[2], dtype=torch.bool, device=self.q.device)
        add = self.attn_mask[rows % len(self.attn_mask), :1][:, :, queries]
        return ~add if add.dtype == torch.bool else add.isneginf()

    def row_chunks(self, queries: int) -> Iterator[Int[Tensor, "r"]]:
        """Give the numbers of all rows, in portions whose scores for so many queries fit into little memory."""
        count, heads, tokens = self.q.shape[:3]
        yield from torch.arange(count, device=self.q.device).split(max(MAX_SCORES // (heads * queries * tokens), 1))


@contextmanager
def capture_attention(model: nn.Module, callback: Callable[[AttentionCall], None]) -> Iterator[None]:
    """Show each attention layer at work to `look`, in every forward pass inside the `with`.

    The model runs as ever: its fused attention is called as before, with nothing changed, and what it is called with is
    passed on. So rotations, rules for larger grids, biases, shifted windows and masks are the model's own.

    >>> with watching(model, lambda seen: print(seen.name, seen.q.shape)), torch.no_grad():
    ...     model(images)

    Args:
        model: A model of this package, or one that holds some.
        look: Called once for each layer and batch, in the order of the layers.

    Raises:
        ValueError: If a layer computes its attention by a kernel of its own, which shows no scores.
    """
    watch = AttentionCapture(callback)
    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if isinstance(module, Attention | WindowAttention):
                before = module.register_forward_pre_hook(partial(watch.enter, name), with_kwargs=True)
                hooks.callback(before.remove)
                hooks.callback(module.register_forward_hook(watch.leave).remove)
        with watch:
            yield


class AttentionCapture(TorchFunctionMode):
    """Passes on what fused attention is called with, together with the layer that calls it.

    Args:
        look: Called with what was seen.
    """

    def __init__(self, look: Callable[[AttentionCall], None]):
        super().__init__()
        self.callback = look
        self.current: dict[str, Any] | None = None

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and self.current is not None:
            self.record(*args, **kwargs)
        return func(*args, **kwargs)

    def enter(self, name: str, layer: Attention | WindowAttention, args: tuple, kwargs: dict) -> None:
        """Note which layer begins."""
        bound = inspect.signature(layer.forward).bind(*args, **kwargs)
        bound.apply_defaults()
        self.current = {"name": name, "layer": layer, "inputs": bound.arguments}

    def leave(self, layer: nn.Module, *_: object) -> None:
        """Note that it is done; what it computed with must have been seen by then."""
        if self.current is not None:
            name, self.current = self.current["name"], None
            raise ValueError(
                f"the attention of {name} is computed by a kernel of its own (backend={layer.backend!r}), which shows "
                "no scores; call ropevit.kernels.set_backend(model, 'auto') first"
            )

    def record(self, q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None) -> None:
        """Bring what a layer computes with to one form, and pass it on."""
        assert self.current is not None
        calling, self.current = self.current, None
        heads = calling["layer"].heads
        q, k, v = (x.detach().unflatten(1, (-1, heads)).flatten(0, 1) for x in (q, k, v))
        if attn_mask is not None and attn_mask.ndim == 3:  # windows beside heads, the same for each image
            attn_mask = attn_mask.unflatten(0, (-1, heads))
        self.callback(
            AttentionCall(**calling, q=q, k=k, v=v, attn_mask=None if attn_mask is None else attn_mask.detach())
        )
