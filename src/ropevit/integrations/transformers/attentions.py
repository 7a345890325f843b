"""Attention weights as transformers' models return them, computed beside the fused attention of ours."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from ropevit.models import Model
from ropevit.models.capture import AttentionCall, capture_attention

#: Weights by layer; those of a Swin by stage, of its last block.
Attentions = dict[str, Float[Tensor, "R A n n"]]


def weights_of(call: AttentionCall) -> Float[Tensor, "R A n n"]:
    """Return the attention weights of a call, in the dtype of its queries."""
    everything = (torch.arange(count, device=call.q.device) for count in (call.q.shape[0], call.q.shape[2]))
    return call.scores(*everything).softmax(-1).to(call.q.dtype)


@contextmanager
def collect_attentions(model: Model, wanted: bool) -> Iterator[Attentions]:
    """Collect the attention weights of a model while the context is active, if they are wanted.

    The model computes exactly as without; the weights are computed once more beside it and have no gradients.
    """
    found: Attentions = {}

    def add(call: AttentionCall) -> None:
        found[call.name.rpartition(".blocks.")[0] or call.name] = weights_of(call)

    if not wanted:
        yield found
        return
    with capture_attention(model, add):
        yield found
